//! The Unix socket over which the container of an agent's network hands out its sockets.

use crate::launcher::receive;
use hoistway_confine::copy_tree;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// The name of the socket; the container's program knows it.
const SOCKET: &str = "network.sock";
/// The longest first message.
const MAX_MESSAGE: usize = 256;

/// A socket in a directory of its own, which is removed with it.
pub(super) struct NetworkSocket {
    directory: PathBuf,
    listener: UnixListener,
}

/// What the container has sent first.
pub(super) struct JoinedNetwork {
    /// Gives a new socket of the network for each byte.
    pub sockets: UnixStream,
    /// The listeners that it was to open, in order.
    pub listeners: Vec<TcpListener>,
    /// The size of the source in the image.
    pub source: copy_tree::Size,
}

impl NetworkSocket {
    /// Listens in the new directory `directory`. The directory above is for this user only; the container's user, who
    /// sees nothing but this one, may connect.
    pub fn bind(directory: PathBuf) -> Result<Self> {
        match std::fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        DirBuilder::new().mode(0o711).create(&directory)?;
        std::fs::set_permissions(&directory, Permissions::from_mode(0o711))?;
        // The directory's path may be longer than that of a socket may be.
        let opened = File::open(&directory)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))?;
        std::fs::set_permissions(directory.join(SOCKET), Permissions::from_mode(0o666))?;
        Ok(Self { directory, listener })
    }

    /// The directory to share with the container.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits for the container, which is to send so many listeners. Nobody else can connect after that.
    pub async fn accept(self, listeners: usize) -> Result<JoinedNetwork> {
        let (sockets, _) = self.listener.accept().await?;
        let (mut fds, mut message, mut buffer) = (Vec::new(), Vec::new(), [0; MAX_MESSAGE]);
        while !message.ends_with(b"\n") {
            let reading = || receive(&sockets, &mut buffer, &mut fds).map_err(Error::from);
            let got = sockets.async_io(Interest::READABLE, reading).await?;
            if got == 0 || message.len() + got > MAX_MESSAGE {
                return Err(ErrorKind::InvalidData.into());
            }
            message.extend_from_slice(&buffer[..got]);
        }
        if fds.len() != listeners {
            return Err(Error::new(ErrorKind::InvalidData, "it sent other listeners than it was to"));
        }
        let listener = |fd| {
            let listener = std::net::TcpListener::from(fd);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listeners = fds.into_iter().map(listener).collect::<Result<_>>()?;
        Ok(JoinedNetwork { sockets, listeners, source: source_size(&message)? })
    }
}

impl Drop for NetworkSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Reads `BYTES FILES`.
fn source_size(message: &[u8]) -> Result<copy_tree::Size> {
    let words = std::str::from_utf8(message).ok().and_then(|text| text.trim().split_once(' '));
    let parsed = words.and_then(|(bytes, files)| Some((bytes.parse().ok()?, files.parse().ok()?)));
    let (bytes, entries) = parsed.ok_or_else(|| Error::new(ErrorKind::InvalidData, "it sent no size"))?;
    Ok(copy_tree::Size { bytes, entries })
}
