//! Stage 1: the agent's init. It has one thread and three things to listen to: its supervisor, its children, and the
//! signals that ask it to end.

use super::procfs::Process;
use super::spec::{Exit, LaunchSpec, Order, Report};
use super::{EXEC, tree};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper, setsid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{Error, IoSliceMut, Read, Result, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The most descriptors that an agent inherits beyond the standard three.
pub(crate) const MAX_FDS: usize = 8;

/// Runs the stage to its end: no descendant is alive when it returns.
pub(super) fn run() -> Result<()> {
    // A session of our own: the terminal's Ctrl-C is the supervisor's business. This fails only for a process group
    // leader, which the supervisor does not make us.
    let _ = setsid();
    set_child_subreaper(Some(getpid()))?;
    // Registering handlers also undoes an inherited "ignore" (nohup): handled signals are back to default after exec.
    let children = signals(&[SIGCHLD])?;
    let ending = signals(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;

    let mut control = Control::default();
    let Some((spec, fds)) = control.launch()? else {
        return Ok(());
    };
    let grace = Duration::from_millis(spec.grace_ms);
    let mut agent = match spawn(*spec, fds) {
        Ok(process) => {
            control.report(&Report::Started(process));
            Agent { process, stop_by: None, ended: false }
        }
        Err(error) => {
            control.report(&Report::Failed(format!("the agent's process cannot be started: {error}")));
            return Ok(());
        }
    };

    loop {
        let woken = wait_for(&children, &ending, agent.stop_by)?;
        if woken.children {
            drain(&children);
            tree::reap(&mut |pid, exit| agent.reaped(pid, exit, &mut control));
        }
        if woken.ending {
            drain(&ending);
            agent.stop(grace);
        }
        let mut orphaned = false;
        if woken.control {
            match control.receive()? {
                None => orphaned = true,
                Some(orders) => {
                    for order in orders {
                        if let Order::Stop(ms) = order {
                            agent.stop(Duration::from_millis(ms));
                        }
                    }
                }
            }
        }
        let late = agent.stop_by.is_some_and(|by| Instant::now() >= by);
        if orphaned || late || agent.ended {
            return tree::kill_own(|pid, exit| agent.reaped(pid, exit, &mut control));
        }
    }
}

/// The agent's main process.
struct Agent {
    process: Process,
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
            && let Some(pid) = Pid::from_raw(self.process.pid)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.stop_by = Some(self.stop_by.map_or(by, |before| before.min(by)));
    }

    fn reaped(&mut self, pid: i32, exit: Exit, control: &mut Control) {
        if pid == self.process.pid && !self.ended {
            self.ended = true;
            control.report(&Report::Exited(exit));
        }
    }
}

/// A pipe that is readable once one of the signals came.
fn signals(numbers: &[i32]) -> Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for &number in numbers {
        signal_hook::low_level::pipe::register(number, write.try_clone()?)?;
    }
    Ok(read)
}

fn drain(mut pipe: &UnixStream) {
    let mut bytes = [0; 64];
    while matches!(pipe.read(&mut bytes), Ok(n) if n > 0) {}
}

struct Woken {
    control: bool,
    children: bool,
    ending: bool,
}

fn wait_for(children: &UnixStream, ending: &UnixStream, until: Option<Instant>) -> Result<Woken> {
    let control = rustix::stdio::stdin();
    let mut fds = [
        PollFd::new(&control, PollFlags::IN),
        PollFd::new(children, PollFlags::IN),
        PollFd::new(ending, PollFlags::IN),
    ];
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [control, children, ending] = fds.map(|fd| !fd.revents().is_empty());
    Ok(Woken { control, children, ending })
}

/// The socket to the supervisor, which is our standard input.
#[derive(Default)]
struct Control {
    unread: Vec<u8>,
}

impl Control {
    /// Waits for the launch order and the descriptors that come with it; `None` when the supervisor went away.
    fn launch(&mut self) -> Result<Option<(Box<LaunchSpec>, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let got = match recvmsg(rustix::stdio::stdin(), &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => got.bytes,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
            if got == 0 {
                return Ok(None);
            }
            self.unread.extend_from_slice(&buffer[..got]);
            match self.orders()?.into_iter().next() {
                Some(Order::Launch(spec)) => return Ok(Some((spec, fds))),
                Some(Order::Stop(_)) => return Ok(None),
                None => {}
            }
        }
    }

    /// Reads what is there; `None` when the supervisor is gone, however it went.
    fn receive(&mut self) -> Result<Option<Vec<Order>>> {
        let mut buffer = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => Ok(None),
            Ok(got) => {
                self.unread.extend_from_slice(&buffer[..got]);
                self.orders().map(Some)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(Some(Vec::new())),
            Err(_) => Ok(None),
        }
    }

    /// The whole lines read so far.
    fn orders(&mut self) -> Result<Vec<Order>> {
        let Some(end) = self.unread.iter().rposition(|&b| b == b'\n') else {
            return Ok(Vec::new());
        };
        let lines: Vec<u8> = self.unread.drain(..=end).collect();
        let lines = lines.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(Error::from)).collect()
    }

    fn report(&mut self, report: &Report) {
        let Ok(mut line) = serde_json::to_vec(report) else { return };
        line.push(b'\n');
        // A supervisor that is gone is noticed when reading.
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(rustix::stdio::stdin(), rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Starts stage 2 and hands it the specification, with its secrets, through its standard input.
fn spawn(mut spec: LaunchSpec, fds: Vec<OwnedFd>) -> Result<Process> {
    if fds.len() != spec.fd_options.len() {
        return Err(Error::other(format!("{} descriptors came for {} options", fds.len(), spec.fd_options.len())));
    }
    for (option, fd) in spec.fd_options.drain(..).zip(&fds) {
        fcntl_setfd(fd, FdFlags::empty())?;
        spec.args.extend([option, fd.as_raw_fd().to_string()]);
    }
    let mut child = Command::new("/proc/self/exe")
        .arg0("hoistway-agent")
        .args([EXEC, &std::process::id().to_string()])
        .env_clear()
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(Error::other)?;
    // Until it is reaped, which only this thread does, the pid is surely our child.
    let process = Process::now(pid).ok_or_else(|| Error::other("/proc is not available"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it died at once its end is reaped and reported like any other.
        let _ = stdin.write_all(&serde_json::to_vec(&spec)?);
    }
    Ok(process)
}
