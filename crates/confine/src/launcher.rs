//! The program that starts confined programs: a small one beside this program, or this program itself.

use crate::exec::SOURCE;
use std::fs::{File, Metadata};
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The name of the small program.
pub const NAME: &str = "hoistway-launcher";
/// The first argument with which it prints the sources that it is made of, a line each, and ends.
pub const SOURCES: &str = "--sources";
/// This program. Not the path of the executable: that may hold another program after an upgrade.
pub const OWN: &str = "/proc/self/exe";
/// The mode bits of those who may write besides the owner.
const OTHERS_WRITE: u32 = 0o022;

/// The program to start processes with, for as long as this process lives: in place of this program the small one, if that
/// is of the same build. It begins sooner and takes less memory. `sources` are those that it must have been made of,
/// besides this crate's. Blocks for a few milliseconds.
pub fn chosen(launcher: PathBuf, sources: &[&str]) -> PathBuf {
    if launcher.as_os_str() != OWN {
        return launcher;
    }
    small(sources).unwrap_or_else(|error| {
        tracing::debug!("{NAME} is not used: {error}");
        launcher
    })
}

fn small(sources: &[&str]) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(NAME);
    let file = File::open(path)?;
    if !is_as_safe(&file.metadata()?, &std::fs::metadata(OWN)?) {
        return Err(Error::other("others may write it than may write this program"));
    }
    // It stays the same program after an upgrade. The child has its own /proc/self, and the same file until it executes it.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let made_of = Command::new(&path).arg(SOURCES).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let made_of = String::from_utf8_lossy(&made_of.stdout);
    let is_made_of = |source: &&str| made_of.lines().any(|line| line == *source);
    if !sources.iter().chain([&SOURCE]).all(is_made_of) {
        return Err(Error::other("it is of another build"));
    }
    // As long as this process.
    std::mem::forget(file);
    Ok(path)
}

/// Whether nobody may exchange the content of a file who may not do that to `own`.
fn is_as_safe(file: &Metadata, own: &Metadata) -> bool {
    let writers = |meta: &Metadata| meta.mode() & OTHERS_WRITE;
    let has_writers_of_own = writers(file) & !writers(own) == 0 && (file.gid() == own.gid() || writers(file) == 0);
    file.is_file() && (file.uid() == own.uid() || file.uid() == 0) && has_writers_of_own
}
