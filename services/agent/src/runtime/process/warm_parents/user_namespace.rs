//! The user namespace of a warm parent.

use crate::launcher::USERS;
use hoistway_confine::namespaces::map_users_of;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// The time that a process may take to make it, which takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Makes a user namespace with these users of the machine, or with that of this program alone.
pub(super) async fn make(launcher: &Path, users: Option<[(u32, u32); 2]>) -> Result<OwnedFd> {
    let mut command = Command::new(launcher);
    command.arg(USERS).args(users.is_none().then_some("own")).env_clear().current_dir("/").kill_on_drop(true);
    let mut inside = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = inside.id().ok_or_else(|| Error::other("it ended at once"))?;
    let mut said = [0];
    let ready = async {
        match inside.stdout.take() {
            Some(mut out) => out.read_exact(&mut said).await.is_ok(),
            None => false,
        }
    };
    if !timeout(LIMIT, ready).await.unwrap_or(false) {
        let _ = inside.start_kill();
        let output = inside.wait_with_output().await?;
        return Err(Error::other(format!("no user namespace: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let opened = tokio::task::spawn_blocking(move || {
        users.iter().try_for_each(|users| map_users_of(pid, users))?;
        File::open(format!("/proc/{pid}/ns/user"))
    });
    let opened = opened.await.map_err(Error::other)??;
    drop(inside.stdin.take());
    inside.wait().await?;
    Ok(opened.into())
}
