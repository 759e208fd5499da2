//! The way out: pools of connections of public addresses only, and others for tools that may be private. A connection
//! that was allowed for one tool is never used for another tool that is not allowed to have it.

mod connect;
mod error;
mod resolve;
mod stream;

pub(crate) use error::ConnectError;

use crate::{
    config::Config,
    forward::body::Out,
    origin::{HostPort, Origin},
};
use connect::Connector;
use hoistway_model::{Code, Error, Result};
use http::{Extensions, HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_util::{
    client::{
        legacy::{self, Client},
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioTimer},
};
use resolve::Resolver;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{error::Error as _, path::Path, sync::Arc, time::Duration};
use stream::Traffic;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Idle connections to one host that are kept, and how long.
const IDLE_PER_HOST: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
/// A response's header.
const MAX_HEADER: usize = 256 << 10;

/// The pools, and connections without one.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    any_version: Pools,
    /// For requests that switch to another protocol, which HTTP/2 connections cannot.
    http1: Pools,
    /// For requests that must have a connection of their own.
    unshared: Pools,
    /// For tunnels, which are in no pool.
    connector: Connector,
    proxies: Arc<Matcher>,
}

#[derive(Debug, Clone)]
struct Pools {
    public: Client<Connector, Out>,
    private: Client<Connector, Out>,
}

impl Upstream {
    /// Reads the authorities of the system and those of the operator, and what connections go elsewhere. Blocks.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let resolver = Arc::new(Resolver::new(&config.resolve)?);
        let proxies = Arc::new(if config.use_proxy { Matcher::from_env() } else { Matcher::builder().build() });
        let tls = tls(config.extra_ca_file.as_deref())?;
        let tls_of = |versions: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
            TlsConnector::from(Arc::new(tls))
        };
        let connector = |tls: &TlsConnector, allow_private| Connector {
            resolver: Arc::clone(&resolver),
            tls: tls.clone(),
            proxies: Arc::clone(&proxies),
            allow_private,
            limit: Duration::from_millis(config.limits.connect_ms),
        };
        let pool = |tls: &TlsConnector, allow_private, most_idle| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(most_idle)
                .http1_max_buf_size(MAX_HEADER)
                .http2_max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX))
                .http2_adaptive_window(true)
                .http2_keep_alive_interval(Duration::from_secs(20))
                .build(connector(tls, allow_private))
        };
        let pools = |tls: &TlsConnector, most_idle| {
            let (public, private) = (pool(tls, false, most_idle), pool(tls, true, most_idle));
            Pools { public, private }
        };
        let (any_version, http1) = (tls_of(&[b"h2", b"http/1.1"]), tls_of(&[b"http/1.1"]));
        Ok(Self {
            any_version: pools(&any_version, IDLE_PER_HOST),
            http1: pools(&http1, IDLE_PER_HOST),
            unshared: pools(&any_version, 0),
            connector: connector(&any_version, true),
            proxies: Arc::clone(&proxies),
        })
    }

    /// A connection to any place that may be dialled at all, for whatever bytes.
    pub(crate) async fn tunnel(&self, place: &HostPort) -> Result<TcpStream, ConnectError> {
        self.connector.tunnel(place).await
    }

    /// Sends a request with an absolute URI.
    pub(crate) async fn send(
        &self,
        request: Request<Out>,
        allow_private: bool,
    ) -> Result<Response<Incoming>, legacy::Error> {
        let pools = if request.headers().contains_key(header::UPGRADE) { &self.http1 } else { &self.any_version };
        self.send_over(pools, request, allow_private).await
    }

    /// The same over a connection that nothing was sent on before.
    pub(crate) async fn send_anew(
        &self,
        request: Request<Out>,
        allow_private: bool,
    ) -> Result<Response<Incoming>, legacy::Error> {
        self.send_over(&self.unshared, request, allow_private).await
    }

    async fn send_over(
        &self,
        pools: &Pools,
        mut request: Request<Out>,
        allow_private: bool,
    ) -> Result<Response<Incoming>, legacy::Error> {
        // To an HTTP proxy a plain request goes as it is, so it carries the proxy's password itself.
        if request.uri().scheme_str() == Some("http")
            && let Some(auth) = self.proxy_auth(request.uri())
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth);
        }
        let pool = if allow_private { &pools.private } else { &pools.public };
        let response = pool.request(request).await?;
        if let Some(traffic) = response.extensions().get::<Traffic>() {
            traffic.answered();
        }
        Ok(response)
    }

    fn proxy_auth(&self, uri: &Uri) -> Option<HeaderValue> {
        self.proxies.intercept(uri)?.basic_auth().cloned()
    }
}

/// The URI of a path, with its query, at an origin.
pub(crate) fn uri(origin: &Origin, path_and_query: &str) -> Result<Uri, http::Error> {
    Uri::builder()
        .scheme(crate::origin::scheme_text(origin.scheme))
        .authority(origin.authority())
        .path_and_query(path_and_query)
        .build()
}

/// Why there was no connection, if that is why a request failed.
pub(crate) fn no_connection(error: &legacy::Error) -> Option<&ConnectError> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Whether a request failed because its connection, which had been used before, was closed before any byte of an answer
/// came: servers close idle connections when they like.
pub(crate) fn was_stale(error: &legacy::Error) -> bool {
    let mut extensions = Extensions::new();
    if let Some(connection) = error.connect_info() {
        connection.get_extras(&mut extensions);
    }
    extensions.get::<Traffic>().is_some_and(Traffic::ends_unanswered)
}

fn tls(extra: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for e in &native.errors {
        tracing::warn!("reading the system's certificate authorities: {e}");
    }
    let (added, _) = roots.add_parsable_certificates(native.certs);
    if let Some(path) = extra {
        let unusable = |e: String| Error::new(Code::InvalidArgument, format!("extra_ca_file: {} {e}", path.display()));
        let found = CertificateDer::pem_file_iter(path).map_err(|e| unusable(format!("cannot be read: {e}")))?;
        for certificate in found {
            let certificate = certificate.map_err(|e| unusable(format!("is not PEM: {e}")))?;
            roots.add(certificate).map_err(|e| unusable(format!("has an unusable certificate: {e}")))?;
        }
    } else if added == 0 {
        tracing::warn!("no certificate authority is known: no tool can be called over TLS");
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal("making a TLS configuration", e))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
