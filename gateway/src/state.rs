//! The state that all handlers share.

use crate::{
    access_control::Access, deploy::Deployer, events::Events, image_host::PublicRegistry, metrics::GatewayMetrics,
    oidc::Callers, routing_table::RoutingTable,
};
use bytes::Bytes;
use hoistway_kit::{
    disk_reserve::Reserve, invoke_statement::InvokeStatementKey, probes::ReadyCheck, quota::SharedQuota,
    tls::ServiceTls,
};
use hoistway_model::{AgentService, BuildService, EgressService, Error, Result, ToolRegistry, source};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The handlers' dependencies.
#[derive(Debug)]
pub struct AppState {
    /// The tool registry.
    pub tools: Arc<dyn ToolRegistry>,
    /// The build service.
    pub builds: Arc<dyn BuildService>,
    /// The agent service.
    pub agents: Arc<dyn AgentService>,
    /// Egress, which carries agents' outbound calls.
    pub egress: Arc<dyn EgressService>,
    /// The deploy saga.
    pub deployer: Arc<dyn Deployer>,
    /// The targets of agents' invokes.
    pub routes: RoutingTable,
    /// Access control.
    pub access: Access,
    /// Authentication of agents' end users.
    pub callers: Callers,
    /// The key that signs statements to egress about invokes.
    pub invoke_statements: InvokeStatementKey,
    /// The public names of images.
    pub public_registry: PublicRegistry,
    /// Limits of one caller's requests.
    pub limits: Limits,
    /// The memory of all request bodies; see [`crate::api::request_body::budget`].
    pub bodies: Arc<SharedQuota>,
    /// The permits of whole lists, which are in memory while they are made.
    pub lists: Lists,
    /// The last collected metrics, and the time at which that collection began.
    pub scraped: Mutex<Option<(Instant, Bytes)>>,
    /// The permit of deploys with large sources: one at a time until it is accepted.
    pub large_deploys: LargeDeploys,
    /// The check behind `/readyz`.
    pub ready: Arc<dyn ReadyCheck>,
    /// Events for clients that follow them.
    pub events: Arc<Events>,
    /// Measurements of this gateway.
    pub metrics: Arc<GatewayMetrics>,
    /// The TLS of connections to agents.
    pub tls: ServiceTls,
    /// Cancelled when the gateway shuts down: ends the answers that follow a stream.
    pub closing: CancellationToken,
    /// Reserved disk space for changes that free disk space.
    pub reserve: Reserve,
    /// Work that goes on after its answer; a shutdown waits for it.
    pub tasks: TaskTracker,
}

/// Limits large deploys to one at a time: the source is in memory as the request, the work, the hashed bytes and the
/// sealed bytes.
#[derive(Debug)]
pub struct LargeDeploys(Arc<Semaphore>);

impl Default for LargeDeploys {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl LargeDeploys {
    /// Waits for earlier large deploys.
    pub async fn acquire(&self) -> Result<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.map_err(|e| Error::internal("waiting for other deploys", e))
    }
}

/// Limits the whole lists that are made at a time; the others wait before they take any memory.
#[derive(Debug)]
pub struct Lists(Semaphore);

impl Default for Lists {
    fn default() -> Self {
        Self(Semaphore::new(2))
    }
}

impl Lists {
    /// Waits for the permit of one list.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>> {
        self.0.acquire().await.map_err(|e| Error::internal("waiting for other lists", e))
    }
}

/// Limits of one caller's requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of one request body.
    pub max_body: usize,
    /// The default wait of an answer to `POST /deploy`; public clients give up at 30 s.
    pub deploy_wait: Duration,
    /// The longest wait that a caller may request: the deployment's own deadline.
    pub deploy_deadline: Duration,
    /// The time limit of an agent's answer to an invoke, streams included.
    pub invoke_timeout: Duration,
    /// The most concurrent invokes of one agent.
    pub invoke_concurrency: usize,
    /// The most bytes of an agent's answer that is not streamed.
    pub max_answer: usize,
    /// The most files that one source may have; never more than [`source::MAX_FILES`].
    pub max_source_files: usize,
    /// The most bytes that one source may have; never more than [`source::MAX_BYTES`].
    pub max_source_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 32 << 20,
            deploy_wait: Duration::from_secs(25),
            deploy_deadline: Duration::from_secs(15 * 60),
            invoke_timeout: Duration::from_secs(300),
            invoke_concurrency: 64,
            max_answer: 32 << 20,
            max_source_files: source::MAX_FILES,
            max_source_bytes: source::MAX_BYTES,
        }
    }
}
