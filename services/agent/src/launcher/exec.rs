//! Stage 2: sets on itself what the agent's process must have, and becomes it.

use super::OOM_SCORE;
use super::protocol::LaunchSpec;
use rustix::fs::Mode;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, umask};
use rustix::thread::set_no_new_privs;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, Read, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Does not return unless something failed.
pub(super) fn run(parent: Option<OsString>) -> Result<()> {
    let parent: Option<i32> = parent.and_then(|p| p.to_str()?.parse().ok());
    let mut json = Vec::new();
    std::io::stdin().read_to_end(&mut json)?;
    let spec: LaunchSpec = serde_json::from_slice(&json)?;
    drop(json);

    // Best effort: a machine without it only loses a preference.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string());
    // The new root has modes of its own.
    umask(Mode::empty());
    let prepared = hoistway_confine::enter(&spec.confinement, spec.run_as)
        .map_err(|error| Error::new(error.kind(), format!("the sandbox cannot be set up: {error}")))?;
    umask(Mode::RWXG | Mode::RWXO);
    // The agent's own: one opened before would lead out of its root.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    hoistway_confine::limit(&spec.limits)?;
    set_no_new_privs(true)?;
    // After the change of user, which clears it. The launcher has one thread, so "the parent's thread ended" is "the
    // launcher ended". It may have ended before this line: then the parent is somebody else by now.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if Pid::as_raw(getppid()) != parent.unwrap_or_default() {
        return Err(Error::other("the launcher is gone"));
    }
    std::env::set_current_dir(&spec.cwd)
        .map_err(|error| Error::other(format!("cannot enter {}: {error}", spec.cwd.display())))?;
    prepared.restrict()?;

    // `exec` returns only to say why it could not. It also empties the signal mask and restores SIGPIPE.
    let error = Command::new(&spec.program).args(&spec.args).env_clear().envs(spec.env).exec();
    Err(Error::other(format!("cannot run {}: {error}", spec.program.display())))
}
