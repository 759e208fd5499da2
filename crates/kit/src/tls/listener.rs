//! The server's side of a TLS connection.

use super::{
    certificates::CertificateFiles,
    failure::{Side, explain},
};
use crate::connection_limits::{Bounded, Connection};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

/// The longest time until a client has shown what it speaks, and the longest time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first byte of a TLS connection: the type of a record with a handshake in it. No HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// The TLS of a server's listeners.
#[derive(Debug, Clone)]
pub enum ListenerTls {
    /// Both sides show a certificate.
    Mutual(CertificateFiles),
    /// The server shows a certificate. Clients of this machine may do without TLS.
    Http {
        /// The server's certificate.
        certificates: CertificateFiles,
        /// Whether all clients may do without TLS.
        allow_plaintext: bool,
    },
}

/// A connection that was just accepted.
pub trait PeekableStream: AsyncRead + AsyncWrite + Unpin {
    /// Returns the local address: the one that was dialled, unless it was translated on the way.
    fn local_addr(&self) -> Option<SocketAddr>;

    /// Returns the first byte that is not read yet, which stays unread.
    fn peek(&mut self) -> impl Future<Output = io::Result<u8>> + Send;
}

impl PeekableStream for Bounded {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.connection().local()
    }

    async fn peek(&mut self) -> io::Result<u8> {
        Self::peek(self).await
    }
}

impl PeekableStream for TcpStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Self::local_addr(self).ok()
    }

    async fn peek(&mut self) -> io::Result<u8> {
        let mut byte = [0; 1];
        match Self::peek(self, &mut byte).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(byte[0]),
        }
    }
}

/// A connection once it is known whether it is encrypted.
pub enum Accepted<S> {
    /// One that may be served.
    Stream(ServerStream<S>),
    /// One without TLS from a client that has to use it.
    PlaintextRefused(ServerStream<S>),
}

impl<S> Accepted<S> {
    /// Returns a connection that may be served; another one is an error.
    pub fn permitted(self) -> io::Result<ServerStream<S>> {
        match self {
            Self::Stream(stream) => Ok(stream),
            Self::PlaintextRefused(_) => Err(io::Error::other("it has no TLS")),
        }
    }
}

impl ListenerTls {
    /// Opens a connection; without `tls` it is used as it is. An error is the client's.
    pub async fn accept<S: PeekableStream>(tls: Option<Self>, mut stream: S) -> io::Result<Accepted<S>> {
        let config = match tls {
            None => return Ok(Accepted::Stream(ServerStream::Plain(stream))),
            Some(Self::Mutual(certificates)) => {
                let configs = certificates.current().await;
                let mutual = configs.mutual.as_ref().map(|mutual| Arc::clone(&mutual.server));
                mutual.ok_or_else(|| io::Error::other("there is no authority for mutual TLS"))?
            }
            Some(Self::Http { certificates, allow_plaintext }) => {
                if timeout(HANDSHAKE, stream.peek()).await?? != TLS_HANDSHAKE {
                    let local = stream.local_addr();
                    let is_allowed = allow_plaintext || local.is_some_and(|at| at.ip().to_canonical().is_loopback());
                    let stream = ServerStream::Plain(stream);
                    return Ok(if is_allowed { Accepted::Stream(stream) } else { Accepted::PlaintextRefused(stream) });
                }
                Arc::clone(&certificates.current().await.http_server)
            }
        };
        let stream = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await?.map_err(|e| {
            let why = explain(&e, Side::Client);
            why.map_or(e, |why| io::Error::new(io::ErrorKind::PermissionDenied, format!("it {why}")))
        })?;
        Ok(Accepted::Stream(ServerStream::Tls(Box::new(stream))))
    }
}

/// The stream of a connection, with TLS or without.
#[derive(Debug)]
pub enum ServerStream<S = Bounded> {
    /// Without TLS.
    Plain(S),
    /// With TLS.
    Tls(Box<TlsStream<S>>),
}

impl ServerStream {
    /// Returns the handle for its requests.
    pub fn connection(&self) -> Connection {
        match self {
            Self::Plain(stream) => stream.connection(),
            Self::Tls(stream) => stream.get_ref().0.connection(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServerStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Connected for ServerStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection()
    }
}
