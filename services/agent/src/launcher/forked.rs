//! The launcher of an agent that is forked from a warm parent. What confines the agent is made here, by processes that its
//! packages have never touched, and handed to the forked process, which is checked before it learns anything.
//!
//! This process and the builder of the root directory are outside of the warm parent's PID namespace: whatever has taken
//! it over can neither see nor stop them. The agent ends with the first process of its PID namespace, which this process
//! can always kill.

use super::channel::{Control, memory_file, send};
use super::procfs::{Process, own_namespace};
use super::protocol::{Exit, LaunchSpec, Order, Report, STACK_SIGNAL};
use super::root_builder::{Root, RootBuilder};
use super::signals::{self, ENDING};
use super::{forked_check, network};
use hoistway_confine::namespaces::{self, Kinds};
use hoistway_confine::{Namespaces, privileges};
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
pub(super) fn run(spec: &LaunchSpec, fds: Vec<OwnedFd>, mut control: Control) -> Result<()> {
    let ending = signals::listen(&ENDING)?;
    let agent = match Agent::start(spec, fds) {
        Ok(agent) => agent,
        Err(error) => {
            control.report(&Report::Failed(format!("the agent's process cannot be forked: {error}")));
            return Ok(());
        }
    };
    control.report(&Report::Started(Some(agent.identity)));
    let exit = agent.supervise(&mut control, &ending, Duration::from_millis(spec.grace_ms))?;
    control.report(&Report::Exited(exit));
    Ok(())
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
    /// The descriptors are those of its options, the socket to the forked process, the user namespace of the warm parent,
    /// and the supervisor's socket, if the agent has a network of its own.
    fn start(spec: &LaunchSpec, mut fds: Vec<OwnedFd>) -> Result<Self> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let plan = spec.confinement.namespaces.as_ref();
        let plan = plan.ok_or_else(|| Error::other("no namespaces are wanted"))?;
        let supervisor = plan.network.as_ref().and_then(|_| fds.pop());
        if spec.run_as.is_none()
            && let Some(outer) = fds.pop()
        {
            namespaces::join_users(outer)?;
        }
        let (Some(users), Some(forked)) = (fds.pop(), fds.pop()) else {
            return Err(Error::other("the socket to the forked process did not come"));
        };
        let made = Made::begin(spec, plan, &users, supervisor.as_ref(), &mut fds)?;
        drop(users);
        let moved = match spec.waiting {
            Some(pid) => Pid::from_raw(pid).ok_or_else(|| Error::other("the forked process has no number"))?,
            // The root directory is built meanwhile.
            None => into_groups(&forked, &spec.cgroups)?,
        };
        let own = made.finish()?;

        let filters = if spec.confinement.seccomp { vec![hoistway_confine::forked_filter()?] } else { Vec::new() };
        let request = json!({
            "namespaces": own.namespaces.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "user": spec.run_as.map(|user| [user.uid, user.gid]),
            "filters": filters,
        });
        let given = own.namespaces.iter().map(|(_, namespace)| namespace).chain(&own.ruleset);
        send_file(&forked, &request, &given.map(AsFd::as_fd).collect::<Vec<_>>())?;

        let first_pid = step(&forked, b"confined")?;
        if first_pid != moved {
            return Err(Error::other("another process than the forked one is confined"));
        }
        let first = pidfd_open(first_pid, PidfdFlags::empty())?;
        let expected = forked_check::Expected { user: spec.run_as, namespaces: &own.namespaces, groups: &spec.cgroups };
        let identity = expected.check(first_pid, forked_check::Role::First)?;
        let main_pid = step(&forked, b"started")?;
        let main = pidfd_open(main_pid, PidfdFlags::empty())?;
        expected.check(main_pid, forked_check::Role::Main(first_pid))?;
        for (pid, pidfd) in [(first_pid, &first), (main_pid, &main)] {
            hoistway_confine::limit_process(pid, &spec.limits)?;
            check_alive(pidfd)?;
        }
        let described = json!({
            "args": spec.args,
            "env": spec.env.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "cwd": spec.cwd,
            "fd_options": spec.fd_options,
        });
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let given = [out.as_fd(), err.as_fd()].into_iter().chain(fds.iter().map(AsFd::as_fd));
        send_file(&forked, &described, &given.collect::<Vec<_>>())?;
        // It has to end processes of the agent's user.
        privileges::keep_only(CapabilitySet::KILL)?;
        Ok(Self { first, identity, main, forked, supervisor })
    }

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
                                Order::Launch(_) => {}
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
pub(crate) fn into_groups(forked: &OwnedFd, groups: &[PathBuf]) -> Result<Pid> {
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

/// What the forked process joins.
struct Joined {
    /// By their names in `/proc`, in the order in which they are joined. The first ones belong to the user namespace of the
    /// warm parent; the last is one below that, with the agent's user.
    namespaces: Vec<(&'static str, OwnedFd)>,
    ruleset: Option<OwnedFd>,
}

/// The same while the root directory is being built.
struct Made {
    namespaces: Vec<(&'static str, OwnedFd)>,
    builder: RootBuilder,
}

impl Made {
    fn begin(
        spec: &LaunchSpec,
        plan: &Namespaces,
        users: &OwnedFd,
        supervisor: Option<&OwnedFd>,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Self> {
        namespaces::leave(Kinds::NEWPID)?;
        let builder = RootBuilder::start(&spec.confinement, spec.run_as, users)?;
        // No program is executed from here on, where the warm parent could have a say in how that is done.
        namespaces::join_users(users)?;
        namespaces::leave(Kinds::NEWIPC)?;
        let mut namespaces = vec![("ipc", own_namespace("ipc")?)];
        if let Some(network) = &plan.network {
            let supervisor = supervisor.ok_or_else(|| Error::other("nobody wants egress' listeners"))?;
            namespaces::leave(Kinds::NEWNET)?;
            network::furnish(network, supervisor, fds)?;
            namespaces.push(("net", own_namespace("net")?));
        }
        Ok(Self { namespaces, builder })
    }

    fn finish(self) -> Result<Joined> {
        let Self { mut namespaces, builder } = self;
        let Root { mounts, users, ruleset } = builder.wait()?;
        namespaces.extend([("mnt", mounts), ("user", users)]);
        Ok(Joined { namespaces, ruleset })
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
