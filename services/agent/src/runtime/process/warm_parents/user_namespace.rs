//! The user namespaces of a warm parent.

use crate::launcher::USERS;
use hoistway_confine::namespaces::map_users_of;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The time that a process may take to make them, which takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The user namespace to which the namespaces of forked agents belong, and in which the warm parent has the right to join
/// them.
pub(super) struct Users {
    inner: OwnedFd,
    /// The one around it, which belongs to this program where that is an ordinary user: there it has the right to make
    /// namespaces, and the mounts that it makes are out of the warm parent's reach.
    outer: Option<OwnedFd>,
}

impl Users {
    /// Makes them, with these users of the machine or with that of this program alone.
    pub async fn make(launcher: &Path, users: Option<[(u32, u32); 2]>) -> Result<Self> {
        let mut command = Command::new(launcher);
        command.arg(USERS).args(users.is_none().then_some("own")).env_clear().current_dir("/").kill_on_drop(true);
        let mut inside = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let made = timeout(LIMIT, Self::open(&mut inside, users)).await;
        let made = match made.unwrap_or_else(|_| Err(Error::other("it takes too long"))) {
            Ok(made) => made,
            Err(reason) => {
                let _ = inside.start_kill();
                let output = inside.wait_with_output().await?;
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(Error::other(format!("no user namespace: {reason}: {}", said.trim())));
            }
        };
        drop(inside.stdin.take());
        inside.wait().await?;
        Ok(made)
    }

    async fn open(inside: &mut Child, users: Option<[(u32, u32); 2]>) -> Result<Self> {
        let ended = || Error::other("it ended at once");
        let pid = inside.id().ok_or_else(ended)?;
        let (input, output) = inside.stdin.as_mut().zip(inside.stdout.as_mut()).ok_or_else(ended)?;
        output.read_u8().await?;
        let opened = opened(pid, users).await?;
        if users.is_some() {
            return Ok(Self { inner: opened, outer: None });
        }
        input.write_all(b"\n").await?;
        output.read_u8().await?;
        Ok(Self { inner: self::opened(pid, None).await?, outer: Some(opened) })
    }

    /// The descriptors for a launcher.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.inner].into_iter().chain(&self.outer).map(AsFd::as_fd)
    }
}

/// Opens the user namespace of a process, which gets these users.
async fn opened(pid: u32, users: Option<[(u32, u32); 2]>) -> Result<OwnedFd> {
    let opened = tokio::task::spawn_blocking(move || {
        users.iter().try_for_each(|users| map_users_of(pid, users))?;
        File::open(format!("/proc/{pid}/ns/user"))
    });
    Ok(opened.await.map_err(Error::other)??.into())
}
