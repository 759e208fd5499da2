//! The program that starts confined programs: a small one beside this program, or this program itself.

use crate::exec::SOURCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The name of the small program.
pub const NAME: &str = "hoistway-launcher";
/// The first argument with which it prints the sources that it is made of, a line each, and ends.
pub const SOURCES: &str = "--sources";
/// This program. Not the path of the executable: that may hold another program after an upgrade.
pub const OWN: &str = "/proc/self/exe";
/// The time in which it says what it is made of; it takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);
/// The mode bits of those who may write besides the owner.
const OTHERS_WRITE: u32 = 0o022;

/// The program to start processes with, for as long as this process lives: in place of this program the small one, if that
/// is of the same build. It begins sooner and takes less memory. `sources` are those that it must have been made of,
/// besides this crate's. Blocks for a few milliseconds.
pub fn chosen(launcher: PathBuf, sources: &[&str]) -> PathBuf {
    if launcher.as_os_str() != OWN {
        return launcher;
    }
    match small(sources) {
        Ok(small) => return small,
        Err(error) if error.kind() == ErrorKind::NotFound => tracing::debug!("there is no {NAME} beside this program"),
        Err(error) => tracing::warn!("{NAME} beside this program is not used, agents take more memory: {error}"),
    }
    launcher
}

fn small(sources: &[&str]) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(NAME);
    // Without NONBLOCK it would wait for the writer of a pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !is_as_safe(&file.metadata()?, &std::fs::metadata(OWN)?) {
        return Err(Error::other("others may write it than may write this program"));
    }
    // It stays the same program after an upgrade. The child has its own /proc/self, and the same file until it executes it.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let made_of = made_of(&path)?;
    let is_made_of = |source: &&str| made_of.lines().any(|line| line == *source);
    if !sources.iter().chain([&SOURCE]).all(is_made_of) {
        return Err(Error::other("it is of another build"));
    }
    // As long as this process.
    std::mem::forget(file);
    Ok(path)
}

/// What a launcher says that it is made of.
fn made_of(launcher: &Path) -> Result<String> {
    let mut command = Command::new(launcher);
    command.arg(SOURCES).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let process = Pid::from_child(&child);
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Timespec::try_from(LIMIT).ok().as_ref())?;
    if ended == 0 {
        child.kill()?;
    }
    // What it printed, which is less than the pipe takes.
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether nobody may exchange the content of a file who may not do that to `own`.
fn is_as_safe(file: &Metadata, own: &Metadata) -> bool {
    let writers = |meta: &Metadata| meta.mode() & OTHERS_WRITE;
    let has_writers_of_own = writers(file) & !writers(own) == 0 && (file.gid() == own.gid() || writers(file) == 0);
    file.is_file() && (file.uid() == own.uid() || file.uid() == 0) && has_writers_of_own
}
