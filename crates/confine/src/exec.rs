//! Starts a program confined. A multithreaded program cannot safely change the properties of one child between `fork`
//! and `exec`, so it executes itself with [`EXEC`] as the first argument: that process has one thread, confines itself
//! according to the plan, and executes the program.

use crate::spec::{Confinement, Limits, RunAs};
use crate::{enter, landlock, limit, namespaces};
use rustix::fs::Mode;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit, umask,
};
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The first argument, followed by a [`Plan`] in JSON, the program and its arguments. Its environment and its standard
/// streams are the program's.
pub const EXEC: &str = "__confined-exec";
/// Names the source of this crate: a program that executes another one with a [`Plan`] must be of the same.
pub const SOURCE: &str = concat!("confine ", env!("CONFINE_SOURCE"));
/// The first argument of a process that prints the Landlock ABI of this kernel.
const LANDLOCK: &str = "__confined-landlock";
/// The time limit of that process; it takes milliseconds.
const LANDLOCK_LIMIT: Duration = Duration::from_secs(20);
/// The exit status of a failed start.
pub const FAILED: u8 = 127;
/// The `oom_score_adj` that makes the kernel prefer to kill this program when memory runs out.
const OOM_SCORE: i32 = 500;

/// The confinement of a process before it executes a program. It contains no secrets: all users can read it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The parent process; the child ends with it.
    pub parent: u32,
    /// The `cgroup.procs` files of its control groups.
    pub cgroups: Vec<PathBuf>,
    /// Limits.
    pub limits: Limits,
    /// The most seconds of processor time of one process.
    pub cpu_seconds: Option<u64>,
    /// The user to switch to.
    pub run_as: Option<RunAs>,
    /// The isolation from the rest of the machine.
    pub confinement: Confinement,
}

/// Returns the Landlock ABI of this kernel, 0 without Landlock, as a process of `launcher` finds it.
pub async fn landlock_abi(launcher: &Path) -> std::result::Result<i32, String> {
    let asked = tokio::process::Command::new(launcher).arg(LANDLOCK).env_clear().kill_on_drop(true).output();
    let output = tokio::time::timeout(LANDLOCK_LIMIT, asked).await.map_err(|e| e.to_string())?;
    let output = output.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0))
}

/// Becomes a confined program if this process was started for that, and reports a failure.
///
/// Every `main` that starts confined programs calls this first, before any thread exists.
pub fn run_if_requested() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let first = args.next()?;
    let result = if first == EXEC {
        run(args)
    } else if first == LANDLOCK {
        landlock::print_abi()
    } else {
        return None;
    };
    Some(ended(result))
}

/// Returns the exit code of a process that was started to become another program. The reason of a failure goes to
/// standard error, which is that program's.
pub fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hoistway: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Does not return unless something failed.
fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let missing = || Error::other("an argument is missing");
    let plan = args.next().and_then(|json| json.into_string().ok()).ok_or_else(missing)?;
    let plan: Plan = serde_json::from_str(&plan)?;
    let program = PathBuf::from(args.next().ok_or_else(missing)?);

    let naming = |what: &'static str| move |error: Error| Error::new(error.kind(), format!("{what}: {error}"));
    for group in &plan.cgroups {
        std::fs::write(group, "0").map_err(naming("joining the control group"))?;
    }
    // Best effort: without it only a preference is lost.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string());
    if let Some(own) = &plan.confinement.namespaces {
        namespaces::unshare(own).map_err(naming("namespaces"))?;
    }
    // A new root directory needs exact modes.
    umask(Mode::empty());
    let prepared = enter(&plan.confinement, plan.run_as).map_err(naming("the sandbox cannot be set up"))?;
    // Another of our users reads the files of this one.
    umask(Mode::WGRP | Mode::WOTH);
    std::env::set_current_dir("/")?;
    limit(&plan.limits)?;
    if let Some(seconds) = plan.cpu_seconds {
        // At the hard limit the process is killed without a recognisable reason.
        let most = getrlimit(Resource::Cpu).maximum.map_or(seconds + 1, |most| most.min(seconds + 1));
        setrlimit(Resource::Cpu, Rlimit { current: Some(most.min(seconds)), maximum: Some(most) })?;
    }
    set_no_new_privs(true)?;
    // After the change of user, which clears it. The parent may have ended before this line.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if u32::try_from(Pid::as_raw(getppid())) != Ok(plan.parent) {
        return Err(Error::other("whoever wanted this is gone"));
    }
    prepared.restrict()?;
    // `exec` returns only on failure. It also empties the signal mask and restores SIGPIPE.
    let error = Command::new(&program).args(args).exec();
    Err(Error::other(format!("cannot run {}: {error}", program.display())))
}
