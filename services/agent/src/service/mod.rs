//! The agent service itself.
//!
//! The desired state is in the store, the actual one in the supervisors, one for each revision that is up or coming up.
//! Whatever changes either of them ends in [`Service::settle`], which derives the rest: a desired revision that is
//! ready becomes the active one, and the agent's route follows. Changes of one agent happen one after the other, under
//! its lock; agents never wait for each other.

mod draining;
mod egress_identities;
mod events;
mod failed_wake;
mod fetch;
mod idle;
mod lifecycle;
mod metrics;
mod open;
mod remove;
mod revision_supervisor;
mod revisions;
mod route;
mod start;
mod switch;
mod tool_bindings;
mod view;

use crate::{
    ca_bundle::CaBundle,
    environment::AgentEnvironment,
    images::{FIRST_PATIENCE, Failure, Images, Pins},
    interpreter::Interpreter,
    routing_table::RoutingTable,
    runtime::{Isolation, Runtime},
    store::{AgentRecord, Store},
};
use async_trait::async_trait;
use draining::Draining;
use egress_identities::EgressIdentities;
use events::EventLog;
use futures_util::StreamExt;
use hoistway_kit::{disk_reserve::Reserve, egress_auth::EgressKey, fs::DirLock, probes::ReadyCheck, telemetry::Origin};
use hoistway_model::{
    AgentIdentities, AgentService, Code, Digest, Error, Name, Operation, OperationId, Result, RevisionId,
    agent::{Agent, AgentEvents, AgentSpec, EventPosition, RevisionStatus, RouteStream, RuntimeStatus},
    egress::{AgentIdentity, RefusedCall},
    image::{ImageRef, StoredImage},
    log::{LogPieces, LogQuery},
    metric::Metrics,
    page::{Page, PageQuery},
    revision::{Derivation, Diff, Revision, RevisionRef},
    tool::BoundTool,
    unpacked_layers::UnpackedLayers,
    watch::Updates,
};
pub(crate) use open::Parts;
use revision_supervisor::RevisionSupervisor;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use switch::Switch;
use tokio::sync::OwnedMutexGuard;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The time that a switch waits for gateways to follow.
const ACK_LIMIT: Duration = Duration::from_secs(5);
/// The number of agents that are listed at a time: each may have a MiB of variables and as much of a prompt.
const PAGE: u32 = 16;

/// The agent service of one installation.
pub struct Service {
    store: Store,
    images: Images,
    interpreter: Interpreter,
    environment: AgentEnvironment,
    egress_key: EgressKey,
    ca_bundle: CaBundle,
    runtime: Arc<dyn Runtime>,
    hub: Arc<RoutingTable>,
    supervisors: Mutex<HashMap<RevisionId, Arc<RevisionSupervisor>>>,
    locks: Mutex<HashMap<Name, Weak<tokio::sync::Mutex<()>>>>,
    /// The layers of revisions that are kept and not running, so that they stay on disk.
    kept_layers: Mutex<HashMap<RevisionId, Pins>>,
    /// Tools that were bound lately, for revisions whose specification is older.
    lately_bound: Mutex<HashMap<Name, tool_bindings::Binding>>,
    draining: Draining,
    /// The time in which a replaced instance may finish its requests.
    drain: Duration,
    idle: idle::Idle,
    /// Events of agents, for those who follow them.
    events: EventLog,
    identities: Arc<EgressIdentities>,
    /// Room for stopping and deleting, on a full disk.
    reserve: Reserve,
    tasks: TaskTracker,
    /// Ends what follows the service; calls are drained after that.
    closing: CancellationToken,
    stopping: CancellationToken,
    /// Nobody else may run on the same directory, until the service is shut down.
    directory: Mutex<Option<DirLock>>,
    /// That directory.
    path: PathBuf,
}

#[async_trait]
impl ReadyCheck for Service {
    async fn check(&self) -> Result<()> {
        tokio::try_join!(self.store.ping(), self.runtime.ping()).map(drop)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("agent::Service").finish_non_exhaustive()
    }
}

/// A handle that calls the service from anywhere; clones are the same service.
#[derive(Debug, Clone)]
pub struct Agents(Arc<Service>);

impl Service {
    /// The isolation of agents, as enforced.
    pub fn isolation(&self) -> Isolation {
        self.runtime.isolation()
    }

    /// The unpacked layers, for those who make layers in this process; nothing if agents run from whole images.
    pub fn unpacked_layers(&self) -> Option<Arc<dyn UnpackedLayers>> {
        (!self.runtime.runs_images()).then(|| Arc::new(self.images.store().clone()) as Arc<dyn UnpackedLayers>)
    }

    fn supervisors(&self) -> MutexGuard<'_, HashMap<RevisionId, Arc<RevisionSupervisor>>> {
        self.supervisors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_layers(&self) -> MutexGuard<'_, HashMap<RevisionId, Pins>> {
        self.kept_layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change an agent.
    async fn lock(&self, name: &Name) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            match locks.get(name).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    locks.retain(|_, lock| lock.strong_count() > 0);
                    let lock = Arc::default();
                    locks.insert(name.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    async fn record(&self, name: &Name) -> Result<AgentRecord> {
        self.store.agent(name).await?.ok_or_else(|| Error::not_found("agent", name))
    }

    /// Does work to its end even when its caller goes away.
    async fn detached<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        if self.stopping.is_cancelled() {
            return Err(Error::new(Code::Unavailable, "the agent service is shutting down"));
        }
        let work = Origin::current().scope(work);
        self.tasks.spawn(work).await.map_err(|e| Error::internal("changing an agent", e))?
    }
}

#[async_trait]
impl AgentService for Agents {
    async fn resolve_image(&self, image: ImageRef) -> Result<Option<Digest>> {
        match self.0.images.resolve(&image, FIRST_PATIENCE).await {
            Ok(digest) => Ok(Some(digest)),
            Err(Failure::Unreachable(_)) => Ok(None),
            Err(Failure::Final(e)) => Err(e),
        }
    }

    async fn start_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        spec: AgentSpec,
    ) -> Result<RevisionStatus> {
        let service = Arc::clone(&self.0);
        let supervisor = self.0.detached(async move { service.begin_start(operation, revision, spec).await }).await?;
        self.0.outcome(supervisor).await
    }

    async fn derive_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        derivation: Derivation,
    ) -> Result<RevisionStatus> {
        let service = Arc::clone(&self.0);
        let start = async move { service.begin_derived(operation, revision, derivation).await };
        let supervisor = self.0.detached(start).await?;
        self.0.outcome(supervisor).await
    }

    async fn get_revision(&self, agent: Name, revision: RevisionRef) -> Result<Revision> {
        let record = self.0.record(&agent).await?;
        let found = self.0.store.find_revision(&record, revision).await?;
        Ok(self.0.shown_as_revision(&record, found))
    }

    async fn list_revisions(&self, agent: Name, before: Option<RevisionRef>, limit: u32) -> Result<Vec<Revision>> {
        self.0.list_revisions(agent, before, limit).await
    }

    async fn diff_revisions(&self, agent: Name, from: Option<RevisionRef>, to: RevisionRef) -> Result<Diff> {
        self.0.diff(agent, from, to).await
    }

    async fn check_room(&self, agent: Name) -> Result<()> {
        match self.0.store.agent(&agent).await? {
            Some(_) => Ok(()),
            None => self.0.store.has_room().await,
        }
    }

    async fn stop_agent(&self, operation: Operation, name: Name) -> Result<Agent> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.stop_agent(operation, name).await }).await
    }

    async fn start_agent(&self, operation: Operation, name: Name) -> Result<Agent> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.start_agent(Some(operation), name).await }).await
    }

    async fn restart_agent(&self, operation: Operation, name: Name) -> Result<Agent> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.restart_agent(operation, name).await }).await
    }

    async fn switch_route(&self, operation: Operation, agent: Name, revision: RevisionId) -> Result<Agent> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.switch(Switch::Revision(operation), agent, revision).await }).await
    }

    async fn undo_start(&self, started: OperationId, agent: Name, revision: RevisionId) -> Result<()> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.undo(Some(started), agent, revision).await }).await
    }

    async fn bind_tool(&self, operation: Operation, tool: BoundTool, replaces: Option<String>) -> Result<Vec<Name>> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.bind(operation, tool, replaces).await }).await
    }

    async fn get_agent(&self, name: Name) -> Result<Agent> {
        let record = self.0.record(&name).await?;
        self.0.view(record).await
    }

    async fn list_agents(&self, mut query: PageQuery) -> Result<Page<Agent>> {
        let limit = query.limit.clamp(1, PAGE);
        loop {
            let found = self.0.store.agents_after(query.after.as_ref(), limit + 1).await?;
            let Page { items: records, more } = Page::of(found, limit as usize);
            query.after = records.last().map(|record| record.name.clone());
            let mut shown = self.0.store.shown_revisions(&records).await?;
            let mut items = Vec::with_capacity(records.len());
            for record in records {
                let agent = match shown.remove(&record.name) {
                    Some(revision) => Ok(self.0.render(record, revision)),
                    // Replaced between the queries, or deleted.
                    None => self.0.view(record).await,
                };
                match agent {
                    Ok(agent) => items.push(agent),
                    Err(error) if error.code == Code::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            // Where others follow there is always one to go on from.
            if !more || !items.is_empty() {
                return Ok(Page { items, more });
            }
        }
    }

    async fn images_in_use(&self) -> Result<Vec<StoredImage>> {
        self.0.store.images().await
    }

    async fn delete_agent(&self, operation: Operation, name: Name) -> Result<()> {
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.delete(operation, name).await }).await
    }

    async fn agent_logs(&self, name: Name, query: LogQuery) -> Result<LogPieces> {
        // A deletion under way must end whoever follows, so nobody begins to follow in the middle of one.
        let _lock = if query.follow { Some(self.0.lock(&name).await) } else { None };
        if self.0.store.agent(&name).await?.is_none() {
            return Err(Error::not_found("agent", &name));
        }
        let pieces = self.0.runtime.logs(&name, query).await?;
        Ok(Box::pin(pieces.take_until(self.0.closing.clone().cancelled_owned())))
    }

    async fn agent_events(&self, after: Option<EventPosition>) -> Result<AgentEvents> {
        Ok(self.0.events.follow(after))
    }

    async fn agent_metrics(&self) -> Result<Metrics> {
        self.0.metrics().await
    }

    async fn watch_routes(&self, watcher: String) -> Result<RouteStream> {
        Ok(self.0.hub.watch(watcher))
    }

    async fn ack_routes(&self, watcher: String, version: u64) -> Result<()> {
        self.0.hub.ack(&watcher, version);
        Ok(())
    }

    async fn report_idle(&self, watcher: String, agent: Name, instance: RevisionId, in_use: bool) -> Result<()> {
        if in_use {
            self.0.hub.report_used(&watcher, &agent);
            return Ok(());
        }
        let service = Arc::clone(&self.0);
        self.0.detached(async move { service.gateway_is_idle(&watcher, &agent, instance).await }).await
    }

    async fn wake_agent(&self, name: Name) -> Result<()> {
        let service = Arc::clone(&self.0);
        let woken = self.0.detached(async move { service.wake(&name).await }).await?;
        match woken {
            Some(supervisor) => supervisor.woken().await,
            None => Ok(()),
        }
    }

    async fn runtime(&self) -> Result<RuntimeStatus> {
        let Isolation { enforced, network, limits, notes } = self.0.isolation();
        let python = self.0.interpreter.python.clone();
        let name = self.0.runtime.name().to_owned();
        Ok(RuntimeStatus { name, isolation: enforced, network, limits, python, notes })
    }
}

#[async_trait]
impl AgentIdentities for Agents {
    async fn watch_identities(&self) -> Result<Updates<RevisionId, AgentIdentity>> {
        Ok(self.0.identities.watch(self.0.closing.clone()))
    }

    async fn log_refused_calls(&self, calls: Vec<RefusedCall>) -> Result<()> {
        for RefusedCall { revision, text } in calls {
            if let Some(instance) = self.0.identities.instance_of(revision) {
                self.0.runtime.remark(&instance, &text).await?;
            }
        }
        Ok(())
    }
}
