//! A connection with or without TLS, as one type, that knows whether it was closed on a request without any answer.

use hyper::rt;
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

/// The transport of the bytes.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

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

#[derive(Debug)]
struct Io {
    transport: Transport,
    traffic: Traffic,
}

/// The connection that the pool keeps.
#[derive(Debug)]
pub(crate) struct Conn {
    io: TokioIo<Io>,
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

impl Conn {
    pub(super) fn new(transport: Transport, kind: Kind) -> Self {
        Self { io: TokioIo::new(Io { transport, traffic: Traffic::default() }), kind }
    }
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        let traffic = || self.io.inner().traffic.clone();
        match self.kind {
            Kind::Http1 => Connected::new().extra(traffic()),
            Kind::Http2 => Connected::new().negotiated_h2(),
            Kind::ToProxy => Connected::new().proxy(true).extra(traffic()),
        }
    }
}

macro_rules! either {
    ($io:expr, $inner:ident => $call:expr) => {
        match &mut $io.transport {
            Transport::Plain(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Transport::Tls(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = either!(self, inner => inner.poll_read(cx, buf));
        if buf.filled().len() > before {
            self.traffic.awaits(false);
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.traffic.awaits(true);
        either!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.traffic.awaits(true);
        either!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_shutdown(cx))
    }
}

impl rt::Read for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl rt::Write for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        rt::Write::is_write_vectored(&self.io)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
