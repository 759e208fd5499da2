//! The enforced isolation, in words: never more than what is.

use super::Tier;
use hoistway_confine::Limits;
use hoistway_confine::cgroup::{Cgroups, Controller};
use hoistway_confine::landlock::{SCOPES, TCP, UNIX};
use std::fmt;

/// The isolation of agents from the rest of the machine, as enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// The mechanisms of the sandbox, such as `namespaces: user, pid, mount, ipc; landlock ABI 7; seccomp`, or
    /// `not sandboxed`.
    pub enforced: String,
    /// `open`, or `closed`: then agents reach egress and nothing else.
    pub network: String,
    /// Limits of one agent, with what each is of.
    pub limits: String,
    /// Notes for the operator: why there is no stronger one.
    pub notes: Vec<String>,
}

impl Isolation {
    /// The network of agents that reach egress and nothing else.
    pub const CLOSED: &str = "closed";
    /// The network of agents that reach more.
    pub const OPEN: &str = "open";

    /// Of agents that nothing keeps from anything.
    pub fn none() -> Self {
        Self {
            enforced: "not sandboxed".to_owned(),
            network: Self::OPEN.to_owned(),
            limits: "none".to_owned(),
            notes: Vec::new(),
        }
    }

    /// Whether agents reach more than egress.
    pub fn has_open_network(&self) -> bool {
        self.network != Self::CLOSED
    }

    /// Whether there is a sandbox at all.
    pub fn is_sandboxed(&self) -> bool {
        !self.enforced.starts_with("not sandboxed")
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.enforced)
    }
}

pub(super) struct Report<'a> {
    pub tier: Tier,
    pub closed: bool,
    pub limits: &'a Limits,
    pub uids: bool,
    pub cgroups: Option<&'a Cgroups>,
}

impl Report<'_> {
    pub fn words(&self, notes: Vec<String>) -> Isolation {
        let closed = self.closed;
        let mut parts = match self.tier {
            Tier::Namespaces { user, landlock } => {
                let mut names = if user { vec!["user"] } else { Vec::new() };
                names.extend(["pid", "mount", "ipc"]);
                if closed {
                    names.push("net");
                }
                let landlock = landlock.map(|abi| format!("landlock ABI {abi}"));
                [Some(format!("namespaces: {}", names.join(", "))), landlock, Some("seccomp".to_owned())]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Tier::Landlock { abi } => vec![landlock_words(abi, closed), "seccomp".to_owned()],
            Tier::None => vec!["not sandboxed".to_owned()],
        };
        if self.uids {
            parts.push("own uid".to_owned());
        }
        Isolation {
            enforced: parts.join("; "),
            network: if closed { Isolation::CLOSED } else { Isolation::OPEN }.to_owned(),
            limits: self.limits(),
            notes,
        }
    }

    fn limits(&self) -> String {
        let has = |controller| self.cgroups.is_some_and(|groups| groups.has(controller));
        let set = rlimits(self.limits, self.tier, self.uids, self.cgroups);
        let own_root = matches!(self.tier, Tier::Namespaces { .. });
        let memory = match (self.limits.memory.filter(|_| has(Controller::Memory)), set.data) {
            (Some(bytes), _) => Some(format!("{} memory", size(bytes))),
            (None, Some(bytes)) => Some(format!("{} private memory in each process", size(bytes))),
            (None, None) => None,
        };
        let processes = self
            .limits
            .processes
            .filter(|_| has(Controller::Pids) || set.processes.is_some())
            .map(|n| format!("{n} processes"));
        let cpu = self.limits.cpu_millicores.filter(|_| has(Controller::Cpu)).map(|n| format!("{n}m CPU"));
        let disk = self.limits.disk.filter(|_| own_root).map(|bytes| format!("{} disk", size(bytes)));
        let file = set.file_size.map(|bytes| format!("{} in one file", size(bytes)));
        let open = set.open_files.map(|n| format!("{n} open files"));
        let all: Vec<String> = [memory, processes, cpu, disk, file, open].into_iter().flatten().collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

fn landlock_words(abi: i32, closed: bool) -> String {
    let mut limited = vec!["files"];
    let mut open = Vec::new();
    if closed && abi >= TCP {
        limited.push("TCP");
    } else if abi < TCP {
        open.push("TCP");
    }
    if abi >= SCOPES {
        limited.extend(["signals", "abstract Unix sockets"]);
    } else {
        open.push("signals");
    }
    if abi >= UNIX {
        limited.push("Unix sockets");
    }
    let limited = if limited.len() == 1 { "files only".to_owned() } else { limited.join(", ") };
    let open = if open.is_empty() { String::new() } else { format!("; {} not limited", open.join(" and ")) };
    format!("landlock (ABI {abi}: {limited}{open})")
}

/// The limits that the kernel keeps for single processes and for users. Where there is no control group, memory is
/// limited for each process, at twice as much: the stacks of its threads are counted whether they are used or not. What
/// processes share is not counted, and nothing but a control group would count it: a limit of the address space ends
/// programs that only reserve it, as numerical libraries and just-in-time compilers do.
pub(super) fn rlimits(limits: &Limits, tier: Tier, uids: bool, cgroups: Option<&Cgroups>) -> Limits {
    let has = |controller| cgroups.is_some_and(|groups| groups.has(controller));
    let memory = limits.memory.filter(|_| !has(Controller::Memory)).map(|bytes| bytes.saturating_mul(2));
    // Processes are counted for each user of each user namespace. Without either the limit would be that of the user
    // who runs Hoistway, for all that they run.
    let counted = uids || (matches!(tier, Tier::Namespaces { user: true, .. }) && counts_in_user_namespaces());
    Limits { processes: limits.processes.filter(|_| counted), data: limits.data.or(memory), ..*limits }
}

/// Linux counts them there since 5.14.
fn counts_in_user_namespaces() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}

/// An amount of memory in words.
pub(crate) fn size(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: bool = false;
    const CLOSED: bool = true;

    fn words(tier: Tier, closed: bool, uids: bool) -> Isolation {
        let limits = Limits::default();
        Report { tier, closed, limits: &limits, uids, cgroups: None }.words(Vec::new())
    }

    #[test]
    fn the_report_claims_only_enforced_isolation() {
        let rows = [
            (
                Tier::Namespaces { user: true, landlock: Some(7) },
                CLOSED,
                "namespaces: user, pid, mount, ipc, net; landlock ABI 7; seccomp",
            ),
            (Tier::Namespaces { user: false, landlock: None }, OPEN, "namespaces: pid, mount, ipc; seccomp"),
            (Tier::Landlock { abi: 7 }, OPEN, "landlock (ABI 7: files, signals, abstract Unix sockets); seccomp"),
            (Tier::Landlock { abi: 4 }, CLOSED, "landlock (ABI 4: files, TCP; signals not limited); seccomp"),
            (Tier::Landlock { abi: 1 }, OPEN, "landlock (ABI 1: files only; TCP and signals not limited); seccomp"),
            (Tier::None, OPEN, "not sandboxed"),
        ];
        for (tier, closed, text) in rows {
            assert_eq!(words(tier, closed, false).enforced, text);
        }
        assert_eq!(words(Tier::None, OPEN, true).enforced, "not sandboxed; own uid");
        assert!(!words(Tier::None, OPEN, true).is_sandboxed());
    }

    #[test]
    fn limits_say_what_they_are_of() {
        let without = "2 GiB private memory in each process, 4 GiB in one file, 4096 open files";
        assert_eq!(words(Tier::None, OPEN, false).limits, without);
        assert!(words(Tier::None, OPEN, true).limits.contains("512 processes"));
        let namespaces = Tier::Namespaces { user: false, landlock: None };
        assert!(words(namespaces, OPEN, true).limits.contains("512 MiB disk"));
        assert_eq!(size(1_500), "1500 bytes");
    }
}
