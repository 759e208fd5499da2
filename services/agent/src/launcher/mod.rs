//! The launcher: a single-threaded process for each agent, of `hoistway-launcher` or else of this same binary.
//!
//! A program with many threads can neither change the properties of one child safely between `fork` and `exec`, nor
//! clean up after itself when it is killed. So the supervisor (see [`crate::runtime`]) starts the launcher in two
//! stages:
//!
//! 1. `__agent-init` stays for the agent's whole life. It is the agent's subreaper, so every process that the agent
//!    ever starts, daemons included, is its descendant. It watches the socket to its supervisor, and when that closes
//!    (a `kill -9` is enough) it ends the whole tree.
//! 2. `__agent-exec` sets limits, privileges and the sandbox (see [`hoistway_confine`]) on itself and becomes the agent's
//!    interpreter.
//!
//! ```text
//! supervisor ──socket pair── __agent-init ──fork── __agent-exec = python3 hoistway_runner.py ──▶ …
//! ```
//!
//! With namespaces a third one is between them: `__agent-init` makes the namespaces and waits, and `__agent-inside`
//! is the first process of the new PID namespace and does the rest. When it ends, the kernel ends everything in there.
//!
//! ```text
//! supervisor ──socket pair── __agent-init ──fork── __agent-inside ──fork── __agent-exec = python3 … ──▶ …
//! ```
//!
//! An agent that is forked from a warm parent, which is started like an agent, has the first stage only, and that one is
//! outside of the parent's PID namespace. `__agent-namespaces` makes the agent's namespaces, and ends.
//!
//! ```text
//! supervisor ─┬─ __agent-init ── __agent-inside ─┬─ the parent ── the forked process
//!             │                                  └─ the first process of the agent's PID namespace ── the agent
//!             └─ __agent-init ── __agent-namespaces
//! ```

mod channel;
pub(crate) mod client;
mod exec;
mod forked;
mod forked_check;
mod init;
mod namespace_builder;
mod namespace_parent;
mod network;
pub(crate) mod procfs;
pub(crate) mod protocol;
mod signals;
mod tree;
mod user_namespace;

pub(crate) use channel::{line, memory_file, receive, send, send_order};
pub(crate) use forked::STEP;
pub use hoistway_confine::{Limits, RunAs};
pub(crate) use tree::kill_tree_of;

use hoistway_confine::launcher::{NAME, SOURCES};
use std::process::ExitCode;

/// Names the source of the launcher: a program that speaks with one must be of the same.
pub(crate) const SOURCE: &str = concat!("agent ", env!("LAUNCHER_SOURCE"));

/// The first argument that makes this binary stage 1.
pub(crate) const INIT: &str = "__agent-init";
/// The first argument that makes this binary stage 2.
pub(crate) const EXEC: &str = "__agent-exec";
/// The first argument that makes this binary the first process of a PID namespace.
pub(crate) const INSIDE: &str = "__agent-inside";
/// The first argument that makes this binary the one that makes the namespaces of a forked agent.
pub(crate) const NAMESPACES: &str = "__agent-namespaces";
/// The first argument that makes this binary a process in a user namespace for a warm parent and its agents.
pub(crate) const USERS: &str = "__agent-users";

/// The score by which the kernel is more willing to end an agent than anything else when memory runs out.
const OOM_SCORE: i32 = 500;

/// The title of a launcher, for people who look at processes.
pub(crate) fn title(of: &str) -> String {
    format!("hoistway-agent {of}")
}

/// Runs a launcher stage if this process was started as one, and says how it ended.
///
/// Every `main` that hosts the agent service calls this first, before any thread exists.
pub fn run_if_requested() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let stage = args.next()?;
    let result = if stage == INIT {
        init::run()
    } else if stage == INSIDE {
        init::run_inside()
    } else if stage == EXEC {
        exec::run(args)
    } else if stage == NAMESPACES {
        namespace_builder::run()
    } else if stage == USERS {
        user_namespace::run(args.next().is_some())
    } else {
        return None;
    };
    Some(hoistway_confine::exec::ended(result))
}

/// The whole of `hoistway-launcher`.
pub fn main() -> ExitCode {
    if let Some(code) = run_if_requested().or_else(hoistway_confine::exec::run_if_requested) {
        return code;
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == SOURCES) {
        println!("{}\n{SOURCE}", hoistway_confine::exec::SOURCE);
        return ExitCode::SUCCESS;
    }
    eprintln!("{NAME} is started by Hoistway, for agents and builds");
    ExitCode::FAILURE
}
