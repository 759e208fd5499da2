//! The stage outside of an agent's namespaces: it makes them, starts their first process, and waits for its end.

use super::control::{self, Control};
use super::init::{self, ENDING};
use super::spec::{LaunchSpec, Namespaces, Order, Report};
use super::{INSIDE, confine::namespaces};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{Error, Result};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Runs the stage to its end: the namespaces are gone when it returns.
pub(super) fn run(spec: LaunchSpec, fds: Vec<OwnedFd>, mut control: Control) -> Result<()> {
    // Somebody may end us softly, and so the process inside gets its chance.
    let ending = init::signals(&ENDING)?;
    let (mut child, _lifeline) = match start(spec, fds, &control) {
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
        let mut wakers = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&ending, PollFlags::IN)];
        match poll(&mut wakers, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [ended, asked] = wakers.map(|fd| !fd.revents().is_empty());
        if ended {
            let status = child.wait()?;
            return if status.success() { Ok(()) } else { Err(Error::other(format!("inside: {status}"))) };
        }
        if asked {
            init::drain(&ending);
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// The first process, and the socket whose closing ends it.
fn start(mut spec: LaunchSpec, mut fds: Vec<OwnedFd>, control: &Control) -> Result<(std::process::Child, UnixStream)> {
    let Some(plan) = &spec.confinement.namespaces else { return Err(Error::other("none are wanted")) };
    namespaces::unshare(plan)?;
    hand_out_egress(plan, &mut fds)?;
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0("hoistway-agent inside")
        .arg(INSIDE)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    spec.cgroups.clear();
    let mut order = serde_json::to_vec(&Order::Launch(Box::new(spec)))?;
    order.push(b'\n');
    let sent: Vec<BorrowedFd<'_>> = std::iter::once(control.as_fd()).chain(fds.iter().map(AsFd::as_fd)).collect();
    let first = control::send(&ours, &order, &sent)?;
    control::write_all(&ours, &order[first..])?;
    Ok((child, ours))
}

/// In a network of its own the agent reaches these listeners, which are bound here and served by whoever gets them.
/// Nobody else can connect to them, so they identify the agent.
fn hand_out_egress(plan: &Namespaces, fds: &mut Vec<OwnedFd>) -> Result<()> {
    let Some(network) = &plan.network else { return Ok(()) };
    namespaces::bring_loopback_up()?;
    let receiver = fds.pop().ok_or_else(|| Error::other("nobody wants egress' listeners"))?;
    for address in &network.listen {
        let listener = TcpListener::bind(address)
            .map_err(|error| Error::new(error.kind(), format!("listening on {address}: {error}")))?;
        control::send(&receiver, b"\n", &[listener.as_fd()])?;
    }
    Ok(())
}
