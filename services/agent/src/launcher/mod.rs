//! The launcher: this same binary, executed again as a small single-threaded process for each agent.
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

mod channel;
pub(crate) mod client;
mod exec;
mod init;
mod namespace_parent;
pub(crate) mod procfs;
pub(crate) mod protocol;
mod signals;
mod tree;

#[cfg(test)]
pub(crate) use channel::send;
pub(crate) use channel::{line, receive, send_launch};
pub use hoistway_confine::{Limits, RunAs};
pub(crate) use tree::kill_tree_of;

use std::process::ExitCode;

/// The first argument that makes this binary stage 1.
pub(crate) const INIT: &str = "__agent-init";
/// The first argument that makes this binary stage 2.
pub(crate) const EXEC: &str = "__agent-exec";
/// The first argument that makes this binary the first process of a PID namespace.
pub(crate) const INSIDE: &str = "__agent-inside";

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
        exec::run(args.next())
    } else {
        return None;
    };
    Some(hoistway_confine::exec::ended(result))
}
