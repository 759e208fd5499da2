//! Assembles the gateway and serves it; the same for its own binary, for the whole stack in one process and for tests.

use crate::{
    access_control::Access,
    api::{self, request_body},
    audit::AuditLog,
    config::Config,
    events::Events,
    image_host::PublicRegistry,
    keys,
    metrics::GatewayMetrics,
    oidc::Callers,
    rebuild_outdated,
    routing_table::RoutingTable,
    saga::{self, Saga, Services},
    state::{AppState, LargeDeploys, Lists},
    store::Journal,
    tool_url_updates,
};
use async_trait::async_trait;
use axum::Router;
use hoistway_kit::{
    backoff::Backoff,
    connection_limits::Limits as ConnectionLimits,
    disk_reserve::Reserve,
    fs::DirLock,
    image_registry::ImageRegistry,
    invoke_statement::InvokeStatementKey,
    ports::Listeners,
    probes::ReadyCheck,
    prune::{Retention, ago},
    secrets::MasterKey,
    tls::ServiceTls,
    token::ApiKey,
    web,
};
use hoistway_model::{
    EgressService, Error, Name, Operation, Result, Secret,
    build::BuildQuery,
    page::{self, PageQuery},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The longest time for requests in flight after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);
/// The interval at which the last uses of keys are written.
const WRITE_USES_EVERY: Duration = Duration::from_secs(5 * 60);
/// The first pause before tidying is retried when a service did not answer; it grows each time.
const TIDY_AGAIN: Duration = Duration::from_secs(10);

/// The gateway's dependencies.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The services.
    pub services: Services,
    /// Egress, which no deploy calls.
    pub egress: Arc<dyn EgressService>,
    /// The TLS of connections to agents.
    pub tls: ServiceTls,
    /// The key that encrypts journalled requests.
    pub master_key: MasterKey,
    /// The installation's API key.
    pub api_key: ApiKey,
    /// The key that signs statements about invokes.
    pub invoke_statements: InvokeStatementKey,
}

/// The retention of records, and the interval of their removal.
#[derive(Debug, Clone, Copy)]
struct CleanupConfig {
    every: Duration,
    journal: Retention,
    audit: Retention,
}

/// An opened gateway.
#[derive(Debug)]
pub struct Gateway {
    state: Arc<AppState>,
    router: Router,
    saga: Saga,
    journal: Journal,
    tidying: CleanupConfig,
    shutdown: CancellationToken,
    _lock: DirLock,
}

impl Gateway {
    /// Locks the gateway's directory, opens the journal and resumes the deployments that an earlier process left
    /// unfinished.
    pub async fn open(config: &Config, deps: Deps, shutdown: CancellationToken) -> Result<Self> {
        let dir = config.service_dir();
        let locked = dir.clone();
        let locking = tokio::task::spawn_blocking(move || DirLock::acquire(&locked)).await;
        let lock = locking.map_err(|e| Error::internal("locking the gateway's directory", e))??;
        let metrics = GatewayMetrics::new();
        let events = Events::new(metrics.clone());
        let journal = Journal::open(&config.location().await?).await?.publishing_to(events.clone());
        let Deps { services, egress, tls, master_key, api_key, invoke_statements } = deps;
        saga::reseal(&journal, &master_key).await?;
        let saga =
            Saga::new(services.clone(), journal.clone(), master_key, config.saga_limits(), shutdown.child_token());
        let limits = config.limits();
        let state = Arc::new(AppState {
            tools: services.tools.clone(),
            builds: services.builds.clone(),
            agents: services.agents.clone(),
            egress: egress.clone(),
            deployer: Arc::new(saga.clone()),
            routes: RoutingTable::new(services.agents.clone()),
            access: Access::new(&journal, api_key, config.access_limits()),
            callers: Callers::new(services.tools.clone(), config.caller_limits()),
            invoke_statements,
            public_registry: PublicRegistry::new(
                &config.public_registry,
                ImageRegistry::of_setting(config.image_registry.as_deref())?,
            ),
            bodies: request_body::budget(limits.max_body),
            lists: Lists::default(),
            scraped: Default::default(),
            large_deploys: LargeDeploys::default(),
            limits,
            ready: Arc::new(Ready { journal: journal.clone(), services, egress }),
            events,
            metrics,
            tls,
            closing: shutdown.child_token(),
            reserve: Reserve::new(&dir),
            tasks: TaskTracker::new(),
        });
        let router = api::router(state.clone(), &config.allowed_origins)?;
        let recovered = saga.recover().await?;
        if recovered > 0 {
            tracing::info!("{recovered} unfinished deployments go on");
        }
        let tidying =
            CleanupConfig { every: config.tidy_every(), journal: config.journal_kept(), audit: config.audit_kept() };
        Ok(Self { state, router, saga, journal, tidying, shutdown, _lock: lock })
    }

    /// Answers requests until the shutdown token is cancelled; then waits for those in flight.
    pub async fn serve(self, listeners: Listeners) -> Result<()> {
        // The directory stays this process' own until the end.
        let Self { state, router, saga, journal, tidying, shutdown, _lock } = self;
        let subscriptions = state.routes.subscriptions();
        let routes = tokio::spawn(state.routes.clone().run(shutdown.clone()));
        let agents = tokio::spawn(state.events.clone().follow_agents(state.agents.clone(), shutdown.clone()));
        let builds = tokio::spawn(state.events.clone().follow_builds(state.builds.clone(), shutdown.clone()));
        let calls = tokio::spawn(state.events.clone().follow_egress(state.egress.clone(), shutdown.clone()));
        let rebuilds =
            rebuild_outdated::run(state.agents.clone(), state.deployer.clone(), subscriptions, shutdown.clone());
        let rebuilds = tokio::spawn(rebuilds);
        let tidy = tokio::spawn(tidy(state.clone(), journal, tidying, shutdown.clone()));
        let uses = tokio::spawn(write_last_uses(state.clone(), shutdown.clone()));
        web::serve("api", listeners, router, ConnectionLimits::default(), shutdown).await?;
        saga.drained().await;
        state.tasks.close();
        let _ = tokio::time::timeout(DRAIN, state.tasks.wait()).await;
        if let Err(e) = state.access.keys.write_last_uses().await {
            tracing::warn!(cause = e.chain(), "when the API keys were used last is not written: {e}");
        }
        for task in [routes, agents, builds, calls, tidy, uses, rebuilds] {
            task.await.map_err(|e| Error::internal("ending a background task", e))?;
        }
        Ok(())
    }
}

/// Seals again, after a rotation of the master key, the data that was sealed with old keys; for a gateway that does not
/// run. Opening the gateway does it as well.
pub async fn reseal(config: &Config, key: &MasterKey) -> Result<()> {
    let dir = config.service_dir();
    let lock = tokio::task::spawn_blocking(move || DirLock::acquire(&dir)).await;
    let _lock = lock.map_err(|e| Error::internal("locking the gateway's directory", e))??;
    let journal = Journal::open(&config.location().await?).await?;
    let resealed = saga::reseal(&journal, key).await;
    journal.close().await;
    resealed
}

/// Stores a key that permits everything, for a gateway that does not run. Returns whether it has the form of stored
/// keys; any other one is not stored.
pub async fn store_key(config: &Config, name: &str, secret: &Secret) -> Result<bool> {
    let journal = Journal::open(&config.location().await?).await?;
    let stored = keys::store(&journal.keys(), name, secret).await;
    journal.close().await;
    stored
}

/// Writes into the audit log that the operator has imported an export, which `export` describes; for a gateway that
/// does not run.
pub async fn record_import(config: &Config, export: &str) -> Result<()> {
    let journal = Journal::open(&config.location().await?).await?;
    let recorded = AuditLog::new(journal.audit()).record_import(export).await;
    journal.close().await;
    recorded
}

/// Periodically removes old deployments, releases the tools of agents whose deletion was interrupted, releases the
/// images that no agent uses, and gives agents the URLs of tools whose moves they have missed.
async fn tidy(state: Arc<AppState>, journal: Journal, tidying: CleanupConfig, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(tidying.every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut backoff = Backoff::new(TIDY_AGAIN, tidying.every);
    while shutdown.run_until_cancelled(every.tick()).await.is_some() {
        state.reserve.keep().await;
        let tidied = async {
            journal.purge(tidying.journal).await?;
            state.access.audit.tidy(tidying.audit).await?;
            state.access.keys.purge(ago(tidying.audit.time)).await?;
            // In this order: a name that is bound and is not an agent afterwards will not become one.
            let bound = state.tools.bound_agents().await?;
            let agents: BTreeSet<Name> =
                page::of_agents(&*state.agents, |agent| Some(agent.name)).await?.into_iter().collect();
            for name in bound.into_iter().filter(|name| !agents.contains(name)) {
                state.tools.release_agent(Operation::new(), name).await?;
            }
            let in_use = state.agents.images_in_use().await?;
            state.builds.collect_images(in_use).await?;
            tool_url_updates::reconcile(&state).await
        };
        match tidied.await {
            Ok(()) => backoff.reset(),
            Err(e) => {
                tracing::warn!(cause = e.chain(), "tidying will be tried again: {e}");
                every.reset_after(backoff.pause());
            }
        }
    }
}

/// Periodically writes the last uses of keys.
async fn write_last_uses(state: Arc<AppState>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(WRITE_USES_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(every.tick()).await.is_some() {
        if let Err(e) = state.access.keys.write_last_uses().await {
            tracing::warn!(cause = e.chain(), "when the API keys were used last will be written later: {e}");
        }
    }
}

/// Ready when the journal and every service answer: a deploy needs them all, and a started agent needs egress.
#[derive(Debug)]
struct Ready {
    journal: Journal,
    services: Services,
    egress: Arc<dyn EgressService>,
}

#[async_trait]
impl ReadyCheck for Ready {
    async fn check(&self) -> Result<()> {
        let Services { tools, builds, agents } = &self.services;
        tokio::try_join!(
            self.journal.ping(),
            tools.list_model_providers(),
            builds.list_builds(BuildQuery { limit: 1, ..BuildQuery::default() }),
            agents.list_agents(PageQuery { after: None, limit: 1 }),
            self.egress.status()
        )?;
        Ok(())
    }
}
