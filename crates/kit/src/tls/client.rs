//! The client's side of connections between services.

use super::{
    certificates::{CertificateFiles, MutualConfigs},
    failure::{Side, explain},
};
use crate::address_scope;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tower::Service;

/// The scheme of an address with TLS.
pub(super) const HTTPS: &str = "https://";

/// Connects to the gRPC of services, with the certificate as it is at that moment.
#[derive(Debug, Clone)]
pub(crate) struct GrpcConnector {
    pub(super) certificates: CertificateFiles,
    pub(super) keepalive: Duration,
}

impl Service<Uri> for GrpcConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { certificates, keepalive } = self.clone();
        Box::pin(async move {
            let config = mutual(&certificates, |mutual| &mutual.client).await?;
            let host = without_brackets(uri.host().unwrap_or_default());
            let stream = dial((host, uri.port_u16().unwrap_or(443))).await?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive))?;
            open(config, host, stream).await.map(TokioIo::new)
        })
    }
}

/// The address of another service's listener that does not speak gRPC. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceAddress {
    host_port: Arc<str>,
    certificates: Option<CertificateFiles>,
}

impl ServiceAddress {
    pub(super) fn new(host_port: &str, certificates: Option<CertificateFiles>) -> Self {
        Self { host_port: host_port.into(), certificates }
    }

    /// The address `HOST:PORT` on this machine, without TLS.
    pub fn local(host_port: &str) -> Self {
        Self::new(host_port, None)
    }

    /// Returns its host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        without_brackets(host(&self.host_port))
    }

    /// Returns its port, if it is one.
    pub fn port(&self) -> Option<u16> {
        self.host_port.rsplit_once(':')?.1.parse().ok()
    }

    /// Whether connections to it have TLS.
    pub fn has_tls(&self) -> bool {
        self.certificates.is_some()
    }

    /// Returns the TLS configuration for it as it is now, for clients that connect themselves.
    pub async fn client_config(&self) -> io::Result<Option<Arc<ClientConfig>>> {
        match &self.certificates {
            Some(certificates) => mutual(certificates, |mutual| &mutual.other_client).await.map(Some),
            None => Ok(None),
        }
    }

    /// Connects, with Nagle's algorithm off.
    pub async fn connect(&self) -> io::Result<ClientStream> {
        let stream = dial(&*self.host_port).await?;
        let Some(certificates) = &self.certificates else { return Ok(Either::Left(stream)) };
        let config = mutual(certificates, |mutual| &mutual.other_client).await?;
        Ok(Either::Right(Box::new(open(config, self.host(), stream).await?)))
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host_port)
    }
}

/// A connection to another service, without TLS or with it.
pub type ClientStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Whether an address, `HOST:PORT`, is on this machine.
pub(super) fn is_on_this_machine(host_port: &str) -> bool {
    address_scope::is_this_machine(host(host_port))
}

fn host(host_port: &str) -> &str {
    host_port.rsplit_once(':').map_or(host_port, |(host, _)| host)
}

fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn mutual(
    certificates: &CertificateFiles,
    config: impl Fn(&MutualConfigs) -> &Arc<ClientConfig>,
) -> io::Result<Arc<ClientConfig>> {
    let configs = certificates.current().await;
    let config = configs.mutual.as_ref().map(|mutual| Arc::clone(config(mutual)));
    config.ok_or_else(|| io::Error::other("there is no authority for mutual TLS"))
}

async fn dial(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Without this option, only latency suffers.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn open(config: Arc<ClientConfig>, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let opened = TlsConnector::from(config).connect(name, stream).await;
    opened.map_err(|e| match explain(&e, Side::Server) {
        Some(why) => io::Error::new(e.kind(), format!("{host} {why}")),
        None => e,
    })
}
