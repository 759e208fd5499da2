//! The launcher of an agent that is forked from a warm parent. What confines the agent is made here, by processes that its
//! packages have never touched, and handed to the forked process, which is checked before it learns anything. It may wait
//! then until there is an agent to become.
//!
//! This process and the builder of the namespaces are outside of the warm parent's PID namespace: whatever has taken
//! it over can neither see nor stop them. The agent ends with the first process of its PID namespace, which this process
//! can always kill.

use super::channel::{Control, memory_file, send};
use super::namespace_builder::{NamespaceBuilder, Namespaces};
use super::procfs::Process;
use super::protocol::{Become, Exit, Order, Report, Restrictions, STACK_SIGNAL};
use super::signals::{self, ENDING};
use super::{forked_check, network};
use hoistway_confine::namespaces::{self, Kinds};
use hoistway_confine::{RunAs, copy_tree, privileges};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_dumpable_behavior,
};
use rustix::thread::CapabilitySet;
use serde_json::json;
use std::io::{Error, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The time that each step of the forked process may take, which takes milliseconds.
pub(crate) const STEP: Duration = Duration::from_secs(3);

/// Runs the stage to its end: no process of the agent is alive when it returns.
pub(super) fn run(restrictions: &Restrictions, fds: Vec<OwnedFd>, mut control: Control) -> Result<()> {
    let ending = signals::listen(&ENDING)?;
    let failed = |error: Error| Report::Failed(format!("the agent's process cannot be forked: {error}"));
    let prepared = match Prepared::make(restrictions, fds) {
        Ok(prepared) => prepared,
        Err(error) => {
            control.report(&failed(error));
            return Ok(());
        }
    };
    control.report(&Report::Prepared);
    let Some((order, fds)) = prepared.wait(&mut control, &ending)? else {
        return prepared.kill();
    };
    let grace = Duration::from_millis(order.grace_ms);
    if let Err(error) = prepared.become_agent(*order, fds) {
        control.report(&failed(error));
        return prepared.kill();
    }
    let agent = prepared.agent;
    control.report(&Report::Started(Some(agent.identity)));
    let exit = agent.supervise(&mut control, &ending, grace)?;
    control.report(&Report::Exited(exit));
    Ok(())
}

/// A forked process that is confined as an agent is, and its first process.
struct Prepared {
    agent: Agent,
    user: Option<RunAs>,
    /// The user namespace of the warm parent.
    users: OwnedFd,
    namespaces: Namespaces,
}

impl Prepared {
    /// The descriptors are those of [`Order::Prepare`].
    fn make(restrictions: &Restrictions, mut fds: Vec<OwnedFd>) -> Result<Self> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let Restrictions { limits, run_as: user, confinement, cgroups } = restrictions;
        let plan = confinement.namespaces.as_ref().ok_or_else(|| Error::other("no namespaces are wanted"))?;
        let supervisor = plan.network.as_ref().and_then(|_| fds.pop());
        if user.is_none()
            && let Some(outer) = fds.pop()
        {
            namespaces::join_users(outer)?;
        }
        let Ok([forked, users]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(Error::other("the socket to the forked process did not come"));
        };
        namespaces::leave(Kinds::NEWPID)?;
        let builder = NamespaceBuilder::start(confinement, *user, &users)?;
        // The namespaces are made meanwhile.
        let moved = into_groups(&forked, cgroups)?;
        let namespaces = builder.wait()?;

        let filters = if confinement.seccomp { vec![hoistway_confine::forked_filter()?] } else { Vec::new() };
        let request = json!({
            "namespaces": namespaces.joined.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "user": user.map(|user| [user.uid, user.gid]),
            "filters": filters,
        });
        let given = namespaces.joined.iter().map(|(_, namespace)| namespace).chain(&namespaces.ruleset);
        send_file(&forked, &request, &given.map(AsFd::as_fd).collect::<Vec<_>>())?;

        let first_pid = step(&forked, b"confined")?;
        if first_pid != moved {
            return Err(Error::other("another process than the forked one is confined"));
        }
        let first = pidfd_open(first_pid, PidfdFlags::empty())?;
        let expected = forked_check::Expected { user: *user, namespaces: &namespaces.joined, groups: cgroups };
        let identity = expected.check(first_pid, forked_check::Role::First)?;
        let main_pid = step(&forked, b"started")?;
        let main = pidfd_open(main_pid, PidfdFlags::empty())?;
        expected.check(main_pid, forked_check::Role::Main(first_pid))?;
        for (pid, pidfd) in [(first_pid, &first), (main_pid, &main)] {
            hoistway_confine::limit_process(pid, limits)?;
            check_alive(pidfd)?;
        }
        let agent = Agent { first, identity, main, forked, supervisor };
        Ok(Self { agent, user: *user, users, namespaces })
    }

    /// Waits for the agent that it is to become, with the descriptors of that; `None` when there will be none.
    fn wait(&self, control: &mut Control, ending: &UnixStream) -> Result<Option<(Box<Become>, Vec<OwnedFd>)>> {
        let ended = loop {
            let fds = [control.as_fd(), self.agent.first.as_fd(), self.agent.main.as_fd(), ending.as_fd()];
            let mut polled = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            break polled.iter().skip(1).any(|fd| !fd.revents().is_empty());
        };
        match if ended { None } else { control.order()? } {
            Some((Order::Become(order), fds)) => Ok(Some((order, fds))),
            _ => Ok(None),
        }
    }

    /// Describes the agent to the process, which has nothing of it before that.
    fn become_agent(&self, order: Become, mut fds: Vec<OwnedFd>) -> Result<()> {
        let Become { command, copied, network, .. } = order;
        if copied.len() != self.namespaces.copies.len() {
            return Err(Error::other("it is prepared for other directories"));
        }
        // Whoever is in the agent's namespaces sees the copies when they are whole.
        for (from, (copy, _)) in copied.iter().zip(&self.namespaces.copies) {
            copy_tree::fill(from, &copy.path(), self.user)
                .map_err(|error| Error::new(error.kind(), format!("{}: {error}", from.display())))?;
        }
        let join = |name: &str| -> Result<()> {
            let namespace = self.namespaces.of(name).ok_or_else(|| Error::other(format!("no {name} namespace")))?;
            namespaces::join(namespace)
        };
        join("mnt")?;
        self.namespaces.copies.iter().try_for_each(|(copy, at)| copy.mount_on(at))?;
        if let Some(network) = &network {
            let supervisor = self.agent.supervisor.as_ref();
            join("net")?;
            network::listen(
                network,
                supervisor.ok_or_else(|| Error::other("nobody wants egress' listeners"))?,
                &mut fds,
            )?;
        }
        // There it has to end processes of the agent's user, and nothing else.
        namespaces::join_users(&self.users)?;
        privileges::keep_only(CapabilitySet::KILL)?;
        check_alive(&self.agent.first)?;
        check_alive(&self.agent.main)?;
        let described = json!({
            "args": command.args,
            "env": command.env.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "cwd": command.cwd,
            "fd_options": command.fd_options,
        });
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let given = [out.as_fd(), err.as_fd()].into_iter().chain(fds.iter().map(AsFd::as_fd));
        send_file(&self.agent.forked, &described, &given.collect::<Vec<_>>())
    }

    /// Ends the process.
    fn kill(self) -> Result<()> {
        let _ = pidfd_send_signal(&self.agent.first, Signal::KILL);
        let limit = Timespec::try_from(STEP).map_err(Error::other)?;
        match poll(&mut [PollFd::new(&self.agent.first, PollFlags::IN)], Some(&limit))? {
            0 => Err(Error::other("the warm parent keeps the process from ending")),
            _ => Ok(()),
        }
    }
}

/// A forked agent.
struct Agent {
    /// The first process of its PID namespace.
    first: OwnedFd,
    identity: Process,
    /// Its main process.
    main: OwnedFd,
    /// The first process reports the end of the main one here.
    forked: OwnedFd,
    /// Asks for sockets of its network.
    supervisor: Option<OwnedFd>,
}

impl Agent {
    /// Waits for the end of the agent, and ends it when that is asked for, or when the supervisor is gone.
    fn supervise(mut self, control: &mut Control, ending: &UnixStream, grace: Duration) -> Result<Exit> {
        let (mut kill_at, mut dead_by): (Option<Instant>, Option<Instant>) = (None, None);
        let mut is_control_open = true;
        loop {
            // Descriptors of which nothing is expected any more are replaced by the first one.
            let control_fd = if is_control_open { control.as_fd() } else { self.first.as_fd() };
            let supervisor = self.supervisor.as_ref().map_or(self.first.as_fd(), AsFd::as_fd);
            let fds = [self.first.as_fd(), control_fd, ending.as_fd(), supervisor];
            let mut polled = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
            let left = dead_by.or(kill_at).map(|at| at.saturating_duration_since(Instant::now()));
            match poll(&mut polled, left.and_then(|left| Timespec::try_from(left).ok()).as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [ended, ordered, asked, wanted] = polled.map(|fd| !fd.revents().is_empty());
            if ended {
                return Ok(self.exit());
            }
            if dead_by.is_some_and(|by| Instant::now() >= by) {
                // A process from which it was forked does not reap one that is in its namespace.
                return Err(Error::other("the warm parent keeps the agent from ending"));
            }
            let mut stop_within = None;
            if asked {
                signals::drain(ending);
                stop_within = Some(grace);
            }
            if ordered && is_control_open {
                match control.receive()? {
                    None => {
                        is_control_open = false;
                        kill_at = Some(Instant::now());
                    }
                    Some(orders) => {
                        for order in orders {
                            match order {
                                Order::Stop(ms) => stop_within = Some(Duration::from_millis(ms)),
                                Order::WriteStack => self.signal_main(&[STACK_SIGNAL, Signal::CONT]),
                                Order::Launch(_) | Order::Prepare(_) | Order::Become(_) => {}
                            }
                        }
                    }
                }
            }
            if let Some(within) = stop_within {
                // The main process alone drains. A second request can only shorten the time.
                if kill_at.is_none() {
                    self.signal_main(&[Signal::TERM]);
                }
                let at = Instant::now() + within;
                kill_at = Some(kill_at.map_or(at, |before| before.min(at)));
            }
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                let _ = pidfd_send_signal(&self.first, Signal::KILL);
                kill_at = None;
                dead_by.get_or_insert(Instant::now() + STEP);
            }
            if wanted
                && let Some(socket) = &self.supervisor
                && !network::hand_out_sockets(socket)
            {
                self.supervisor = None;
            }
        }
    }

    fn signal_main(&self, signals: &[Signal]) {
        for signal in signals {
            // One that has ended needs none.
            let _ = pidfd_send_signal(&self.main, *signal);
        }
    }

    /// The end of the main process, once all have ended.
    fn exit(&self) -> Exit {
        let mut buffer = [0; 256];
        let _ = rustix::io::ioctl_fionbio(&self.forked, true);
        let got = rustix::io::read(&self.forked, &mut buffer).unwrap_or_default();
        // One that was killed with all others could not be reported.
        serde_json::from_slice(&buffer[..got]).unwrap_or(Exit::Signal(Signal::KILL.as_raw()))
    }
}

/// Waits for a forked process, and moves it into an agent's control groups, where everything that it forks begins.
fn into_groups(forked: &OwnedFd, groups: &[PathBuf]) -> Result<Pid> {
    let pid = step(forked, b"forked")?;
    // Its number is not another process' before it has been waited for, and it has not ended as long as this says so.
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    if !forked_check::is_first_of_namespace(pid)? {
        return Err(Error::other("it is not the first process of a PID namespace"));
    }
    groups.iter().try_for_each(|procs| std::fs::write(procs, pid.to_string()))?;
    check_alive(&process)?;
    Ok(pid)
}

fn check_alive(process: &OwnedFd) -> Result<()> {
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => Err(Error::other("the forked process has ended")),
    }
}

/// Sends a message that may be longer than a socket's buffer: in a file.
fn send_file(socket: &OwnedFd, message: &serde_json::Value, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let file = memory_file(message)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().copied().chain([file.as_fd()]).collect();
    send(socket, b"file", &fds).map(drop)
}

/// Waits until a process of the agent says that it has come so far, and returns its number, which the kernel tells.
fn step(socket: &OwnedFd, name: &[u8]) -> Result<Pid> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 64];
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::empty()) {
            Ok(got) => break got.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Error::other("the forked process does not answer")),
            Err(error) => return Err(error.into()),
        }
    };
    if &buffer[..got] != name {
        return Err(Error::other(format!("the forked process ended before it was {}", String::from_utf8_lossy(name))));
    }
    let sender = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
        _ => None,
    });
    sender.ok_or_else(|| Error::other("the forked process has no number here"))
}
