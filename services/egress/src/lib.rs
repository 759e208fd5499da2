//! Egress: the only way out of an agent. It knows which agent calls, lets calls to that agent's tools through and
//! nothing else, adds the credentials that agents never see, and records every call.
//!
//! The policies of agents come in through [`Policies`], what they did goes out through [`CallRecords`]. [`serve`] is
//! the whole service; a process that hosts several services calls [`open`], [`grpc`] and [`run`] itself. See
//! `docs/egress.md` for what it enforces.

mod agent_limits;
mod call_span;
pub mod calls;
mod check;
pub mod config;
mod connection;
mod forward;
mod grpc;
mod migrations;
pub mod origin;
pub mod policy;
pub mod request_path;
mod service;
mod store;
mod usage;

pub use calls::{CallRecord, CallRecords};
pub use config::Config;
pub use connection::ca::Authority;
pub use grpc::GrpcEgressService;
pub use migrations::ALL as MIGRATIONS;
pub use policy::watched_policy::WatchedPolicies;
pub use policy::{AgentPolicy, Policies, PolicyError, ToolPolicy};

use agent_limits::AgentLimits;
use calls::Recorder;
use calls::metrics::CallMetrics;
use calls::refusal_log::RefusalLog;
use connection::tls::Certificates;
use forward::oauth::Tokens;
use forward::upstream::Upstream;
use hoistway_client::{AgentIdentitiesClient, ToolCredentialsClient};
use hoistway_kit::{
    connection_limits::{Connections, Limits as ConnectionLimits},
    egress_auth::EgressKey,
    fs::DirLock,
    grpc::{Server, Transport},
    invoke_statement::InvokeStatementKey,
    ports::{Listeners, listen_as_configured},
    probes,
    quota::SharedQuota,
    shutdown::part,
    tls::{Accepted, ListenerTls, ServiceTls},
    token::ServiceToken,
};
use hoistway_model::{AgentIdentities, EgressService, Error, Result};
use origin::HostPort;
use service::Handle;
use std::{sync::Arc, time::Duration};
use store::Store;
use tokio::{
    sync::{Semaphore, mpsc},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use usage::{Budgets, Counts, Ledger};

/// The time that calls in progress may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);
/// The time that the last records and counts may take after that, and the database to close after them.
const LAST_RECORDS: Duration = Duration::from_secs(5);
const CLOSING: Duration = Duration::from_secs(1);
/// Checks of tools at a time.
const CHECKS: usize = 16;
/// Records that wait for being kept.
const RECORDS: usize = 8192;

/// The keys and tokens that the service shares with the rest of the installation.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The token that callers must show.
    pub token: ServiceToken,
    /// The key of agents' tokens.
    pub key: EgressKey,
    /// The policies of agents.
    pub policies: Arc<dyn Policies>,
    /// Where records of calls go; absent: into the database of the service.
    pub records: Option<Arc<dyn CallRecords>>,
    /// Where agents' logs are, to which refused calls are written; absent: they are not.
    pub agents: Option<Arc<dyn AgentIdentities>>,
    /// The key of statements about invokes.
    pub invoke_statements: InvokeStatementKey,
    /// The certificate of the listeners, if they have TLS.
    pub tls: ServiceTls,
}

impl Deps {
    /// Reads the keys from the configured files, which are made at the first start, and the certificate. Policies come
    /// from the configured services. Inside the runtime only.
    pub async fn load(config: &Config) -> Result<Self> {
        let (token, egress_token) = (config.service_token_file(), config.egress_token_file());
        let key = config.key_file();
        let tls = config.tls.clone();
        let load = move || {
            let (token, key) = (ServiceToken::load_or_create(&token)?, EgressKey::load_or_create(&key)?);
            Ok::<_, Error>((token, ServiceToken::load_or_create(&egress_token)?, key, tls.load()?))
        };
        let loading = tokio::task::spawn_blocking(load).await;
        let (token, egress_token, key, tls) = loading.map_err(|e| Error::internal("reading the keys", e))??;
        let tools = Transport::connect_tls("tool-registry", &config.tool_registry, &egress_token, &tls)?;
        let agents = Transport::connect_tls("agent", &config.agent, &token, &tls)?;
        let agents: Arc<dyn AgentIdentities> = Arc::new(AgentIdentitiesClient::new(agents));
        let tools = Arc::new(ToolCredentialsClient::new(tools));
        let policies = WatchedPolicies::new(tools, Arc::clone(&agents), &config.private_domains)?;
        let invoke_statements = InvokeStatementKey::new(&token)?;
        let (policies, agents) = (Arc::new(policies), Some(agents));
        Ok(Self { token, key, policies, records: None, agents, invoke_statements, tls })
    }
}

/// The two ports of the service.
#[derive(Debug)]
pub struct Ports {
    /// For gRPC.
    pub grpc: Listeners,
    /// For agents.
    pub http: Listeners,
}

impl Ports {
    /// Listens on the configured addresses, with the TLS of [`Deps`], and writes the ports that were taken for port 0
    /// into `config`.
    pub fn listen(config: &mut Config, tls: &ServiceTls) -> Result<Self> {
        Ok(Self {
            grpc: tls.secure_grpc("grpc_listen", listen_as_configured(&mut config.grpc_listen)?)?,
            http: tls.secure_http("listen", listen_as_configured(&mut config.listen)?)?,
        })
    }
}

/// An opened service.
#[derive(Debug)]
pub struct Service {
    egress: Arc<Egress>,
    authority: Arc<Authority>,
    records: (mpsc::Receiver<CallRecord>, Arc<dyn CallRecords>),
    counts: Counts,
    store: Store,
    _lock: DirLock,
}

/// Everything that calls share.
#[derive(Debug)]
pub(crate) struct Egress {
    config: Config,
    key: EgressKey,
    names: Vec<HostPort>,
    policies: Arc<dyn Policies>,
    invoke_statements: InvokeStatementKey,
    recorder: Recorder,
    call_metrics: Arc<CallMetrics>,
    usage: Ledger,
    budgets: Arc<Budgets>,
    agents: AgentLimits,
    tokens: Tokens,
    upstream: Upstream,
    /// Checks of tools that may run at a time.
    checks: Semaphore,
    /// Bytes of requests for models that may be in memory at a time.
    model_bodies: Arc<SharedQuota>,
    /// Bytes that translations of them may take at a time.
    model_work: Semaphore,
    certificates: Certificates,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Service {
    /// The authority that agents must trust.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// The service as the rest of the platform sees it.
    pub fn handle(&self) -> Arc<dyn EgressService> {
        Arc::new(Handle::new(&self.egress, self.authority(), self.store.clone()))
    }
}

/// Opens the service: its directory, its authority, its database, the trust in tools. It listens nowhere.
pub async fn open(config: &Config, deps: &Deps) -> Result<Service> {
    let opening = config.clone();
    let locking = tokio::task::spawn_blocking(move || {
        opening.limits.check()?;
        DirLock::acquire(&opening.service_dir())
    });
    let lock = locking.await.map_err(|e| Error::internal("opening egress", e))??;
    let store = Store::open(&config.location().await?, config.calls_kept(), config.usage_kept()).await?;
    let lines = deps.agents.as_ref().map(|agents| calls::refusal_log::start(Arc::clone(agents)));
    let (budgets, spent) = (store.budgets().await?, store.spent().await?);
    let budgets = Arc::new(Budgets::new(budgets, spent, lines.clone(), store.notices()));
    let (opening, shared) = (config.clone(), deps.clone());
    let opening = tokio::task::spawn_blocking(move || parts(opening, shared, budgets)).await;
    let (egress, queue, counts) = opening.map_err(|e| Error::internal("opening egress", e))??;
    let authority = egress.certificates.authority();
    let records = deps.records.clone().unwrap_or_else(|| Arc::new(store.clone()));
    let records = match lines {
        Some(lines) => Arc::new(RefusalLog::new(records, lines)),
        None => records,
    };
    Ok(Service { egress: Arc::new(egress), authority, records: (queue, records), counts, store, _lock: lock })
}

/// The state that calls share, with the ends where their records and counts come out. Blocks.
fn parts(config: Config, deps: Deps, budgets: Arc<Budgets>) -> Result<(Egress, mpsc::Receiver<CallRecord>, Counts)> {
    let names = config.names.iter().enumerate().map(|(index, name)| {
        HostPort::parse(name, None).ok_or_else(|| Error::field(format!("names[{index}]"), "must be HOST:PORT"))
    });
    let names = names.collect::<Result<_>>()?;
    let authority = Arc::new(Authority::load_or_create(&config.service_dir())?);
    if let Some(path) = &config.ca_file {
        authority.publish(path)?;
    }
    let (recorder, queue) = Recorder::new(RECORDS);
    let (usage, counts) = Ledger::new();
    let egress = Egress {
        key: deps.key,
        names,
        policies: deps.policies,
        invoke_statements: deps.invoke_statements,
        recorder,
        call_metrics: Arc::new(CallMetrics::new()),
        usage,
        budgets,
        agents: AgentLimits::new(&config.limits),
        tokens: Tokens::new(),
        upstream: Upstream::new(&config)?,
        checks: Semaphore::new(CHECKS),
        model_bodies: forward::models::bodies(),
        model_work: Semaphore::new(forward::models::WORK),
        certificates: Certificates::new(authority),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        config,
    };
    Ok((egress, queue, counts))
}

/// The gRPC server of any egress, with health and reflection.
pub fn grpc(egress: Arc<dyn EgressService>, deps: &Deps) -> Result<Server> {
    Server::new(deps.token.clone()).add(grpc::server(egress)).reflection(hoistway_proto::DESCRIPTORS)
}

/// Serves an opened service until `shutdown`, then drains.
pub async fn run(service: Service, server: Server, ports: Ports, shutdown: CancellationToken) -> Result<()> {
    // When one of them ends, whatever the reason, the others are of no use.
    let ended = shutdown.child_token();
    let (policies, budgets) = (Arc::clone(&service.egress.policies), Arc::clone(&service.egress.budgets));
    let (store, every) = (service.store.clone(), Duration::from_secs(service.egress.config.tidy_seconds.max(1)));
    let (rpc, http, (), ()) = tokio::join!(
        part(&ended, server.serve(ports.grpc, ended.clone())),
        part(&ended, serve_agents(service, ports.http, ended.clone())),
        policies.keep_current(ended.clone()),
        maintain(&store, &budgets, every, ended.clone())
    );
    // A statement that waits for another process' lock cannot be called off. What is committed is safe without this.
    if tokio::time::timeout(CLOSING, store.close()).await.is_err() {
        tracing::debug!("the database was still in use when egress ended");
    }
    rpc.and(http)
}

/// Removes old records now and then, until `shutdown`; then ends those who follow them.
async fn maintain(store: &Store, budgets: &Budgets, every: Duration, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, and opening has purged.
    ticks.tick().await;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        budgets.tidy();
        if let Err(e) = store.tidy().await {
            tracing::warn!(cause = e.chain(), "{e}");
        }
    }
    store.end_followers();
}

/// Accepts agents' connections until `shutdown`, then lets their calls end and keeps the last records.
async fn serve_agents(service: Service, listeners: Listeners, shutdown: CancellationToken) -> Result<()> {
    // The directory stays this process' own until the end.
    let Service { egress, records: (queue, sink), counts, store, _lock, .. } = service;
    let out_of_time = CancellationToken::new();
    let keeping_records = calls::keep(queue, Arc::clone(&egress.call_metrics), sink, out_of_time.clone());
    let keeping_usage = usage::keep(counts, Arc::new(store), out_of_time.clone());
    let mut keeping = tokio::spawn(async { tokio::join!(keeping_records, keeping_usage) });
    let limits = &egress.config.limits;
    let defaults = ConnectionLimits::default();
    let limits = ConnectionLimits {
        // Agents in containers may all have one address.
        strangers_each: defaults.strangers,
        known: limits.connections,
        known_each: limits.agent_connections,
        write: Duration::from_millis(limits.idle_ms),
        ..defaults
    };
    let connections = Connections::new("egress", limits);
    let accepting = async {
        loop {
            let (stream, peer) = listeners.accept().await;
            let opening = ListenerTls::accept(listeners.tls().cloned(), connections.take_in(stream, peer));
            let serving = Arc::clone(&egress);
            egress.tasks.spawn(async move {
                match opening.await.and_then(Accepted::permitted) {
                    Ok(stream) => connection::serve(serving, stream).await,
                    Err(e) => tracing::debug!("a connection of {peer} to egress was not opened: {e}"),
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    drop(listeners);
    egress.shutdown.cancel();
    egress.tasks.close();
    if tokio::time::timeout(DRAIN, egress.tasks.wait()).await.is_err() {
        tracing::warn!("calls were still running {} s after the shutdown began", DRAIN.as_secs());
    }
    // The queues end when the last call has let go of them.
    drop(egress);
    let kept = match tokio::time::timeout(LAST_RECORDS, &mut keeping).await {
        Ok(kept) => kept,
        Err(_) => {
            out_of_time.cancel();
            keeping.await
        }
    };
    kept.map(drop).map_err(|e| Error::internal("keeping records", e))
}

/// The whole service as its own binary runs it.
pub async fn serve(config: &Config, deps: Deps, ports: Ports, shutdown: CancellationToken) -> Result<()> {
    let service = open(config, &deps).await?;
    let server = grpc(service.handle(), &deps)?;
    let ended = shutdown.child_token();
    let ready = Handle::new(&service.egress, service.authority(), service.store.clone());
    let check = Arc::new(ready);
    probes::serve_beside(run(service, server, ports, ended.clone()), config.probe_listen, check, &ended).await
}
