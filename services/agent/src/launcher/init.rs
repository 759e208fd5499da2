//! Stage 1: the agent's init. It has one thread and three things to listen to: its supervisor, its children, and the
//! signals that ask it to end.

use super::channel::Control;
use super::procfs::Process;
use super::protocol::{Exit, LaunchSpec, Order, Report, STACK_SIGNAL};
use super::signals::{self, ENDING};
use super::{EXEC, forked, namespace_parent, tree};
use hoistway_confine::privileges;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    DumpableBehavior, Pid, Signal, getpid, kill_process, set_child_subreaper, set_dumpable_behavior,
    set_parent_process_death_signal, setsid,
};
use rustix::thread::CapabilitySet;
use signal_hook::consts::SIGCHLD;
use std::io::{Error, Result, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the stage to its end: no descendant is alive when it returns.
pub(super) fn run() -> Result<()> {
    close_inherited()?;
    // A session of our own: the terminal's Ctrl-C is the supervisor's business. This fails only for a process group
    // leader, which the supervisor does not make us.
    let _ = setsid();
    let mut control = Control::of_stdin()?;
    let (spec, fds) = match control.order()? {
        Some((Order::Launch(spec), fds)) => (spec, fds),
        Some((Order::Prepare(restrictions), fds)) => return forked::run(&restrictions, fds, control),
        _ => return Ok(()),
    };
    if let Err(error) = join(&spec.restrictions.cgroups) {
        control.report(&Report::Failed(format!("the agent's control group cannot be joined: {error}")));
        return Ok(());
    }
    if spec.restrictions.confinement.namespaces.is_some() {
        return namespace_parent::run(*spec, fds, control);
    }
    // In a PID namespace its first process is that.
    set_child_subreaper(Some(getpid()))?;
    supervise(control, *spec, fds, None)
}

/// Closes whatever the supervisor's own parents left open for everybody: ours are the standard streams. All that we
/// open from here on closes with exec by itself.
pub(super) fn close_inherited() -> Result<()> {
    let names = std::fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let open: Vec<RawFd> = names.filter_map(|name| name.parse().ok()).filter(|&fd| fd > 2).collect();
    for fd in open {
        // The listing had one of its own, which is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// The same as the first process of a PID namespace. Standard input is the socket to the stage outside: it closes when
/// that one ends.
pub(super) fn run_inside() -> Result<()> {
    // Agents of an ordinary user are that user, too: they may not open our memory, nor see what we have open.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let _ = setsid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut outer = Control::of_stdin()?;
    let Some((Order::Launch(spec), mut fds)) = outer.order()? else {
        return Ok(());
    };
    if fds.is_empty() {
        return Err(Error::other("the socket to the supervisor did not come"));
    }
    let control = Control::new(fds.remove(0));
    supervise(control, *spec, fds, Some(outer))
}

/// Every process from here on is accounted to these groups.
fn join(groups: &[impl AsRef<Path>]) -> Result<()> {
    groups.iter().try_for_each(|procs| std::fs::write(procs, "0"))
}

fn supervise(mut control: Control, spec: LaunchSpec, fds: Vec<OwnedFd>, outer: Option<Control>) -> Result<()> {
    // Registering handlers also undoes an inherited "ignore" (nohup): handled signals are back to default after exec.
    let children = signals::listen(&[SIGCHLD])?;
    let ending = signals::listen(&ENDING)?;
    let grace = Duration::from_millis(spec.grace_ms);
    // Agents that were forked from a warm parent are in its namespace.
    let outlives_agent = spec.restrictions.confinement.joins_namespaces;
    let mut agent = match spawn(spec, fds, outer.is_some()) {
        Ok((pid, process)) => {
            control.report(&Report::Started(process));
            Agent { pid, stop_by: None, ended: false }
        }
        Err(error) => {
            control.report(&Report::Failed(format!("the agent's process cannot be started: {error}")));
            return Ok(());
        }
    };

    loop {
        let woken = wait_for(&control, outer.as_ref(), &children, &ending, agent.stop_by)?;
        if woken.children {
            signals::drain(&children);
            tree::reap(&mut |pid, exit| agent.reaped(pid, exit, &mut control));
        }
        if woken.ending {
            signals::drain(&ending);
            agent.stop(grace);
        }
        let mut orphaned = woken.outer;
        if woken.control {
            match control.receive()? {
                None => orphaned = true,
                Some(orders) => {
                    for order in orders {
                        match order {
                            Order::Stop(ms) => agent.stop(Duration::from_millis(ms)),
                            Order::WriteStack => agent.write_stack(),
                            Order::Launch(_) | Order::Prepare(_) | Order::Become(_) => {}
                        }
                    }
                }
            }
        }
        let late = agent.stop_by.is_some_and(|by| Instant::now() >= by);
        if orphaned || late || (agent.ended && !outlives_agent) {
            if outer.is_some() {
                // The end of the first process is the end of its namespace, and lasts until all others are dead.
                agent.kill(&mut control);
                return Ok(());
            }
            return tree::kill_own(|pid, exit| agent.reaped(pid, exit, &mut control));
        }
    }
}

/// The agent's main process.
struct Agent {
    pid: i32,
    stop_by: Option<Instant>,
    ended: bool,
}

impl Agent {
    /// SIGTERM to the main process alone: it drains, and its own children may have to help with that. A second
    /// request can only shorten the time.
    fn stop(&mut self, grace: Duration) {
        let by = Instant::now() + grace;
        if self.stop_by.is_none()
            && !self.ended
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.stop_by = Some(self.stop_by.map_or(by, |before| before.min(by)));
    }

    /// A stopped process gets the signal as soon as it goes on, before anything else.
    fn write_stack(&self) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| !self.ended) {
            let _ = kill_process(pid, STACK_SIGNAL);
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Ends the main process and reports it.
    fn kill(&mut self, control: &mut Control) {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| !self.ended) else { return };
        let _ = kill_process(pid, Signal::KILL);
        tree::await_one(pid, |pid, exit| self.reaped(pid, exit, control));
    }

    fn reaped(&mut self, pid: i32, exit: Exit, control: &mut Control) {
        if pid == self.pid {
            self.end(exit, control);
        }
    }

    fn end(&mut self, exit: Exit, control: &mut Control) {
        if !self.ended {
            self.ended = true;
            control.report(&Report::Exited(exit));
        }
    }
}

struct Woken {
    control: bool,
    outer: bool,
    children: bool,
    ending: bool,
}

fn wait_for(
    control: &Control,
    outer: Option<&Control>,
    children: &UnixStream,
    ending: &UnixStream,
    stop_by: Option<Instant>,
) -> Result<Woken> {
    // Without a stage outside the first one is polled twice.
    let outer_fd = outer.map_or(control.as_fd(), AsFd::as_fd);
    let mut fds = [
        PollFd::new(control, PollFlags::IN),
        PollFd::new(&outer_fd, PollFlags::IN),
        PollFd::new(children, PollFlags::IN),
        PollFd::new(ending, PollFlags::IN),
    ];
    let left = stop_by.map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [control, outside, children, ending] = fds.map(|fd| !fd.revents().is_empty());
    // Nothing is ever said by the stage outside: it can only be gone.
    Ok(Woken { control, outer: outer.is_some() && outside, children, ending })
}

/// Starts stage 2 and hands it the specification, with its secrets, through its standard input.
fn spawn(mut spec: LaunchSpec, mut fds: Vec<OwnedFd>, inside: bool) -> Result<(i32, Option<Process>)> {
    let users = if spec.restrictions.confinement.joins_namespaces { fds.pop() } else { None };
    let command = &mut spec.command;
    if fds.len() != command.fd_options.len() {
        return Err(Error::other(format!("{} descriptors came for {} options", fds.len(), command.fd_options.len())));
    }
    for (option, fd) in command.fd_options.drain(..).zip(&fds) {
        fcntl_setfd(fd, FdFlags::empty())?;
        command.args.extend([option, fd.as_raw_fd().to_string()]);
    }
    if let Some(users) = &users {
        fcntl_setfd(users, FdFlags::empty())?;
    }
    let mut child = Command::new("/proc/self/exe")
        .arg0("hoistway-agent")
        .args([EXEC, &std::process::id().to_string()])
        .args(users.as_ref().map(|users| users.as_raw_fd().to_string()))
        .env_clear()
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(Error::other)?;
    // Until it is reaped, which only this thread does, the pid is surely our child. In a PID namespace it is another
    // pid to everybody else, and /proc is theirs.
    let process = match inside {
        true => None,
        false => Some(Process::now(pid).ok_or_else(|| Error::other("/proc is not available"))?),
    };
    if inside {
        // It has what it needs to put the agent's root together, and waits for its specification. We only have to end
        // it, whoever it is by then.
        privileges::keep_only(CapabilitySet::KILL)?;
    }
    if let Some(mut stdin) = child.stdin.take() {
        // If it died at once its end is reaped and reported like any other.
        let _ = stdin.write_all(&serde_json::to_vec(&spec)?);
    }
    Ok((pid, process))
}
