//! Checks that a process which was forked from a warm parent is confined like any other agent, as the kernel sees it: the
//! packages that it has imported could have changed everything that it does.

use super::OOM_SCORE;
use super::procfs::Process;
use hoistway_confine::RunAs;
use rustix::fs::fstat;
use rustix::process::Pid;
use std::fs;
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// The filters of a warm parent and the one that an agent adds.
const FILTERS: u32 = 3;

/// Checks the first process of an agent's PID namespace, which is to be in these namespaces, and returns its identity.
pub(super) fn check(pid: Pid, user: Option<RunAs>, namespaces: &[(&str, OwnedFd)]) -> Result<Process> {
    let number = Pid::as_raw(Some(pid));
    let identity = Process::now(number).ok_or_else(|| Error::other("the forked process has ended"))?;
    let process = Status::of(&number.to_string())?;
    let own = Status::of("self")?;
    let no_capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .iter()
        .all(|set| process.field(set).iter().all(|bits| bits.bytes().all(|digit| digit == b'0')));
    let all = |name: &str, id: u32| process.field(name).iter().all(|own| own.parse() == Ok(id));
    let is_user =
        user.is_none_or(|user| all("Uid", user.uid) && all("Gid", user.gid) && process.field("Groups").is_empty());
    // Kernels before 5.9 do not count them.
    let filters =
        own.number("Seccomp_filters").is_none_or(|own| process.number("Seccomp_filters") == Some(own + FILTERS));
    // Its numbers in the namespace of this process, in that of the warm parent, and in its own.
    let numbers = process.field("NSpid");
    let is_first = numbers.last() == Some(&"1") && numbers.len() == own.field("NSpid").len() + 2;
    let joined = namespaces.iter().all(|(name, namespace)| is_in(number, name, namespace));
    // Inherited from the warm parent.
    let oom_score = fs::read_to_string(format!("/proc/{number}/oom_score_adj"))?;
    let rows = [
        (no_capabilities, "capabilities"),
        (is_user, "another user"),
        (process.field("NoNewPrivs") == ["1"], "the right to gain privileges"),
        (process.field("Seccomp") == ["2"] && filters, "other system call filters"),
        (process.field("Threads") == ["1"], "threads"),
        (is_first, "other processes in sight"),
        (joined, "another namespace"),
        (oom_score.trim() == OOM_SCORE.to_string(), "another out-of-memory score"),
    ];
    match rows.iter().find(|(holds, _)| !holds) {
        Some((_, found)) => Err(Error::other(format!("the forked process is not confined: it has {found}"))),
        None => Ok(identity),
    }
}

/// Checks that a process is in the same PID namespace as another one.
pub(super) fn check_shares_namespace(pid: Pid, other: Pid) -> Result<()> {
    let of = |pid: Pid| fs::metadata(format!("/proc/{}/ns/pid", Pid::as_raw(Some(pid)))).map(|meta| meta.ino());
    match of(pid)? == of(other)? {
        true => Ok(()),
        false => Err(Error::other("the forked process is in another PID namespace")),
    }
}

fn is_in(pid: i32, name: &str, namespace: &OwnedFd) -> bool {
    let process = fs::metadata(format!("/proc/{pid}/ns/{name}"));
    process.is_ok_and(|process| fstat(namespace).is_ok_and(|wanted| process.ino() == wanted.st_ino))
}

/// `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(process: &str) -> Result<Self> {
        fs::read_to_string(format!("/proc/{process}/status")).map(Self)
    }

    fn field(&self, name: &str) -> Vec<&str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect()
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.field(name).first()?.parse().ok()
    }
}
