//! The process that makes the namespaces of an agent that is forked from a warm parent, with its root directory. Everything
//! that it makes is handed on as descriptors, and it ends before the warm parent learns of them: nothing that can be changed
//! there is left of it.

use super::channel::{memory_file, receive, send};
use super::procfs::own_namespace;
use hoistway_confine::namespaces::{self, Kinds};
use hoistway_confine::{Access, Confinement, Detached, RunAs};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Error, Read, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 4096;

/// What is asked of it, which has no secrets.
#[derive(Serialize, Deserialize)]
struct Request {
    confinement: Confinement,
    user: Option<RunAs>,
}

/// The parts of an answer that has descriptors for all of them, in this order.
#[derive(Serialize, Deserialize)]
struct Parts {
    namespaces: Vec<String>,
    ruleset: bool,
}

/// What a forked process joins, and what it finds there.
pub(super) struct Namespaces {
    /// By their names in `/proc`, in the order in which they are joined. The first ones belong to the user namespace of the
    /// warm parent; the last is one below that, in which there is the agent's user alone.
    pub joined: Vec<(String, OwnedFd)>,
    /// The Landlock ruleset that the agent applies, if there is one.
    pub ruleset: Option<OwnedFd>,
    /// The directories for the copies that it gets, and those where they are to be mounted.
    pub copies: Vec<(Detached, OwnedFd)>,
}

impl Namespaces {
    /// One of them.
    pub fn of(&self, wanted: &str) -> Option<&OwnedFd> {
        self.joined.iter().find(|(name, _)| name == wanted).map(|(_, namespace)| namespace)
    }
}

/// A started builder.
pub(super) struct NamespaceBuilder {
    process: Child,
    socket: UnixStream,
}

impl NamespaceBuilder {
    /// Starts it. This process must have left its PID namespace for the next child, whose `/proc` is to show nothing but
    /// itself. `users` is the user namespace to which all others are to belong.
    pub fn start(confinement: &Confinement, user: Option<RunAs>, users: &OwnedFd) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0("hoistway-agent namespaces")
            .arg(super::NAMESPACES)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let order = memory_file(&Request { confinement: confinement.clone(), user })?;
        send(&ours, b"\n", &[order.as_fd(), users.as_fd()])?;
        Ok(Self { process, socket: ours })
    }

    /// Waits for the namespaces.
    pub fn wait(mut self) -> Result<Namespaces> {
        let (text, fds) = message(&self.socket)?;
        self.process.wait()?;
        if fds.is_empty() {
            let reason = if text.is_empty() { "the builder of the namespaces ended" } else { &text };
            return Err(Error::other(reason));
        }
        let parts: Parts = serde_json::from_str(&text)?;
        let mut fds = fds.into_iter();
        let joined: Vec<_> = parts.namespaces.into_iter().zip(fds.by_ref()).collect();
        let ruleset = if parts.ruleset { fds.next() } else { None };
        let mut copies = Vec::new();
        while let (Some(copy), Some(at)) = (fds.next(), fds.next()) {
            copies.push((Detached::from_fd(copy), at));
        }
        Ok(Namespaces { joined, ruleset, copies })
    }
}

/// The stage: standard input is the socket.
pub(super) fn run() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let socket = std::io::stdin();
    match build(message(&socket)?.1) {
        Ok(Namespaces { joined, ruleset, copies }) => {
            let (names, namespaces): (Vec<String>, Vec<OwnedFd>) = joined.into_iter().unzip();
            let parts = Parts { namespaces: names, ruleset: ruleset.is_some() };
            let copies: Vec<OwnedFd> = copies.into_iter().flat_map(|(copy, at)| [copy.into_fd(), at]).collect();
            let fds: Vec<BorrowedFd<'_>> = namespaces.iter().chain(&ruleset).chain(&copies).map(AsFd::as_fd).collect();
            send(&socket, &serde_json::to_vec(&parts)?, &fds).map(drop)
        }
        Err(error) => send(&socket, error.to_string().as_bytes(), &[]).map(drop),
    }
}

fn build(fds: Vec<OwnedFd>) -> Result<Namespaces> {
    let [order, users] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| Error::other("the order did not come"))?;
    let mut json = Vec::new();
    File::from(order).read_to_end(&mut json)?;
    let Request { confinement, user } = serde_json::from_slice(&json)?;
    let has_network = confinement.namespaces.as_ref().is_some_and(|own| own.network.is_some());
    namespaces::leave(Kinds::NEWNS)?;
    // The new root has modes of its own.
    umask(Mode::empty());
    let (ruleset, copies) = hoistway_confine::build_root(&confinement, user)?;
    // A copy of the mounts, which belongs to that user namespace. Whoever has rights there cannot change their flags, since
    // they were made outside of it.
    namespaces::join_users(users)?;
    namespaces::leave(Kinds::NEWNS | Kinds::NEWIPC | if has_network { Kinds::NEWNET } else { Kinds::empty() })?;
    if has_network {
        namespaces::bring_loopback_up()?;
    }
    let places = confinement.exposed.iter().filter(|part| part.access == Access::Copy).map(|part| &part.inside);
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let places: Vec<OwnedFd> =
        places.map(|path| rustix::fs::open(path, directory, Mode::empty())).collect::<std::result::Result<_, _>>()?;
    let own = |name: &str| own_namespace(name).map(|namespace| (name.to_owned(), namespace));
    let mut made = vec![own("ipc")?];
    if has_network {
        made.push(own("net")?);
    }
    made.push(own("mnt")?);
    match user {
        Some(user) => namespaces::leave_other_users_as(user)?,
        None => {
            // To give the namespace its user, this process opens its own files in /proc, which nobody else can see.
            set_dumpable_behavior(DumpableBehavior::Dumpable)?;
            namespaces::leave_other_users()?;
        }
    }
    made.push(own("user")?);
    Ok(Namespaces { joined: made, ruleset, copies: copies.into_iter().zip(places).collect() })
}

fn message(socket: impl AsFd) -> Result<(String, Vec<OwnedFd>)> {
    let (mut buffer, mut fds) = ([0; MAX_ANSWER], Vec::new());
    loop {
        match receive(&socket, &mut buffer, &mut fds) {
            Ok(got) => return Ok((String::from_utf8_lossy(&buffer[..got]).trim().to_owned(), fds)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
