//! The process that builds the root directory of an agent that is forked from a warm parent. Everything that it makes is
//! handed on as descriptors, and it ends before the warm parent learns of them: nothing that can be changed there is left
//! of it.

use super::channel::{memory_file, receive, send};
use super::procfs::own_namespace;
use hoistway_confine::namespaces::{self, Kinds};
use hoistway_confine::{Confinement, RunAs};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Error, Read, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The longest reason for a failure, in bytes.
const MAX_REASON: usize = 4096;

/// The order, which has no secrets.
#[derive(Serialize, Deserialize)]
struct Order {
    confinement: Confinement,
    user: Option<RunAs>,
}

/// A root directory, and who may be in it.
pub(super) struct Root {
    /// The mount namespace, which belongs to the user namespace of the warm parent.
    pub mounts: OwnedFd,
    /// A user namespace below that one, in which there is the agent's user alone. No other namespace belongs to it.
    pub users: OwnedFd,
    /// The Landlock ruleset that the agent applies, if there is one.
    pub ruleset: Option<OwnedFd>,
}

/// A started builder.
pub(super) struct RootBuilder {
    process: Child,
    socket: UnixStream,
}

impl RootBuilder {
    /// Starts it. This process must have left its PID namespace for the next child, whose `/proc` is to show nothing but
    /// itself. `users` is the user namespace to which the mount namespace is to belong.
    pub fn start(confinement: &Confinement, user: Option<RunAs>, users: &OwnedFd) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0("hoistway-agent root")
            .arg(super::ROOT)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let order = memory_file(&Order { confinement: confinement.clone(), user })?;
        send(&ours, b"\n", &[order.as_fd(), users.as_fd()])?;
        Ok(Self { process, socket: ours })
    }

    /// Waits for the root.
    pub fn wait(mut self) -> Result<Root> {
        let (reason, fds) = message(&self.socket)?;
        self.process.wait()?;
        let mut fds = fds.into_iter();
        match (fds.next(), fds.next()) {
            (Some(mounts), Some(users)) => Ok(Root { mounts, users, ruleset: fds.next() }),
            _ if reason.is_empty() => Err(Error::other("the builder of the root directory ended")),
            _ => Err(Error::other(reason)),
        }
    }
}

/// The stage: standard input is the socket.
pub(super) fn run() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let socket = std::io::stdin();
    match build(message(&socket)?.1) {
        Ok(Root { mounts, users, ruleset }) => {
            let fds: Vec<BorrowedFd<'_>> =
                [mounts.as_fd(), users.as_fd()].into_iter().chain(ruleset.as_ref().map(AsFd::as_fd)).collect();
            send(&socket, b"\n", &fds).map(drop)
        }
        Err(error) => send(&socket, error.to_string().as_bytes(), &[]).map(drop),
    }
}

fn build(fds: Vec<OwnedFd>) -> Result<Root> {
    let [order, users] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| Error::other("the order did not come"))?;
    let mut json = Vec::new();
    File::from(order).read_to_end(&mut json)?;
    let Order { confinement, user } = serde_json::from_slice(&json)?;
    namespaces::leave(Kinds::NEWNS)?;
    // The new root has modes of its own.
    umask(Mode::empty());
    let ruleset = hoistway_confine::build_root(&confinement, user)?;
    // A copy, which belongs to that user namespace. Whoever has rights there cannot change the flags of its mounts, since
    // they were made outside of it.
    namespaces::join_users(users)?;
    namespaces::leave(Kinds::NEWNS)?;
    let mounts = own_namespace("mnt")?;
    match user {
        Some(user) => namespaces::leave_other_users_as(user)?,
        None => {
            // To give the namespace its user, this process opens its own files in /proc, which nobody else can see.
            set_dumpable_behavior(DumpableBehavior::Dumpable)?;
            namespaces::leave_other_users()?;
        }
    }
    Ok(Root { mounts, users: own_namespace("user")?, ruleset })
}

fn message(socket: impl AsFd) -> Result<(String, Vec<OwnedFd>)> {
    let (mut buffer, mut fds) = ([0; MAX_REASON], Vec::new());
    loop {
        match receive(&socket, &mut buffer, &mut fds) {
            Ok(got) => return Ok((String::from_utf8_lossy(&buffer[..got]).trim().to_owned(), fds)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
