//! The client's side of mutual TLS between services.

use super::certificates::CertificateFiles;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// Connects to services with the certificate as it is at that moment.
#[derive(Debug, Clone)]
pub(crate) struct TlsConnector {
    pub(super) certificates: CertificateFiles,
    pub(super) keepalive: Duration,
}

impl Service<Uri> for TlsConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { certificates, keepalive } = self.clone();
        Box::pin(async move {
            let configs = certificates.current().await;
            let config = configs.mutual.as_ref().map(|mutual| Arc::clone(&mutual.client));
            let config = config.ok_or_else(|| io::Error::other("there is no authority for mutual TLS"))?;
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive))?;
            Ok(TokioIo::new(tokio_rustls::TlsConnector::from(config).connect(name, stream).await?))
        })
    }
}
