//! What every handler can reach.

use crate::{
    access::Access, deploy::Deployer, events::Events, metrics::GatewayMetrics, oidc::Callers,
    public_registry::PublicRegistry, routing_table::RoutingTable,
};
use async_trait::async_trait;
use bytes::Bytes;
use hoistway_kit::{disk_reserve::Reserve, invoke_statement::InvokeStatementKey, quota::SharedQuota};
use hoistway_model::{AgentService, BuildService, EgressService, Error, Result, ToolRegistry, source};
use std::{
    fmt,
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
    /// Where agents' invokes go.
    pub routes: RoutingTable,
    /// Who may call.
    pub access: Access,
    /// Who agents' callers are.
    pub callers: Callers,
    /// The key of what egress is told about invokes.
    pub invoke_statements: InvokeStatementKey,
    /// What things are called outside.
    pub public_registry: PublicRegistry,
    /// Bounds on what one caller can ask for.
    pub limits: Limits,
    /// The memory that request bodies may take together; see [`crate::api::request_body::budget`].
    pub bodies: Arc<SharedQuota>,
    /// For whole lists, each in memory while it is made.
    pub lists: Lists,
    /// What was measured last, and when that was begun.
    pub scraped: Mutex<Option<(Instant, Bytes)>>,
    /// For deploys with large sources, one at a time until it is accepted.
    pub large_deploys: LargeDeploys,
    /// What `/readyz` asks.
    pub ready: Arc<dyn ReadyCheck>,
    /// Events for clients that follow them.
    pub events: Arc<Events>,
    /// Measurements of this gateway.
    pub metrics: Arc<GatewayMetrics>,
    /// Cancelled when the gateway shuts down: ends the answers that follow something.
    pub closing: CancellationToken,
    /// Room for what makes room, on a full disk.
    pub reserve: Reserve,
    /// Work that goes on after its answer; wait for it when shutting down.
    pub tasks: TaskTracker,
}

/// A copy of a source is in the request, the work, what is hashed and what is sealed: of one deploy at a time.
#[derive(Debug)]
pub struct LargeDeploys(Arc<Semaphore>);

impl Default for LargeDeploys {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl LargeDeploys {
    /// Waits for those that came before.
    pub async fn acquire(&self) -> Result<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.map_err(|e| Error::internal("waiting for other deploys", e))
    }
}

/// So many whole lists are made at a time; the others wait, and nothing of them is in memory yet.
#[derive(Debug)]
pub struct Lists(Semaphore);

impl Default for Lists {
    fn default() -> Self {
        Self(Semaphore::new(2))
    }
}

impl Lists {
    /// The place of one list, as soon as there is one.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>> {
        self.0.acquire().await.map_err(|e| Error::internal("waiting for other lists", e))
    }
}

/// Whether a deploy would work now.
#[async_trait]
pub trait ReadyCheck: fmt::Debug + Send + Sync + 'static {
    /// `Ok`, or an error whose public text says what is missing.
    async fn check(&self) -> Result<()>;
}

/// Bounds on what one caller can ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of one request body.
    pub max_body: usize,
    /// How long an answer to `POST /deploy` waits when the caller does not say; public clients give up at 30 s.
    pub deploy_wait: Duration,
    /// The longest that a caller may ask an answer to wait: the deployment's own deadline.
    pub deploy_deadline: Duration,
    /// How long an agent may take to answer an invoke, streams included.
    pub invoke_timeout: Duration,
    /// How many invokes of one agent run at a time.
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
