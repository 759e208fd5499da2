//! A network of the agent's own, as seen by the stage that makes it.

use super::channel;
use hoistway_confine::OwnNetwork;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io::{Error, Result};
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

/// Listens in the present network, which is new. The agent reaches the listeners of egress in it, which are bound here and
/// served by whoever gets them, the supervisor. Nobody else can connect to them, so they identify the agent. The one for
/// its callers is the agent's: it becomes the first of its descriptors.
pub(super) fn listen(network: &OwnNetwork, supervisor: &OwnedFd, fds: &mut Vec<OwnedFd>) -> Result<()> {
    for address in &network.listen {
        channel::send(supervisor, b"\n", &[bind(*address)?.as_fd()])?;
    }
    if let Some(address) = network.callers {
        fds.insert(0, bind(address)?.into());
    }
    Ok(())
}

fn bind(address: SocketAddrV4) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| Error::new(error.kind(), format!("listening on {address}: {error}")))
}

/// Sends a socket of this network for each byte that has come: the supervisor is in another, and connects callers to
/// the agent with them. Returns whether it is still there.
pub(super) fn hand_out_sockets(supervisor: &OwnedFd) -> bool {
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
