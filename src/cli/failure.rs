//! What went wrong, for the person or the CI job in front of it: what happened, the proof, and what to do.

use serde_json::Value;
use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// The result of a command.
pub type Outcome<T> = Result<T, Failure>;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    message: String,
    details: Vec<String>,
    remedy: Option<String>,
    status: u8,
}

impl Failure {
    /// Something that failed; status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: Vec::new(), remedy: None, status: 1 }
    }

    /// A command line that cannot work; status 64.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: hoistway_kit::exit::USAGE, ..Self::new(message) }
    }

    /// With what to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// An error answer of the API.
    pub fn answered(status: u16, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| body[key].as_str().filter(|text| !text.is_empty());
        let message = text("error").map_or_else(|| format!("the API answered with status {status}"), str::to_owned);
        let details = body["details"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut failure = Self::new(message);
        failure.details = details.map(str::to_owned).collect();
        failure.remedy = match (status, text("request_id")) {
            (401, _) => Some("set RUNAGENTS_API_KEY, or name the key's file with --api-key-file".to_owned()),
            (500.., Some(id)) => Some(format!("the server's log has more under request id {id}")),
            _ => None,
        };
        failure
    }

    /// Says it on standard error.
    pub fn report(&self) -> ExitCode {
        // Nobody is left to tell when standard error is closed.
        let _ = write!(io::stderr(), "{self}");
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        for line in &self.details {
            writeln!(f, "  | {line}")?;
        }
        match &self.remedy {
            Some(remedy) => writeln!(f, "  -> {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_proof_and_remedy() {
        let body = br#"{"error":"build failed: no such package","code":"build_failed","request_id":"r-1","details":["a","b"]}"#;
        assert_eq!(
            Failure::answered(500, body).to_string(),
            "error: build failed: no such package\n  | a\n  | b\n  -> the server's log has more under request id r-1\n"
        );
        assert_eq!(Failure::answered(502, b"<html>").to_string(), "error: the API answered with status 502\n");
        assert!(Failure::answered(401, b"{}").to_string().contains("RUNAGENTS_API_KEY"));
    }
}
