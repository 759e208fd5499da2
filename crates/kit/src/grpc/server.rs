//! The gRPC server of a process: its services, health and reflection behind one guard, over TCP and in process.

use super::{
    Transport,
    middleware::{Guard, GuardedRoutes},
};
use crate::{
    connection_limits::{Connections, Limits},
    ports::Listeners,
    tls::{Accepted, ListenerTls, ServerStream},
    token::ServiceToken,
};
use futures_util::{FutureExt, Stream, stream};
use hoistway_model::{Error, Result};
use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower::Service;

/// The longest time that streams and slow calls may go on after shutdown begins.
const DRAIN: Duration = Duration::from_secs(30);
/// The most calls in flight on one connection.
const MAX_STREAMS: u32 = 256;
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of warnings of clients whose certificates are refused.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The services of one process. Cheap to clone: [`Server::serve`] one copy and take [`Server::into_local`] of another.
#[derive(Clone, Debug)]
pub struct Server {
    routes: Routes,
    guard: Arc<Guard>,
    health: HealthReporter,
}

impl Server {
    /// Creates a server that requires `token`, with the standard health service, which needs no token.
    pub fn new(token: ServiceToken) -> Self {
        let health = HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(health.clone()));
        Self { routes: Routes::new(service), guard: Arc::new(Guard::new(token)), health }
    }

    /// Adds a generated server. It is reported as serving until [`Server::health`] changes that.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "nobody takes `server.add(service)` for arithmetic")]
    pub fn add<S>(self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        // Nothing else holds the lock inside yet, so this never waits.
        self.health.set_service_status(S::NAME, ServingStatus::Serving).now_or_never();
        Self { routes: self.routes.add_service(service), ..self }
    }

    /// Adds a generated server that requires `token` instead of the token of all the others.
    #[must_use]
    pub fn add_restricted<S>(self, token: ServiceToken, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let guard = Arc::new(self.guard.with_restricted(S::NAME, token));
        Self { guard, ..self }.add(service)
    }

    /// Adds reflection (v1) for the services in an encoded file descriptor set.
    pub fn reflection(self, file_descriptor_set: &'static [u8]) -> Result<Self> {
        let service = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(file_descriptor_set)
            .build_v1()
            .map_err(|e| Error::internal("describing the services", e))?;
        Ok(Self { routes: self.routes.add_service(service), ..self })
    }

    /// Sets the deadline of calls that set none, and the longest one that a call may set. The response of a stream must
    /// begin by then; the service itself bounds its duration.
    #[must_use]
    pub fn deadlines(self, default: Duration, maximum: Duration) -> Self {
        Self { guard: Arc::new(self.guard.with_deadlines(default, maximum)), ..self }
    }

    /// Returns the reporter of the health service. Keys are full names of services; the empty name is the whole
    /// process.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `shutdown`: then accepts no more connections, reports not serving, and lets calls in flight finish.
    pub async fn serve(self, listeners: impl Into<Listeners>, shutdown: CancellationToken) -> Result<()> {
        let health = self.health.clone();
        let connections = Connections::new("grpc", Limits::default());
        let incoming = incoming(listeners.into(), connections);
        let signal = {
            let shutdown = shutdown.clone();
            async move {
                shutdown.cancelled().await;
                health.set_service_status("", ServingStatus::NotServing).await;
            }
        };
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .serve_with_incoming_shutdown(self.guarded_routes(), incoming, signal);
        tokio::select! {
            served = serving => served.map_err(|e| Error::internal("serving gRPC", e)),
            () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => {
                tracing::warn!("gRPC calls were still running {} s after the shutdown began", DRAIN.as_secs());
                Ok(())
            }
        }
    }

    /// Returns a transport to the same services for clients in this process.
    pub fn into_local(self) -> Transport {
        let token = self.guard.token().clone();
        self.into_local_with(&token)
    }

    /// The same for a client with a token of its own.
    pub fn into_local_with(self, token: &ServiceToken) -> Transport {
        Transport::local(self.guarded_routes(), token)
    }

    pub(super) fn guarded_routes(self) -> GuardedRoutes {
        GuardedRoutes { routes: self.routes.prepare(), guard: self.guard }
    }
}

/// Returns the connections once they are open. Handshakes run beside each other; their number is that of the
/// connections without a token.
fn incoming(listeners: Listeners, connections: Connections) -> impl Stream<Item = io::Result<ServerStream>> {
    let start = (listeners, connections, JoinSet::new(), None);
    stream::unfold(start, |(listeners, connections, mut opening, mut warned)| async move {
        loop {
            tokio::select! {
                (stream, peer) = listeners.accept() => {
                    let (stream, tls) = (connections.take_in(stream, peer), listeners.tls().cloned());
                    opening.spawn(async move { (ListenerTls::accept(tls, stream).await, peer) });
                }
                Some(Ok((opened, peer))) = opening.join_next() => match opened.and_then(Accepted::permitted) {
                    Ok(stream) => return Some((Ok(stream), (listeners, connections, opening, warned))),
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied && is_due(&mut warned) => {
                        tracing::warn!("a client at {peer} is refused: {e}");
                    }
                    Err(e) => tracing::debug!("a connection of {peer} was not opened: {e}"),
                },
            }
        }
    })
}

/// Whether strangers may make the log grow by another line.
fn is_due(warned: &mut Option<Instant>) -> bool {
    let is_due = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
    if is_due {
        *warned = Some(Instant::now());
    }
    is_due
}
