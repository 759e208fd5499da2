//! The sockets between supervisor and launcher, and between the launcher's stages: lines of JSON, with descriptors on
//! the first byte of the first one.

use super::protocol::{Order, Report};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use std::fs::File;
use std::io::{Error, IoSlice, IoSliceMut, Result, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors that come with an order.
pub(crate) const MAX_FDS: usize = 16;

/// Sends the beginning of `bytes` with the descriptors; returns how much was sent. It does not block: that much fits
/// in a new socket's buffer.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::other("too many descriptors"));
    }
    let first = &bytes[..bytes.len().min(4096)];
    Ok(sendmsg(socket, &[IoSlice::new(first)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Sends an order with the descriptors that it is about; returns the rest of it that is to be written.
pub(crate) fn send_order(socket: impl AsFd, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>> {
    let mut line = line(order)?;
    let sent = send(socket, &line, fds)?;
    Ok(line.split_off(sent))
}

/// JSON in a file that exists only in memory and for those who have it open.
pub(crate) fn memory_file(content: &impl Serialize) -> Result<File> {
    let mut file = File::from(memfd_create("agent", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(content)?)?;
    file.rewind()?;
    Ok(file)
}

/// A message as it is sent.
pub(crate) fn line(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Receives what is there, with the descriptors that ride on it.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let got = recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got)
}

/// The launcher's end of a socket.
pub(super) struct Control {
    socket: OwnedFd,
    unread: Vec<u8>,
}

impl Control {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, unread: Vec::new() }
    }

    /// The socket that is this process's standard input.
    pub fn of_stdin() -> Result<Self> {
        Ok(Self::new(std::io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// Waits for an order and the descriptors that come with it; `None` when the other side went away.
    pub fn order(&mut self) -> Result<Option<(Order, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = match receive(&self.socket, &mut buffer, &mut fds) {
                Ok(0) => return Ok(None),
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.unread.extend_from_slice(&buffer[..got]);
            if let Some(order) = self.orders()?.into_iter().next() {
                return Ok(Some((order, fds)));
            }
        }
    }

    /// Reads what is there; `None` when the other side is gone, however it went.
    pub fn receive(&mut self) -> Result<Option<Vec<Order>>> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.socket, &mut buffer) {
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

    pub fn report(&mut self, report: &Report) {
        let Ok(line) = line(report) else { return };
        // A supervisor that is gone is noticed when reading.
        let _ = write_all(&self.socket, &line);
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Writes to a blocking socket.
pub(super) fn write_all(socket: impl AsFd, mut rest: &[u8]) -> Result<()> {
    while !rest.is_empty() {
        match rustix::net::send(&socket, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
