//! Connections to tools: resolved, checked, dialled, through the operator's proxy where there is one, and with TLS.

use super::{
    error::ConnectError,
    resolve::Resolver,
    stream::{Conn, Io, Kind, Transport},
};
use crate::origin::HostPort;
use http::Uri;
use hyper_util::{
    client::{
        legacy::connect::proxy::Tunnel,
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use rustls::pki_types::ServerName;
use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// Makes connections for a pool. Pools of connectors that allow different things must never be shared.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(super) resolver: Arc<Resolver>,
    pub(super) tls: TlsConnector,
    pub(super) proxies: Arc<Matcher>,
    pub(super) allow_private: bool,
    pub(super) limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = Conn;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.connect(uri).await })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("allow_private", &self.allow_private).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connection without TLS of egress' own.
    pub(super) async fn tunnel(&self, place: &HostPort) -> Result<TcpStream, ConnectError> {
        let uri: Uri = format!("https://{place}").parse().map_err(|_| ConnectError::Resolve("not a host".into()))?;
        timeout(self.limit, self.tcp(&uri, place)).await?
    }

    /// A connection over which TLS can be spoken with a place.
    async fn tcp(&self, uri: &Uri, place: &HostPort) -> Result<TcpStream, ConnectError> {
        let Some(proxy) = self.proxy(uri, place) else {
            return dial(&self.resolver.addresses(place, self.allow_private).await?).await;
        };
        self.may_be_named(place).await?;
        tunnel(&proxy, place).await
    }

    /// A connection to a proxy that gets the place in each request.
    async fn proxied(&self, proxy: &Intercept, place: &HostPort) -> Result<TcpStream, ConnectError> {
        self.may_be_named(place).await?;
        dial_proxy(proxy.uri()).await
    }

    /// The proxy resolves names; an address in the place of a name can still be checked here.
    async fn may_be_named(&self, place: &HostPort) -> Result<(), ConnectError> {
        if place.host.ip().is_some() {
            self.resolver.addresses(place, self.allow_private).await?;
        }
        Ok(())
    }

    async fn connect(&self, uri: Uri) -> Result<Conn, ConnectError> {
        let is_tls = uri.scheme_str() == Some("https");
        let default = if is_tls { 443 } else { 80 };
        let place = uri.authority().and_then(|authority| HostPort::parse(authority.as_str(), Some(default)));
        let place = place.ok_or_else(|| ConnectError::Resolve("not a host".into()))?;
        let deadline = Instant::now() + self.limit;
        if !is_tls && let Some(proxy) = self.proxy(&uri, &place) {
            let stream = timeout_at(deadline, self.proxied(&proxy, &place)).await??;
            return Ok(TokioIo::new(Io::new(Transport::Left(stream), Kind::ToProxy)));
        }
        let tcp = timeout_at(deadline, self.tcp(&uri, &place)).await??;
        if !is_tls {
            return Ok(TokioIo::new(Io::new(Transport::Left(tcp), Kind::Http1)));
        }
        let name = ServerName::try_from(place.host.bare()).map_err(|e| ConnectError::Tls(io::Error::other(e)))?;
        let handshake = timeout_at(deadline, self.tls.connect(name, tcp)).await;
        let tls = handshake.map_err(|_| ConnectError::TlsTimeout)?.map_err(ConnectError::Tls)?;
        let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let kind = if is_h2 { Kind::Http2 } else { Kind::Http1 };
        Ok(TokioIo::new(Io::new(Transport::Right(Box::new(tls)), kind)))
    }

    fn proxy(&self, uri: &Uri, place: &HostPort) -> Option<Intercept> {
        if self.resolver.is_elsewhere(place) {
            return None;
        }
        self.proxies.intercept(uri)
    }
}

/// The first address that answers. Each gets a share of the time that the caller gives.
async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    const EACH: Duration = Duration::from_secs(3);
    let mut last = ConnectError::Resolve("no address".into());
    for (index, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = match index + 1 == addresses.len() {
            true => Ok(connecting.await),
            false => timeout(EACH, connecting).await,
        };
        match connected {
            Ok(Ok(stream)) => {
                // It only costs latency where it cannot be set.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(e)) => last = ConnectError::Dial(e),
            Err(_) => last = ConnectError::Timeout,
        }
    }
    Err(last)
}

/// The operator's proxy may be anywhere.
async fn dial_proxy(uri: &Uri) -> Result<TcpStream, ConnectError> {
    let unusable = || ConnectError::Proxy("only http://HOST:PORT is supported".into());
    if uri.scheme_str() != Some("http") {
        return Err(unusable());
    }
    let host = uri.host().ok_or_else(unusable)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |e: io::Error| ConnectError::Proxy(e.to_string());
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(failed)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn tunnel(proxy: &Intercept, place: &HostPort) -> Result<TcpStream, ConnectError> {
    let mut tunnel = Tunnel::new(proxy.uri().clone(), DialProxy);
    if let Some(auth) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(auth.clone());
    }
    let failed = |e: &dyn fmt::Display| ConnectError::Proxy(e.to_string());
    let to: Uri = format!("https://{place}").parse().map_err(|e: http::uri::InvalidUri| failed(&e))?;
    tunnel.call(to).await.map(TokioIo::into_inner).map_err(|e| failed(&e))
}

/// [`dial_proxy`] in the shape that tunnels are made of.
#[derive(Debug, Clone, Copy)]
struct DialProxy;

impl Service<Uri> for DialProxy {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move { dial_proxy(&uri).await.map(TokioIo::new) })
    }
}
