//! The protocol between supervisor and launcher: one JSON document per line over a stream socket. The descriptors
//! that the agent inherits ride on the first byte of the first line.

use hoistway_confine::{Confinement, Limits, OwnNetwork, RunAs};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// From the supervisor to stage 1.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Start the agent. The first order, if it is not the next one.
    Launch(Box<LaunchSpec>),
    /// Confine a process that is forked from a warm parent. The first order then. Its descriptors are the socket to that
    /// process, the user namespace to which the agent's namespaces belong, without [`Restrictions::run_as`] the one around
    /// that, which gives the right to make namespaces, and the socket for those of a network of the agent's own.
    Prepare(Box<Restrictions>),
    /// Have the prepared process become the agent. It comes with the descriptors of its options.
    Become(Box<Become>),
    /// SIGTERM now, SIGKILL for the whole tree after so many milliseconds.
    Stop(u64),
    /// [`STACK_SIGNAL`] to the main process, which writes its stack to its notification pipe, even if it has stopped
    /// itself.
    WriteStack,
}

/// The signal at which an agent that is being started writes its stack. Nothing else uses it, and it ends a process
/// that does not know it.
pub(crate) const STACK_SIGNAL: Signal = Signal::STKFLT;

/// From stage 1 to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// A forked process is confined, and waits to become the agent.
    Prepared,
    /// The agent's main process exists. It has no name out here when it is in a PID namespace of its own.
    Started(Option<super::procfs::Process>),
    /// It could not be started.
    Failed(String),
    /// It ended; what it left behind is killed next, then the launcher ends too.
    Exited(Exit),
}

/// The end of a process.
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

/// The agent's main process. It holds secrets: there is no `Debug`, and it is never on a command line.
#[derive(Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    /// The interpreter, an absolute path.
    pub program: PathBuf,
    /// What it is to run.
    pub command: CommandLine,
    /// What it may do. A warm parent, with [`Confinement::joins_namespaces`], comes with further descriptors after those of
    /// its options: see [`Order::Prepare`].
    pub restrictions: Restrictions,
    /// The time that a stop may take which somebody else asks for by SIGTERM to the launcher, in milliseconds.
    pub grace_ms: u64,
}

/// What a process is to run. It holds secrets.
#[derive(Serialize, Deserialize)]
pub(crate) struct CommandLine {
    /// The arguments.
    pub args: Vec<String>,
    /// One option for each descriptor sent along, in order; option and number are appended to `args`.
    pub fd_options: Vec<String>,
    /// The complete environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: PathBuf,
}

/// What a process may do, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restrictions {
    /// Resource limits.
    pub limits: Limits,
    /// Another user, if the supervisor may choose one.
    pub run_as: Option<RunAs>,
    /// The isolation from the rest of the machine.
    pub confinement: Confinement,
    /// The `cgroup.procs` files of its control groups.
    pub cgroups: Vec<PathBuf>,
}

/// The agent that a prepared process becomes. It holds secrets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Become {
    pub command: CommandLine,
    /// The directories of which it gets copies, in the order of those of its confinement.
    pub copied: Vec<PathBuf>,
    /// The listeners in its network, if that is its own.
    pub network: Option<OwnNetwork>,
    /// As [`LaunchSpec::grace_ms`].
    pub grace_ms: u64,
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
    fn exit_statuses_and_signals_are_described() {
        assert_eq!(Exit::Code(1).to_string(), "exited with status 1");
        assert_eq!(Exit::Signal(11).to_string(), "killed by SIGSEGV");
        assert_eq!(Exit::Signal(40).to_string(), "killed by signal 40");
    }
}
