//! Serving an HTTP edge: the one place that knows how listeners, axum and a shutdown go together.

use crate::ports::Listeners;
use axum::{
    Router,
    extract::{ConnectInfo, Request, connect_info::Connected},
    middleware,
    serve::{IncomingStream, Listener},
};
use hoistway_model::{Error, Result};
use std::{
    future::IntoFuture,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// The `User-Agent` of every HTTP client of Hoistway.
pub const USER_AGENT: &str = concat!("hoistway/", env!("CARGO_PKG_VERSION"));
/// How long requests in flight may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);

/// Serves `app` until `shutdown` is cancelled, then lets requests in flight end. Handlers see their peer's address
/// (`ConnectInfo<SocketAddr>`).
pub async fn serve(listeners: Listeners, app: Router, shutdown: CancellationToken) -> Result<()> {
    let app = app.layer(middleware::map_request(peer_address)).into_make_service_with_connect_info::<Peer>();
    let serving = axum::serve(listeners, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served.map_err(|e| Error::internal("serving HTTP", e)),
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => {
            tracing::warn!("requests were still running {} s after the shutdown began", DRAIN.as_secs());
            Ok(())
        }
    }
}

/// The peer of a connection. axum gives an address itself only for listeners that it knows.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, Listeners>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listeners>) -> Self {
        Self(*stream.remote_addr())
    }
}

async fn peer_address(ConnectInfo(Peer(addr)): ConnectInfo<Peer>, mut request: Request) -> Request {
    request.extensions_mut().insert(ConnectInfo(addr));
    request
}

impl Listener for Listeners {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        Listeners::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.addrs().first().copied().ok_or_else(|| ErrorKind::NotConnected.into())
    }
}
