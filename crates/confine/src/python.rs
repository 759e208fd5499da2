//! The Python interpreters of this machine, and questions to them.

use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// The oldest `major.minor` that agents can have.
pub const OLDEST: (u32, u32) = (3, 10);

/// The time that an interpreter may take to answer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Runs a script that prints JSON. The error says in a few words why there is none.
pub async fn ask<T: DeserializeOwned>(python: &Path, options: &[&str], script: &str) -> Result<T, String> {
    let asked = Command::new(python).args(options).args(["-c", script]).kill_on_drop(true).output();
    let output = match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(output)) if output.status.success() => output.stdout,
        Ok(Ok(output)) => return Err(output.status.to_string()),
        Ok(Err(e)) => return Err(e.to_string()),
        Err(_) => return Err("it did not answer".to_owned()),
    };
    serde_json::from_slice(&output).map_err(|e| e.to_string())
}

/// The architecture in the terms of the OCI image index, of a machine's name in those of its kernel.
pub fn oci_architecture(machine: &str) -> Option<&'static str> {
    match machine {
        "x86_64" | "AMD64" | "amd64" => Some("amd64"),
        "aarch64" | "arm64" => Some("arm64"),
        _ => None,
    }
}
