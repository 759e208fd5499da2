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
use std::path::PathBuf;

/// The filters of a warm parent and the one that an agent adds.
const FILTERS: u32 = 3;

/// The PID namespaces of an agent that are not that of this process: the warm parent's and its own.
const NAMESPACES: usize = 2;

/// Whether a process is the first one of a PID namespace in that of a warm parent.
pub(super) fn is_first_of_namespace(pid: Pid) -> Result<bool> {
    let (process, own) = (Status::of(&pid.to_string())?, Status::of("self")?);
    Ok(process.is_first() && process.is_below(&own))
}

/// The confinement of an agent.
pub(super) struct Expected<'a> {
    pub user: Option<RunAs>,
    pub namespaces: &'a [(String, OwnedFd)],
    /// The `cgroup.procs` files of the agent's control groups.
    pub groups: &'a [PathBuf],
}

/// Processes of an agent.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// The first one of its PID namespace.
    First,
    /// The main one, in the PID namespace of this first one.
    Main(Pid),
}

impl Expected<'_> {
    /// Checks a process, and returns its identity.
    pub fn check(&self, pid: Pid, role: Role) -> Result<Process> {
        let number = Pid::as_raw(Some(pid));
        let identity = Process::now(number).ok_or_else(|| Error::other("the forked process has ended"))?;
        let process = Status::of(&number.to_string())?;
        let own = Status::of("self")?;
        let no_capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .iter()
            .all(|set| process.field(set).iter().all(|bits| bits.bytes().all(|digit| digit == b'0')));
        let all = |name: &str, id: u32| process.field(name).iter().all(|own| own.parse() == Ok(id));
        let is_user = self
            .user
            .is_none_or(|user| all("Uid", user.uid) && all("Gid", user.gid) && process.field("Groups").is_empty());
        // Kernels before 5.9 do not count them.
        let filters =
            own.number("Seccomp_filters").is_none_or(|own| process.number("Seccomp_filters") == Some(own + FILTERS));
        let (has_namespace, has_groups) = match role {
            Role::First => (process.is_first(), is_listed(pid, self.groups)?),
            Role::Main(first) => (pid_namespace(pid)? == pid_namespace(first)?, groups(pid)? == groups(first)?),
        };
        let is_alone = has_namespace && process.is_below(&own);
        let joined = self.namespaces.iter().all(|(name, namespace)| is_in(number, name, namespace));
        // Inherited from the warm parent.
        let oom_score = fs::read_to_string(format!("/proc/{number}/oom_score_adj"))?;
        let rows = [
            (no_capabilities, "capabilities"),
            (is_user, "another user"),
            (process.field("NoNewPrivs") == ["1"], "the right to gain privileges"),
            (process.field("Seccomp") == ["2"] && filters, "other system call filters"),
            (process.field("Threads") == ["1"], "threads"),
            (is_alone, "other processes in sight"),
            (joined, "another namespace"),
            (has_groups, "other control groups"),
            (oom_score.trim() == OOM_SCORE.to_string(), "another out-of-memory score"),
        ];
        match rows.iter().find(|(holds, _)| !holds) {
            Some((_, found)) => Err(Error::other(format!("the forked process is not confined: it has {found}"))),
            None => Ok(identity),
        }
    }
}

fn pid_namespace(pid: Pid) -> Result<u64> {
    fs::metadata(format!("/proc/{}/ns/pid", Pid::as_raw(Some(pid)))).map(|namespace| namespace.ino())
}

/// Whether a process is in each of these control groups.
fn is_listed(pid: Pid, groups: &[PathBuf]) -> Result<bool> {
    let number = pid.to_string();
    for procs in groups {
        if !fs::read_to_string(procs)?.lines().any(|line| line == number) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn groups(pid: Pid) -> Result<String> {
    fs::read_to_string(format!("/proc/{}/cgroup", Pid::as_raw(Some(pid))))
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

    /// Whether it is the first process of its PID namespace. Its numbers are those in the namespace of this process, in
    /// that of the warm parent, and in its own.
    fn is_first(&self) -> bool {
        self.field("NSpid").last() == Some(&"1")
    }

    /// Whether it is in a PID namespace of its own in that of a warm parent.
    fn is_below(&self, own: &Self) -> bool {
        self.field("NSpid").len() == own.field("NSpid").len() + NAMESPACES
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.field(name).first()?.parse().ok()
    }
}
