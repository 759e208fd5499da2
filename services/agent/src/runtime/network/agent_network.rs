//! A network of an agent's own, as it is used from outside.

use crate::launcher::receive;
use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The time that a launcher may take to make a socket, and the agent's kernel to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects to an agent in its network. A socket belongs to the network in which it was made, so the agent's launcher
/// makes them.
pub(in crate::runtime) struct AgentNetwork {
    launcher: Mutex<UnixStream>,
    agent: SocketAddr,
}

impl AgentNetwork {
    /// The network whose sockets `launcher` makes, one for each byte. The agent listens on `port`.
    pub fn new(launcher: UnixStream, port: u16) -> Self {
        Self { launcher: Mutex::new(launcher), agent: (Ipv4Addr::LOCALHOST, port).into() }
    }

    /// Takes the listeners of egress that the launcher has handed out: it did so before it said that the agent is
    /// started. The agent listens on `port`.
    pub fn joined(launcher: StdUnixStream, port: u16) -> Result<(Self, Vec<TcpListener>)> {
        launcher.set_nonblocking(true)?;
        let (mut fds, mut buffer) = (Vec::new(), [0; 16]);
        while receive(&launcher, &mut buffer, &mut fds).is_ok_and(|got| got > 0) {}
        if fds.is_empty() {
            return Err(Error::other("egress' listeners were not handed out"));
        }
        let listener = |fd| {
            let listener = std::net::TcpListener::from(fd);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listeners = fds.into_iter().map(listener).collect::<Result<_>>()?;
        Ok((Self::new(UnixStream::from_std(launcher)?, port), listeners))
    }

    /// Connects to the agent.
    pub async fn connect(&self) -> Result<TcpStream> {
        let connecting = async {
            let socket = std::net::TcpStream::from(self.socket().await?);
            socket.set_nonblocking(true)?;
            let stream = TcpSocket::from_std_stream(socket).connect(self.agent).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        timeout(CONNECT, connecting).await?
    }

    async fn socket(&self) -> Result<OwnedFd> {
        let mut launcher = self.launcher.lock().await;
        launcher.write_all(b"\n").await?;
        let (mut fds, mut buffer) = (Vec::new(), [0; 1]);
        let receiving = launcher
            .async_io(Interest::READABLE, || receive(&*launcher, &mut buffer, &mut fds).map_err(Error::from))
            .await;
        match receiving? {
            0 => Err(Error::other("the launcher is gone")),
            _ => fds.pop().ok_or_else(|| Error::other("the launcher has no socket")),
        }
    }
}
