//! The server of a process: its services, health and reflection behind one guard, over TCP and in process.

use super::{
    Transport,
    middleware::{Guard, GuardedRoutes},
};
use crate::{
    connections::{Connections, Limits},
    ports::Listeners,
    token::ServiceToken,
};
use futures_util::{FutureExt, stream};
use hoistway_model::{Error, Result};
use std::{convert::Infallible, io, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower::Service;

/// How long streams and slow calls may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);
/// Calls that one connection may have in flight.
const MAX_STREAMS: u32 = 256;
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The services of one process. Cheap to clone: [`Server::serve`] one copy and take [`Server::into_local`] of another.
#[derive(Clone, Debug)]
pub struct Server {
    routes: Routes,
    guard: Arc<Guard>,
    health: HealthReporter,
}

impl Server {
    /// A server whose callers must show `token`, with the standard health service, which is open to everybody.
    pub fn new(token: ServiceToken) -> Self {
        let health = HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(health.clone()));
        Self { routes: Routes::new(service), guard: Arc::new(Guard::new(token)), health }
    }

    /// Adds a generated server. Its health is serving until [`Server::health`] says otherwise.
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
        // Nobody else holds the lock inside yet, so this never waits.
        self.health.set_service_status(S::NAME, ServingStatus::Serving).now_or_never();
        Self { routes: self.routes.add_service(service), ..self }
    }

    /// Adds a generated server that answers callers with `token`, and not those with the token of all the others.
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

    /// The deadline of calls that name none, and the longest one that a call may name. The answer of a stream must
    /// have begun by then; how long it goes on is the service's to bound.
    #[must_use]
    pub fn deadlines(self, default: Duration, maximum: Duration) -> Self {
        Self { guard: Arc::new(self.guard.with_deadlines(default, maximum)), ..self }
    }

    /// What the health service reports, by the full name of a service; the empty name is the whole process.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `shutdown`: then takes no more connections, reports not serving, and lets calls in flight finish.
    pub async fn serve(self, listeners: impl Into<Listeners>, shutdown: CancellationToken) -> Result<()> {
        let health = self.health.clone();
        let connections = Connections::new(Limits::default());
        let incoming = stream::unfold((listeners.into(), connections), |(listeners, connections)| async move {
            let (stream, peer) = listeners.accept().await;
            Some((io::Result::Ok(connections.take_in(stream, peer)), (listeners, connections)))
        });
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

    /// The same services for clients in this process.
    pub fn into_local(self) -> Transport {
        let token = self.guard.token().clone();
        self.into_local_with(&token)
    }

    /// The same for a client that shows a token of its own.
    pub fn into_local_with(self, token: &ServiceToken) -> Transport {
        Transport::local(self.guarded_routes(), token)
    }

    pub(super) fn guarded_routes(self) -> GuardedRoutes {
        GuardedRoutes { routes: self.routes.prepare(), guard: self.guard }
    }
}
