//! Kills processes that are not children of this one.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Kills these processes, which are not our children, and waits until they have ended.
pub fn kill_all(pids: &[i32]) {
    pids.iter().copied().for_each(kill);
    pids.iter().for_each(|&pid| await_death(pid));
}

/// Waits for the end of such a process, at most a quarter of a second.
pub fn await_death(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
        let limit = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
    }
}

fn kill(pid: i32) {
    // It may have ended by now, which is equivalent.
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
