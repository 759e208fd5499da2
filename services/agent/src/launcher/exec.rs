//! Stage 2: sets on itself what the agent's process must have, and becomes it.

use super::OOM_SCORE;
use super::protocol::{CommandLine, LaunchSpec, Restrictions};
use rustix::fs::Mode;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, umask};
use rustix::thread::set_no_new_privs;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, Read, Result};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Does not return unless something failed. The arguments are the parent's number and, for a warm parent, the descriptor of the user namespace that it joins.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let mut number = || args.next().and_then(|arg| arg.to_str()?.parse::<i32>().ok());
    let (parent, users) = (number(), number().map(taken).transpose()?);
    let mut json = Vec::new();
    std::io::stdin().read_to_end(&mut json)?;
    let spec: LaunchSpec = serde_json::from_slice(&json)?;
    drop(json);

    // Best effort: a machine without it only loses a preference.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string());
    // The new root has modes of its own.
    umask(Mode::empty());
    let Restrictions { limits, run_as, confinement, .. } = spec.restrictions;
    let prepared = match users {
        Some(users) => hoistway_confine::enter_as_parent(&confinement, run_as, users),
        None => hoistway_confine::enter(&confinement, run_as),
    };
    let prepared =
        prepared.map_err(|error| Error::new(error.kind(), format!("the sandbox cannot be set up: {error}")))?;
    umask(Mode::RWXG | Mode::RWXO);
    // The agent's own: one opened before would lead out of its root.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    hoistway_confine::limit(&limits)?;
    set_no_new_privs(true)?;
    // After the change of user, which clears it. The launcher has one thread, so "the parent's thread ended" is "the
    // launcher ended". It may have ended before this line: then the parent is somebody else by now.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if Pid::as_raw(getppid()) != parent.unwrap_or_default() {
        return Err(Error::other("the launcher is gone"));
    }
    let CommandLine { args, env, cwd, .. } = spec.command;
    std::env::set_current_dir(&cwd)
        .map_err(|error| Error::other(format!("cannot enter {}: {error}", cwd.display())))?;
    prepared.restrict()?;

    // `exec` returns only to say why it could not. It also empties the signal mask and restores SIGPIPE.
    let error = Command::new(&spec.program).args(args).env_clear().envs(env).exec();
    Err(Error::other(format!("cannot run {}: {error}", spec.program.display())))
}

/// An inherited descriptor, which the agent does not inherit.
fn taken(fd: i32) -> Result<OwnedFd> {
    let own = File::open(format!("/proc/self/fd/{fd}"))?;
    nix::unistd::close(fd)?;
    Ok(own.into())
}
