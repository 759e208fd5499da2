//! Opening the service: what ran before comes back.

use super::{Agents, EventLog, Service, egress_identities::EgressIdentities};
use crate::{
    ca_bundle::CaBundle, environment::AgentEnvironment, images::Images, interpreter::Interpreter,
    routing_table::RoutingTable, runtime::Runtime, store::Store,
};
use hoistway_kit::{disk_reserve::Reserve, egress_auth::EgressKey, fs::DirLock, prune::Pruned};
use hoistway_model::{AgentIdentities, AgentService, Result};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The parts of the service.
pub(crate) struct Parts {
    pub store: Store,
    pub images: Images,
    pub interpreter: Interpreter,
    pub environment: AgentEnvironment,
    /// Makes the tokens by which egress knows revisions.
    pub egress_key: EgressKey,
    /// The certificate authorities that agents trust.
    pub ca_bundle: CaBundle,
    pub runtime: Arc<dyn Runtime>,
    pub lock: DirLock,
    /// The service's own directory.
    pub directory: PathBuf,
    /// The interval at which old answers are forgotten.
    pub tidy_every: Duration,
    /// The time in which a replaced instance may finish its requests.
    pub drain: Duration,
    /// The time without invokes after which an agent is stopped until the next one, if any.
    pub idle_after: Option<Duration>,
}

impl Service {
    /// Starts the agents of earlier times again, in the background and as many at a time as the runtime allows.
    pub(crate) async fn open(parts: Parts) -> Result<Arc<Self>> {
        let identities = EgressIdentities::new(parts.runtime.isolation().has_open_network());
        let service = Arc::new(Self {
            store: parts.store,
            images: parts.images,
            interpreter: parts.interpreter,
            environment: parts.environment,
            egress_key: parts.egress_key,
            ca_bundle: parts.ca_bundle,
            runtime: parts.runtime,
            hub: RoutingTable::new(),
            supervisors: Mutex::default(),
            locks: Mutex::default(),
            lately_bound: Mutex::default(),
            kept_layers: Mutex::default(),
            draining: super::draining::Draining::default(),
            drain: parts.drain,
            idle: super::idle::Idle::new(parts.idle_after),
            events: EventLog::new(),
            identities,
            reserve: Reserve::new(&parts.directory),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            stopping: CancellationToken::new(),
            directory: Mutex::new(Some(parts.lock)),
            path: parts.directory,
        });
        service.bring_back().await?;
        let cleaning = Arc::clone(&service);
        service.tasks.spawn(async move { cleaning.keep_clean(parts.tidy_every).await });
        Ok(service)
    }

    /// The service as its trait.
    pub fn handle(self: &Arc<Self>) -> Arc<dyn AgentService> {
        Arc::new(Agents(Arc::clone(self)))
    }

    /// The service as it tells egress whom to let out.
    pub fn identities(self: &Arc<Self>) -> Arc<dyn AgentIdentities> {
        Arc::new(Agents(Arc::clone(self)))
    }

    async fn bring_back(self: &Arc<Self>) -> Result<()> {
        for (id, layers) in self.store.retired_layers().await? {
            self.kept_layers().insert(id, self.images.store().pin(&layers));
        }
        if !self.idle.is_on() {
            self.store.unmark_all_idle().await?;
        }
        let mut revisions = self.store.current_revisions().await?;
        for agent in self.store.agents().await? {
            for revision in revisions.remove(&agent.name).unwrap_or_default() {
                let active = agent.active == Some(revision.id);
                if active || agent.desired == Some(revision.id) {
                    if agent.stopped {
                        let layers = revision.image.map(|image| image.layers).unwrap_or_default();
                        self.kept_layers().insert(revision.id, self.images.store().pin(&layers));
                    } else if agent.idle && active {
                        self.park(revision);
                        self.report_phase(&agent);
                    } else {
                        self.start_supervisor(revision, active);
                    }
                } else if revision.operation.is_none() {
                    // This service began it by itself and did not come to its end; nobody else knows of it.
                    self.store.undo_start(None, &agent.name, &revision.id).await?;
                }
            }
            self.hub.set(self.route(&agent));
        }
        Ok(())
    }

    async fn keep_clean(&self, every: Duration) {
        loop {
            // Every layer that an agent of earlier times uses is pinned by now.
            self.sweep().await;
            self.reserve.keep().await;
            match self.store.purge().await {
                Ok(Pruned { old: 0, surplus: 0 }) => {}
                Ok(Pruned { old, surplus }) => tracing::debug!("forgot {} operations", old + surplus),
                Err(e) => tracing::warn!(cause = e.chain(), "forgetting old operations: {e}"),
            }
            if self.stopping.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }
}
