//! What supervisor and launcher say to each other: one JSON document per line over a stream socket. The descriptors
//! that the agent inherits ride on the first byte of the first line.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

/// From the supervisor to stage 1.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Start the agent. The first order, and the only one of its kind.
    Launch(Box<LaunchSpec>),
    /// SIGTERM now, SIGKILL for the whole tree after so many milliseconds.
    Stop(u64),
}

/// From stage 1 to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The agent's main process exists. It has no name out here when it is in a PID namespace of its own.
    Started(Option<super::procfs::Process>),
    /// It could not be started.
    Failed(String),
    /// It ended; what it left behind is killed next, then the launcher ends too.
    Exited(Exit),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal(number) => match signal_name(number) {
                Some("SIGKILL") => f.write_str("killed by SIGKILL (out of memory?)"),
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {number}"),
            },
        }
    }
}

/// The signals that end real programs; the numbers are those of Linux on x86_64 and arm64.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// The agent's main process. It holds secrets: there is no `Debug`, and it never stands on a command line.
#[derive(Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    /// The interpreter, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// One option for each descriptor sent along, in order; option and number are appended to `args`.
    pub fd_options: Vec<String>,
    /// The complete environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Resource limits.
    pub limits: Limits,
    /// Another user, if the supervisor may choose one.
    pub run_as: Option<RunAs>,
    /// What keeps the agent from the rest of the machine.
    pub confinement: Confinement,
    /// The `cgroup.procs` files of the agent's control groups.
    pub cgroups: Vec<PathBuf>,
    /// How long a stop may take that somebody else asks for by SIGTERM to the launcher, in milliseconds.
    pub grace_ms: u64,
}

/// Resource limits of one agent; absent or 0 means none but the inherited one. A limit above the supervisor's own is
/// lowered to it. Core dumps are always off: they would hold the agent's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of the whole agent in bytes, where there are control groups.
    pub memory: Option<u64>,
    /// Processes and threads of the whole agent, where it has a control group, a user or a user namespace of its own.
    pub processes: Option<u64>,
    /// Processor time of the whole agent in thousandths of a processor, where there are control groups.
    pub cpu_millicores: Option<u64>,
    /// What the agent may store in `HOME`, `TMPDIR` and `/dev/shm` together, in bytes, where these are its own.
    pub disk: Option<u64>,
    /// Open descriptors of one process.
    pub open_files: Option<u64>,
    /// Size of one file, in bytes.
    pub file_size: Option<u64>,
    /// Private writable memory of one process, in bytes; shared mappings and `memfd` are not counted.
    pub data: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Some(1 << 30),
            processes: Some(512),
            cpu_millicores: None,
            disk: Some(512 << 20),
            open_files: Some(4096),
            file_size: Some(4 << 30),
            data: None,
        }
    }
}

impl Limits {
    /// With 0 read as "none".
    pub(crate) fn normalised(self) -> Self {
        let set = |limit: Option<u64>| limit.filter(|&limit| limit > 0);
        Self {
            memory: set(self.memory),
            processes: set(self.processes),
            cpu_millicores: set(self.cpu_millicores),
            disk: set(self.disk),
            open_files: set(self.open_files),
            file_size: set(self.file_size),
            data: set(self.data),
        }
    }
}

/// A user and group of the agent's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// The user id.
    pub uid: u32,
    /// The group id; there are no supplementary groups.
    pub gid: u32,
}

/// What the launcher does so that the agent cannot reach the rest of the machine. All of it, or the start fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// Namespaces and a root directory of the agent's own.
    pub namespaces: Option<Namespaces>,
    /// The Landlock ABI whose rights are taken away.
    pub landlock: Option<i32>,
    /// Whether system calls that no agent needs are refused.
    pub seccomp: bool,
    /// The TCP port that is all of the network, when the network is closed.
    pub only_port: Option<u16>,
    /// What the agent sees of the file system: with namespaces nothing else exists, with Landlock nothing else opens.
    pub exposed: Vec<Exposed>,
}

/// Namespaces of the agent's own: PID, mount and IPC always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// In a user namespace, which gives an ordinary user the right to make the others.
    pub user: bool,
    /// A network namespace, if the network is closed.
    pub network: Option<OwnNetwork>,
    /// An empty directory where the new root is put together.
    pub root: PathBuf,
    /// The size of what the agent may write, in bytes.
    pub disk: Option<u64>,
}

/// A network of the agent's own, in which nothing but egress answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnNetwork {
    /// Where egress listens. The listeners are handed out over the last descriptor that comes with the order; after
    /// them a new socket of this network for each byte that comes back.
    pub listen: Vec<SocketAddrV4>,
    /// Where the agent answers its callers: its first descriptor is a listener there.
    pub callers: Option<SocketAddrV4>,
    /// The names that resolve there, and to what. There is no name server.
    pub hosts: Vec<(Ipv4Addr, String)>,
}

/// A part of the file system that the agent may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exposed {
    /// Where it is.
    pub host: PathBuf,
    /// Where the agent finds it; the same without namespaces.
    pub inside: PathBuf,
    /// What may be done with it.
    pub access: Access,
}

/// What may be done with a part of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Access {
    /// It is read and executed.
    Read,
    /// The same, if it is there.
    ReadIfThere,
    /// A symbolic link with this target (`host`), in a root of the agent's own.
    Link,
    /// Everything.
    Write,
    /// A device, read and written.
    Device,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_wire_form_is_one_short_line() {
        assert_eq!(serde_json::to_string(&Order::Stop(1500)).unwrap(), r#"{"stop":1500}"#);
        assert_eq!(serde_json::to_string(&Report::Exited(Exit::Code(3))).unwrap(), r#"{"exited":{"code":3}}"#);
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(Exit::Code(1).to_string(), "exited with status 1");
        assert_eq!(Exit::Signal(11).to_string(), "killed by SIGSEGV");
        assert_eq!(Exit::Signal(40).to_string(), "killed by signal 40");
    }
}
