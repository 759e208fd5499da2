//! The stage outside of an agent's namespaces: it makes them, starts their first process, and waits for its end.

use super::channel::{self, Control};
use super::protocol::{LaunchSpec, Order, Report};
use super::signals::{self, ENDING};
use super::{INSIDE, network};
use hoistway_confine::namespaces;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
            && !network::hand_out_sockets(socket)
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
    let Some(plan) = &spec.restrictions.confinement.namespaces else { return Err(Error::other("none are wanted")) };
    let supervisor = plan.network.as_ref().and_then(|_| fds.pop());
    if spec.restrictions.confinement.joins_namespaces
        && spec.restrictions.run_as.is_none()
        && let Some(outer) = fds.pop()
    {
        namespaces::join_users(outer)?;
    }
    namespaces::unshare(plan)?;
    if let Some(network) = &plan.network {
        let supervisor = supervisor.as_ref().ok_or_else(|| Error::other("nobody wants egress' listeners"))?;
        // Packages of a warm parent ask whether it is there, too.
        namespaces::bring_loopback_up()?;
        network::listen(network, supervisor, &mut fds)?;
    }
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0("hoistway-agent inside")
        .arg(INSIDE)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    spec.restrictions.cgroups.clear();
    let sent: Vec<BorrowedFd<'_>> = std::iter::once(control.as_fd()).chain(fds.iter().map(AsFd::as_fd)).collect();
    let rest = channel::send_order(&ours, &Order::Launch(Box::new(spec)), &sent)?;
    channel::write_all(&ours, &rest)?;
    Ok((child, ours, supervisor))
}
