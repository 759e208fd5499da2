//! Ending a whole tree of processes, daemons and newborns included.

use super::procfs::{self, Process};
use super::protocol::Exit;
use hoistway_confine::{await_death, kill_all};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait, waitpid};
use std::collections::{HashMap, HashSet};
use std::io::Result;

/// The number of times that a tree which keeps forking is frozen before it is killed: each round halts all that were
/// seen.
const FREEZE_ROUNDS: usize = 8;

/// The living descendants of `root`, itself not among them.
fn descendants(root: i32) -> Result<Vec<i32>> {
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    for s in procfs::all()? {
        children.entry(s.parent).or_default().push((s.pid, s.is_dead()));
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        // Each parent is visited once, so even a torn reading of /proc cannot send this round in circles.
        for (pid, dead) in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            if !dead {
                found.push(pid);
            }
        }
    }
    Ok(found)
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended by now: that is as good.
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills all living descendants of `root` and returns them. They are stopped first, so that none can fork away from
/// under the killing.
fn kill_descendants(root: i32) -> Result<Vec<i32>> {
    let mut seen = HashSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let fresh: Vec<i32> = descendants(root)?.into_iter().filter(|&pid| seen.insert(pid)).collect();
        fresh.iter().for_each(|&pid| signal(pid, Signal::STOP));
        if fresh.is_empty() {
            break;
        }
    }
    let found = descendants(root)?;
    found.iter().for_each(|&pid| signal(pid, Signal::KILL));
    Ok(found)
}

/// Ends every descendant of this process, which must be their subreaper, and reaps them; `reaped` hears of each.
/// When it returns there is none left: having no child means having no descendant.
pub(super) fn kill_own(mut reaped: impl FnMut(i32, Exit)) -> Result<()> {
    let me = Pid::as_raw(Some(rustix::process::getpid()));
    loop {
        kill_descendants(me)?;
        // Waiting for one death and looking again finds who was born during the look: its parent's death is what
        // makes it ours, and is what wakes us.
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                reaped(Pid::as_raw(Some(pid)), exit_of(status));
                reap(&mut reaped);
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps what has ended by now.
pub(super) fn reap(reaped: &mut impl FnMut(i32, Exit)) {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => reaped(Pid::as_raw(Some(pid)), exit_of(status)),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Waits for the end of one child.
pub(super) fn await_one(pid: Pid, mut reaped: impl FnMut(i32, Exit)) {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((pid, status))) => return reaped(Pid::as_raw(Some(pid)), exit_of(status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

pub(super) fn exit_of(status: WaitStatus) -> Exit {
    match status.terminating_signal() {
        Some(signal) => Exit::Signal(signal),
        None => Exit::Code(status.exit_status().unwrap_or(0)),
    }
}

/// Ends `root`, if it is still exactly that process, with its process group and all its descendants, none of them
/// children of ours. Blocks for the deaths, each at most a quarter of a second. Says whether there was anything to end.
pub(crate) fn kill_tree_of(root: &Process) -> Result<bool> {
    if !root.is_alive() {
        return Ok(false);
    }
    // A launcher that is still there is the subreaper of the rest: it goes last, or the rest would slip away.
    for _ in 0..FREEZE_ROUNDS {
        let killed = kill_descendants(root.pid)?;
        if killed.is_empty() {
            break;
        }
        killed.into_iter().for_each(await_death);
    }
    if root.is_alive() {
        if let Some(pid) = Pid::from_raw(root.pid)
            && rustix::process::getpgid(Some(pid)) == Ok(pid)
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        kill_all(&[root.pid]);
    }
    Ok(true)
}
