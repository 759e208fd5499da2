//! The last stage of an agent that is forked from a warm parent: what confines it is made here, by a process that the
//! agent's packages have never touched, and handed to the forked process. That one is checked before it learns anything.

use super::OOM_SCORE;
use super::channel::{memory_file, send};
use super::protocol::{Exit, LaunchSpec};
use hoistway_confine::{Limits, RunAs, privileges};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_passcred, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use rustix::process::Pid;
use rustix::thread::CapabilitySet;
use serde_json::json;
use std::fs::{self, File};
use std::io::{Error, IoSliceMut, Result, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The time that the parent may take to fork, which takes milliseconds.
const FORK: Duration = Duration::from_secs(3);
/// The namespaces that the forked process joins. The first gives it the right to join the others.
const NAMESPACES: [&str; 4] = ["user", "ipc", "pid", "mnt"];

/// A forked agent's main process. Its parent is the first process of the warm parent's namespace, which reports its end.
pub(super) struct Forked {
    pub pid: i32,
    ends: OwnedFd,
}

impl Forked {
    /// Waits at most `limit` for the end.
    pub fn wait(&self, limit: Duration) -> Option<Exit> {
        let limit = Timespec::try_from(limit).ok();
        match poll(&mut [PollFd::new(&self.ends, PollFlags::IN)], limit.as_ref()) {
            Ok(1..) => Some(self.ended()),
            _ => None,
        }
    }

    /// The end, once the descriptor is readable.
    pub fn ended(&self) -> Exit {
        let mut buffer = [0; 256];
        let got = rustix::io::read(&self.ends, &mut buffer).unwrap_or_default();
        // Whoever would report it is gone, and all others with it.
        serde_json::from_slice(&buffer[..got]).unwrap_or(Exit::Signal(9))
    }
}

impl AsFd for Forked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }
}

/// Has the agent forked. The descriptors are those of its options, the socket to the parent's namespace, and its control
/// groups.
pub(super) fn start(spec: &LaunchSpec, mut fds: Vec<OwnedFd>) -> Result<Forked> {
    if fds.len() <= spec.fd_options.len() {
        return Err(Error::other("the socket to the warm parent did not come"));
    }
    let mut others = fds.split_off(spec.fd_options.len());
    let ruleset = match spec.confinement.landlock {
        Some(_) => others.pop(),
        None => None,
    };
    let parent = others.remove(0);
    hoistway_confine::mount_proc()?;
    // All that is left to do concerns the agent's own user.
    privileges::keep_only(CapabilitySet::empty())?;

    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_passcred(&ours, true)?;
    set_socket_timeout(&ours, Timeout::Recv, Some(FORK))?;
    let network = spec.confinement.namespaces.as_ref().is_some_and(|own| own.network.is_some()).then_some("net");
    let names: Vec<&str> = NAMESPACES.into_iter().chain(network).collect();
    let open = |name: &&str| File::open(format!("/proc/self/ns/{name}"));
    let namespaces = names.iter().map(open).collect::<Result<Vec<_>>>()?;
    let filters = if spec.confinement.seccomp { vec![hoistway_confine::forked_filter()?] } else { Vec::new() };
    let request = json!({
        "namespaces": namespaces.len(),
        "user": spec.run_as.map(|user| [user.uid, user.gid]),
        "limits": limits(&spec.limits),
        "oom_score": OOM_SCORE,
        "filters": filters,
    });
    let given: Vec<BorrowedFd<'_>> =
        namespaces.iter().map(AsFd::as_fd).chain(ruleset.as_ref().map(AsFd::as_fd)).collect();
    send_file(&ours, &request, &given)?;
    send(&parent, b"\n", &[theirs.as_fd()])?;
    drop((theirs, namespaces));

    let pid = confined(&ours)?;
    check(pid, spec.run_as, &names)?;
    for procs in others {
        File::from(procs).write_all(pid.to_string().as_bytes())?;
    }
    let described = json!({ "args": spec.args, "env": spec.env.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "cwd": spec.cwd, "fd_options": spec.fd_options });
    let (out, err) = (std::io::stdout(), std::io::stderr());
    let given: Vec<BorrowedFd<'_>> =
        [out.as_fd(), err.as_fd()].into_iter().chain(fds.iter().map(AsFd::as_fd)).collect();
    send_file(&ours, &described, &given)?;
    Ok(Forked { pid, ends: parent })
}

/// Sends a message that may be longer than a socket's buffer: in a file.
fn send_file(socket: &OwnedFd, message: &serde_json::Value, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let file = memory_file(message)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().copied().chain([file.as_fd()]).collect();
    send(socket, b"file", &fds).map(drop)
}

/// Resource limits by the names that Python has for them.
fn limits(limits: &Limits) -> serde_json::Value {
    let all = [
        ("CORE", Some(0)),
        ("NPROC", limits.processes),
        ("NOFILE", limits.open_files),
        ("FSIZE", limits.file_size),
        ("DATA", limits.data),
    ];
    all.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?)))).collect()
}

/// Waits until the forked process says that it is confined, and returns its number here, which the kernel tells.
fn confined(socket: &OwnedFd) -> Result<i32> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 64];
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::empty()) {
            Ok(got) => break got.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Error::other("the warm parent does not fork")),
            Err(error) => return Err(error.into()),
        }
    };
    if &buffer[..got] != b"confined" {
        return Err(Error::other("the forked process ended before it was confined"));
    }
    let sender = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(Pid::as_raw(Some(sender.pid))),
        _ => None,
    });
    sender.ok_or_else(|| Error::other("the forked process has no number here"))
}

/// Checks that the process has given up what no agent has: it was forked from one that imported the agent's packages.
fn check(pid: i32, user: Option<RunAs>, namespaces: &[&str]) -> Result<()> {
    let (status, own) = (fs::read_to_string(format!("/proc/{pid}/status"))?, fs::read_to_string("/proc/self/status")?);
    let field_of = |status: &'_ str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let field = |name: &str| field_of(&status, name);
    // It has two filters of the process from which it was forked and one of its own, this process has one. Kernels before
    // 5.9 do not count them.
    let filters = |status: &str| field_of(status, "Seccomp_filters").first().and_then(|text| text.parse::<u32>().ok());
    let is_filtered = filters(&own).is_none_or(|count| filters(&status) == Some(count + 2));
    let no_capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .iter()
        .all(|set| field(set).iter().all(|bits| bits.bytes().all(|digit| digit == b'0')));
    let all = |name: &str, id: u32| field(name).iter().all(|own| own.parse() == Ok(id));
    let is_user = user.is_none_or(|user| all("Uid", user.uid) && all("Gid", user.gid) && field("Groups").is_empty());
    let joined = |name: &&str| {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
        of("self").is_some_and(|own| of(&pid.to_string()) == Some(own))
    };
    let is_confined = no_capabilities
        && is_user
        && field("NoNewPrivs") == ["1"]
        && field("Seccomp") == ["2"]
        && is_filtered
        && fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim() == OOM_SCORE.to_string()
        && namespaces.iter().all(joined);
    match is_confined && field("Threads") == ["1"] {
        true => Ok(()),
        false => Err(Error::other("the forked process is not confined")),
    }
}
