//! A connection of which the first bytes have been read already.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Any connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// The bytes that were read, then the rest.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    read: Vec<u8>,
    at: usize,
    inner: S,
}

impl<S: Stream> Prefixed<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { read: Vec::new(), at: 0, inner }
    }

    /// Reads until `enough` says so of all that was read, or until the end.
    pub(crate) async fn look(&mut self, most: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<&[u8]> {
        while !enough(&self.read) && self.read.len() < most {
            let mut piece = [0; 256];
            let room = (most - self.read.len()).min(piece.len());
            match self.inner.read(&mut piece[..room]).await? {
                0 => break,
                length => self.read.extend_from_slice(&piece[..length]),
            }
        }
        Ok(&self.read)
    }

    /// Leaves out the first bytes.
    pub(crate) fn skip(&mut self, count: usize) {
        self.at = count.min(self.read.len());
    }
}

impl<S: Stream> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.read.get(this.at..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.at += count;
        if this.at == this.read.len() {
            (this.read, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn peeked_bytes_are_read_again() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Prefixed::new(server);
        client.write_all(b"line\nrest").await.unwrap();
        assert_eq!(server.look(64, |read| read.contains(&b'\n')).await.unwrap(), b"line\nrest");
        server.skip(5);
        client.write_all(b" and more").await.unwrap();
        drop(client);
        let mut all = String::new();
        server.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "rest and more");
    }
}
