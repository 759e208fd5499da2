//! A connection with or without TLS, as one type, that knows whether it was closed on a request without any answer.

use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// The transport of the bytes: without TLS, or with it.
pub(super) type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The traffic on a connection of HTTP/1, which has one request at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic(Arc<Happened>);

#[derive(Debug, Default)]
struct Happened {
    /// A request was answered.
    answered: AtomicBool,
    /// Nothing was received since something was sent last.
    awaits: AtomicBool,
}

impl Traffic {
    pub(super) fn answered(&self) {
        self.0.answered.store(true, Ordering::Relaxed);
    }

    /// Whether an earlier request was answered, and nothing came after the last one was sent.
    pub(super) fn ends_unanswered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed) && self.0.awaits.load(Ordering::Relaxed)
    }

    fn awaits(&self, awaits: bool) {
        self.0.awaits.store(awaits, Ordering::Relaxed);
    }
}

/// The connection that the pool keeps.
pub(crate) type Conn = TokioIo<Io>;

/// The bytes of a connection.
#[derive(Debug)]
pub(crate) struct Io {
    transport: Transport,
    traffic: Traffic,
    kind: Kind,
}

/// The form of requests on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// HTTP/1.1 to the tool.
    Http1,
    /// HTTP/2 to the tool.
    Http2,
    /// HTTP/1.1 to the operator's proxy.
    ToProxy,
}

impl Io {
    pub(super) fn new(transport: Transport, kind: Kind) -> Self {
        Self { transport, traffic: Traffic::default(), kind }
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        let traffic = || self.traffic.clone();
        match self.kind {
            Kind::Http1 => Connected::new().extra(traffic()),
            Kind::Http2 => Connected::new().negotiated_h2(),
            Kind::ToProxy => Connected::new().proxy(true).extra(traffic()),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.traffic.awaits(false);
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.traffic.awaits(true);
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.traffic.awaits(true);
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
