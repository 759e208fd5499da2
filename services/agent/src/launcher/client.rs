//! The supervisor's side: starting a launcher.

use super::INIT;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Starts a launcher that waits for its order on the returned socket, and ends when that closes. `configure` may add to
/// the command.
pub(crate) fn spawn(launcher: &Path, configure: impl FnOnce(&mut Command)) -> Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(launcher);
    command
        .arg(INIT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    configure(&mut command);
    Ok((command.spawn()?, ours))
}
