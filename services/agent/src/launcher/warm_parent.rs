//! A warm parent's PID namespace. Its first process starts the launchers of the parent and of the agents that are forked
//! from it, passes requests on to the parent, and reports the ends of forked processes, whose parent it becomes.

use super::channel::{receive, send};
use super::init::close_inherited;
use super::protocol::{Exit, ParentOrder};
use super::tree::exit_of;
use super::{INIT, WARM_INSIDE, signals};
use hoistway_confine::namespaces;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, set_dumpable_behavior, set_parent_process_death_signal, setsid,
    test_kill_process, wait,
};
use serde::Deserialize;
use signal_hook::consts::SIGCHLD;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The largest message of the supervisor or the parent, in bytes.
const MAX_MESSAGE: usize = 4096;
/// The ends of processes that nobody has claimed yet; a claim follows within milliseconds.
const MAX_UNCLAIMED: usize = 256;

/// The stage outside: makes the namespace, and waits for its end. With `user` there is a user namespace too.
pub(super) fn run(user: bool) -> Result<()> {
    close_inherited()?;
    let _ = setsid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    namespaces::unshare_processes(user)?;
    let mut inside = Command::new("/proc/self/exe").arg0("hoistway-agent warm").arg(WARM_INSIDE).env_clear().spawn()?;
    match inside.wait()? {
        status if status.success() => Ok(()),
        status => Err(Error::other(format!("inside: {status}"))),
    }
}

/// The first process. Standard input is the supervisor's socket; the namespace ends when that closes.
pub(super) fn run_inside() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let _ = setsid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let children = signals::listen(&[SIGCHLD])?;
    let supervisor = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut state = State::default();
    loop {
        let numbers: Vec<u64> = state.agents.keys().copied().collect();
        let fixed = [supervisor.as_fd(), children.as_fd()];
        let agents = numbers.iter().filter_map(|number| state.agents.get(number)).map(AsFd::as_fd);
        let fds: Vec<BorrowedFd<'_>> =
            fixed.into_iter().chain(agents).chain(state.parent.as_ref().map(AsFd::as_fd)).collect();
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let woken: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        if woken[0] && !state.obey(&supervisor)? {
            return Ok(());
        }
        if woken[1] {
            signals::drain(&children);
            state.reap();
        }
        for number in numbers.iter().zip(&woken[2..]).filter(|(_, woken)| **woken).map(|(number, _)| *number) {
            state.pass_on(number);
        }
        if woken.get(2 + numbers.len()) == Some(&true) {
            state.hear_parent();
        }
    }
}

#[derive(Default)]
struct State {
    /// The parent's socket, until it is retired or ends.
    parent: Option<OwnedFd>,
    /// The sockets of forked agents' launchers.
    agents: HashMap<u64, OwnedFd>,
    /// The agents' main processes.
    processes: HashMap<i32, u64>,
    launchers: HashSet<i32>,
    unclaimed: BTreeMap<i32, Exit>,
}

/// What the parent says.
#[derive(Deserialize)]
struct ParentReport {
    /// The number of the agent.
    forked: u64,
    /// Its process here.
    pid: i32,
}

impl State {
    /// Follows an order of the supervisor. Returns whether that is still there.
    fn obey(&mut self, supervisor: &OwnedFd) -> Result<bool> {
        let (mut buffer, mut fds) = ([0; MAX_MESSAGE], Vec::new());
        let got = match receive(supervisor, &mut buffer, &mut fds) {
            Ok(0) => return Ok(false),
            Ok(got) => got,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
            Err(_) => return Ok(false),
        };
        match serde_json::from_slice(&buffer[..got])? {
            ParentOrder::Launcher(title, dir) => self.start_launcher(&title, &dir, fds),
            ParentOrder::Parent => {
                self.parent = fds.pop();
                if let Some(parent) = &self.parent {
                    // One that does not read its requests must not keep anybody else waiting.
                    rustix::io::ioctl_fionbio(parent, true)?;
                }
            }
            ParentOrder::Agent(number) => self.agents.extend(fds.pop().map(|fd| (number, fd))),
            ParentOrder::Retire => self.parent = None,
        }
        Ok(true)
    }

    fn start_launcher(&mut self, title: &str, dir: &Path, fds: Vec<OwnedFd>) {
        let Ok([input, output, error]) = <[OwnedFd; 3]>::try_from(fds) else { return };
        let started = Command::new("/proc/self/exe")
            .arg0(title)
            .arg(INIT)
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(error))
            .spawn();
        // If it could not be started its socket is closed by now, which is what its supervisor waits for.
        self.launchers.extend(started.ok().and_then(|child| i32::try_from(child.id()).ok()));
    }

    /// Asks the parent to fork an agent, if that is what its launcher wants.
    fn pass_on(&mut self, number: u64) {
        let Some(launcher) = self.agents.get(&number) else { return };
        let (mut buffer, mut fds) = ([0; 16], Vec::new());
        if !matches!(receive(launcher, &mut buffer, &mut fds), Ok(1..)) {
            self.agents.remove(&number);
            return;
        }
        let request = serde_json::json!({ "fork": number }).to_string();
        let sent = match (&self.parent, fds.first()) {
            (Some(parent), Some(start)) => send(parent, request.as_bytes(), &[start.as_fd()]).is_ok(),
            _ => false,
        };
        if !sent {
            self.parent = None;
        }
    }

    fn hear_parent(&mut self) {
        let Some(parent) = &self.parent else { return };
        let (mut buffer, mut fds) = ([0; MAX_MESSAGE], Vec::new());
        let report = match receive(parent, &mut buffer, &mut fds) {
            Ok(got @ 1..) => serde_json::from_slice::<ParentReport>(&buffer[..got]).ok(),
            _ => None,
        };
        // One process for each agent.
        let is_wanted = |report: &ParentReport| {
            self.agents.contains_key(&report.forked) && !self.processes.values().any(|number| *number == report.forked)
        };
        let Some(ParentReport { forked, pid }) = report.filter(is_wanted) else {
            self.parent = None;
            return;
        };
        let is_alive = Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok());
        match self.unclaimed.remove(&pid) {
            Some(exit) if !is_alive => self.report(forked, exit),
            _ if is_alive => drop(self.processes.insert(pid, forked)),
            _ => self.report(forked, Exit::Signal(9)),
        }
    }

    fn report(&self, number: u64, exit: Exit) {
        if let (Some(launcher), Ok(text)) = (self.agents.get(&number), serde_json::to_vec(&exit)) {
            // One that is gone is noticed when reading.
            let _ = send(launcher, &text, &[]);
        }
    }

    /// Reaps what has ended by now.
    fn reap(&mut self) {
        loop {
            let (pid, exit) = match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => (Pid::as_raw(Some(pid)), exit_of(status)),
                Err(Errno::INTR) => continue,
                Ok(None) | Err(_) => return,
            };
            if self.launchers.remove(&pid) {
                continue;
            }
            match self.processes.remove(&pid) {
                Some(number) => self.report(number, exit),
                None => drop(self.unclaimed.insert(pid, exit)),
            }
            if self.unclaimed.len() > MAX_UNCLAIMED {
                self.unclaimed.pop_first();
            }
        }
    }
}
