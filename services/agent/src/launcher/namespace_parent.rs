//! The stage outside of an agent's namespaces: it makes them, starts their first process, and waits for its end.

use super::channel::{self, Control};
use super::protocol::{LaunchSpec, Report};
use super::signals::{self, ENDING};
use super::{INSIDE, MAP};
use hoistway_confine::{ForkedRoot, Namespaces, RunAs, namespaces, privileges};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, kill_process, pidfd_open, set_dumpable_behavior, umask,
};
use rustix::thread::CapabilitySet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, Result};
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Runs the stage to its end: the namespaces are gone when it returns.
pub(super) fn run(spec: LaunchSpec, fds: Vec<OwnedFd>, mut control: Control) -> Result<()> {
    // Somebody may end us softly, and so the process inside gets its chance.
    let ending = signals::listen(&ENDING)?;
    let (mut child, _lifeline, mut supervisor) = match start(spec, fds, &control) {
        Ok(started) => started,
        Err(error) => {
            control.report(&Report::Failed(format!("the agent's namespaces cannot be made: {error}")));
            return Ok(());
        }
    };
    // From here on the process inside speaks with the supervisor.
    drop(control);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::other("the first process has no pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        // Without a network of the agent's own the first one is polled twice.
        let third = supervisor.as_ref().map_or(pidfd.as_fd(), AsFd::as_fd);
        let fds = [pidfd.as_fd(), ending.as_fd(), third];
        let mut wakers = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut wakers, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [ended, asked, wanted] = wakers.map(|fd| !fd.revents().is_empty());
        if ended {
            let status = child.wait()?;
            return if status.success() { Ok(()) } else { Err(Error::other(format!("inside: {status}"))) };
        }
        if asked {
            signals::drain(&ending);
            let _ = kill_process(pid, Signal::TERM);
        }
        if wanted
            && let Some(socket) = &supervisor
            && !hand_out_sockets(socket)
        {
            supervisor = None;
        }
    }
}

/// The first process, the socket whose closing ends it, and the one on which the supervisor asks for sockets.
fn start(
    mut spec: LaunchSpec,
    mut fds: Vec<OwnedFd>,
    control: &Control,
) -> Result<(Child, UnixStream, Option<OwnedFd>)> {
    let Some(plan) = &spec.confinement.namespaces else { return Err(Error::other("none are wanted")) };
    let mut forked = match spec.forked {
        true => Some(Forked::unshare(&spec, plan)?),
        false => None,
    };
    if forked.is_none() {
        namespaces::unshare(plan)?;
    }
    let supervisor = make_network(plan, &mut fds)?;
    let (ours, theirs) = UnixStream::pair()?;
    let program = match &mut forked {
        Some(forked) => {
            fds.append(&mut forked.fds);
            hoistway_confine::restrict_launcher()?;
            format!("/proc/self/fd/{}", forked.program.as_raw_fd())
        }
        None => "/proc/self/exe".to_owned(),
    };
    let child = Command::new(program)
        .arg0("hoistway-agent inside")
        .arg(INSIDE)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    if forked.is_some() {
        privileges::keep_only(CapabilitySet::empty())?;
    }
    spec.cgroups.clear();
    let sent: Vec<BorrowedFd<'_>> = std::iter::once(control.as_fd()).chain(fds.iter().map(AsFd::as_fd)).collect();
    let rest = channel::send_launch(&ours, spec, &sent)?;
    channel::write_all(&ours, &rest)?;
    Ok((child, ours, supervisor))
}

/// What was made for a forked agent before its namespaces, which belong to the user whose processes may join them.
struct Forked {
    /// The program of their first process.
    program: OwnedFd,
    /// Its further descriptors: the agent's control groups, then the Landlock ruleset, if there is one.
    fds: Vec<OwnedFd>,
}

impl Forked {
    /// Leaves the namespaces for those of the agent. Its root comes first: nothing of the machine may be in reach of
    /// that user.
    fn unshare(spec: &LaunchSpec, plan: &Namespaces) -> Result<Self> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        // The forked process is none of our descendants, and its root has none of these files.
        let groups = spec.cgroups.iter().map(|procs| Ok(File::options().write(true).open(procs)?.into()));
        let mut fds = groups.collect::<Result<Vec<OwnedFd>>>()?;
        // While its /proc is that of the machine.
        let users = plan.owner.zip(spec.run_as);
        let mapper = users.map(|(_, agent)| Mapper::start(agent)).transpose()?;
        namespaces::unshare_mounts()?;
        // The new root has modes of its own.
        umask(Mode::empty());
        let ForkedRoot { program, ruleset } = hoistway_confine::build_root(&spec.confinement, spec.run_as)?;
        fds.extend(ruleset);
        match users.zip(mapper) {
            Some(((owner, agent), mapper)) => namespaces::unshare_for(plan, owner, agent, || mapper.map())?,
            None => {
                // This process may open its own files in /proc to give the namespace its user.
                set_dumpable_behavior(DumpableBehavior::Dumpable)?;
                namespaces::unshare_for_oneself(plan)?;
                set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            }
        }
        Ok(Self { program, fds })
    }
}

/// The process that gives the user namespace of this one its user, from outside.
struct Mapper(Child);

impl Mapper {
    fn start(user: RunAs) -> Result<Self> {
        let own = std::fs::read_link("/proc/self")?;
        let user = [user.uid, user.gid].map(|id| id.to_string());
        let mut command = Command::new("/proc/self/exe");
        Ok(Self(command.arg(MAP).arg(own).args(user).env_clear().stdin(Stdio::piped()).spawn()?))
    }

    fn map(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        match self.0.wait()? {
            status if status.success() => Ok(()),
            status => Err(Error::other(format!("the user namespace got no users: {status}"))),
        }
    }
}

/// Gives the user namespace of a process its user once standard input ends. The arguments are its number, a user and a
/// group.
pub(super) fn map_user(args: impl Iterator<Item = OsString>) -> Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    let numbers = args.map(|arg| arg.to_str().and_then(|text| text.parse::<u32>().ok()));
    match numbers.collect::<Option<Vec<u32>>>().as_deref() {
        Some(&[pid, uid, gid]) => {
            namespaces::map_user_of(i32::try_from(pid).map_err(Error::other)?, RunAs { uid, gid })
        }
        _ => Err(Error::other("an argument is missing")),
    }
}

/// In a network of its own the agent reaches the listeners of egress, which are bound here and served by whoever gets
/// them. Nobody else can connect to them, so they identify the agent. The one for its callers is the agent's. Returns
/// the socket to the supervisor.
fn make_network(plan: &Namespaces, fds: &mut Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    let Some(network) = &plan.network else { return Ok(None) };
    if !network.listen.is_empty() {
        namespaces::bring_loopback_up()?;
    }
    let supervisor = fds.pop().ok_or_else(|| Error::other("nobody wants egress' listeners"))?;
    for address in &network.listen {
        channel::send(&supervisor, b"\n", &[bind(*address)?.as_fd()])?;
    }
    if let Some(address) = network.callers {
        fds.insert(0, bind(address)?.into());
    }
    Ok(Some(supervisor))
}

fn bind(address: SocketAddrV4) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| Error::new(error.kind(), format!("listening on {address}: {error}")))
}

/// Sends a socket of this network for each byte that has come: the supervisor is in another, and connects callers to
/// the agent with them. Returns whether it is still there.
fn hand_out_sockets(supervisor: &OwnedFd) -> bool {
    let mut wanted = [0; 64];
    let count = match rustix::io::read(supervisor, &mut wanted) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(Errno::INTR | Errno::AGAIN) => 0,
        Err(_) => return false,
    };
    (0..count).all(|_| {
        let sent = match socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None) {
            Ok(socket) => channel::send(supervisor, b"\n", &[socket.as_fd()]).map(drop),
            // A byte without a socket says that there is none now.
            Err(_) => channel::write_all(supervisor, b"\n"),
        };
        sent.is_ok()
    })
}
