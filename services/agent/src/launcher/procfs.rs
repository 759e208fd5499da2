//! The little that is needed of `/proc`: who is whose child, and who is who. A pid alone is no identity, since the
//! kernel uses it again; pid, start time and boot id together are.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Error, Result};
use std::os::fd::OwnedFd;

/// One process, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn now(pid: i32) -> Option<Self> {
        Some(Self { pid, start_time: stat(pid)?.start_time })
    }

    /// Whether exactly this process still exists and is not merely waiting to be reaped.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|s| s.start_time == self.start_time && !s.is_dead())
    }
}

/// The fields of `/proc/PID/stat`.
pub(crate) struct Stat {
    pub pid: i32,
    pub state: char,
    pub parent: i32,
    pub start_time: u64,
}

impl Stat {
    /// A zombie: no signal reaches it any more.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The state of one process; `None` when there is none.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(bytes: &[u8]) -> Option<Stat> {
    let text = String::from_utf8_lossy(bytes);
    // The name in parentheses is the process's own choice and may hold anything: `)`, spaces, newlines.
    let (head, tail) = text.rsplit_once(')')?;
    let mut fields = tail.split_ascii_whitespace();
    Some(Stat {
        pid: head.split_once(' ')?.0.parse().ok()?,
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        // Fields 3 and 4 are taken; the start time is field 22.
        start_time: fields.nth(17)?.parse().ok()?,
    })
}

/// Every process of this machine (or PID namespace).
pub(crate) fn all() -> Result<Vec<Stat>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(stat).collect())
}

/// A namespace of this process, by its name in `/proc`.
pub(crate) fn own_namespace(name: &str) -> Result<OwnedFd> {
    Ok(fs::File::open(format!("/proc/self/ns/{name}"))?.into())
}

/// Which boot of the machine this is.
pub(crate) fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    match text.trim() {
        "" => Err(Error::other("the kernel gives no boot id")),
        id => Ok(id.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_cannot_forge_fields() {
        let line = b"42 (a) S 1 2) \n) R 7 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 987654 1 1\n";
        let s = parse(line).unwrap();
        assert_eq!((s.pid, s.state, s.parent, s.start_time), (42, 'R', 7, 987_654));
    }

    #[test]
    fn a_process_is_more_than_its_pid() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = Process::now(pid).unwrap();
        assert!(me.is_alive());
        assert!(!Process { start_time: me.start_time + 1, ..me }.is_alive());
        assert!(all().unwrap().iter().any(|s| s.pid == pid));
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
