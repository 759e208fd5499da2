//! Serving an HTTP edge: the one place that knows how listeners, hyper, axum and a shutdown go together.

use crate::{
    connections::{Bounded, Connections, Limits},
    ports::Listeners,
};
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hoistway_model::Result;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{pin::pin, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// The `User-Agent` of every HTTP client of Hoistway.
pub const USER_AGENT: &str = concat!("hoistway/", env!("CARGO_PKG_VERSION"));
/// How long requests in flight may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a connection may be silent before a request and in the middle of its head.
const HEAD: Duration = Duration::from_secs(60);
/// Header fields of one request.
const FIELDS: usize = 128;
/// What is read ahead and what waits to be written, for each connection, in bytes; a request's head has to fit.
const BUFFER: usize = 64 << 10;

/// Serves `app` until `shutdown` is cancelled, then lets requests in flight end, for [`DRAIN`] at most. Handlers find
/// `ConnectInfo<SocketAddr>` and the [`crate::connections::Connection`] in a request's extensions.
pub async fn serve(listeners: Listeners, app: Router, limits: Limits, shutdown: CancellationToken) -> Result<()> {
    let (connections, serving) = (Connections::new(limits), TaskTracker::new());
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listeners.accept() => accepted,
        };
        let stream = connections.take_in(stream, peer);
        serving.spawn(serve_connection(stream, app.clone(), shutdown.clone()));
    }
    drop(listeners);
    serving.close();
    if tokio::time::timeout(DRAIN, serving.wait()).await.is_err() {
        tracing::warn!("requests were still running {} s after the shutdown began", DRAIN.as_secs());
    }
    Ok(())
}

async fn serve_connection(stream: Bounded, app: Router, shutdown: CancellationToken) {
    let connection = stream.connection();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(connection.peer()));
        request.extensions_mut().insert(connection.clone());
        app.clone().oneshot(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(FIELDS).max_buf_size(BUFFER);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection ended: {e}");
    }
}
