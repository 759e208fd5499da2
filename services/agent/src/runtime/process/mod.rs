//! Agents as processes of this machine.
//!
//! Each instance has one task, its [`supervisor`], which owns everything: the listener that the agent answers on (so a
//! crash does not lose the port, and connections wait while the agent starts again), its private directories, and one
//! launcher process for each start.

mod agent_network;
mod egress_forwarder;
mod invoke_forwarder;
mod launch;
mod leftovers;
mod relay;
mod rundir;
mod stack_trace;
mod supervisor;
mod working_dir;

use super::{EgressRoute, Instance, Isolation, LogBook, LogLimits, Masker, Program, Runtime, Started, State};
use crate::launcher::Limits;
use crate::runtime::logs::Sink;
use crate::sandbox::{PROXY, Sandbox, Settings};
use async_trait::async_trait;
use futures_util::future::join_all;
use hoistway_kit::ports;
use hoistway_model::{
    Code, Error, Name, Result, RevisionId, Secret,
    log::{LogPieces, LogQuery},
    metric::Family,
};
use leftovers::Leftovers;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The settings of the process runtime.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Where it keeps its things: `run/` (private directories of instances), `gone/` (what is being removed) and
    /// `logs/`. Only one runtime may use it at a time: the caller holds the data directory's lock.
    pub dir: PathBuf,
    /// The program that calls [`crate::launcher::run_if_requested`]; this very program by default.
    pub launcher: PathBuf,
    /// Where agents listen.
    pub bind: IpAddr,
    /// `host:port` where egress listens, for the connections of agents in networks of their own.
    pub egress: String,
    /// The host that callers use instead of `bind`, if that is another one.
    pub advertise: Option<String>,
    /// The number of agents that may be starting at the same time; those that have been ready before are counted by
    /// themselves.
    pub concurrent_starts: usize,
    /// The time that one start keeps the next from beginning; it goes on after that, but no longer alone.
    pub start_turn: Duration,
    /// The same for a first start, which somebody waits for.
    pub first_start_turn: Duration,
    /// The time that a start may take from the process to being ready; none: for ever.
    pub start_limit: Option<Duration>,
    /// When a crashed agent is started again.
    pub restart_delays: RestartDelays,
    /// Resource limits of each agent.
    pub limits: Limits,
    /// The interpreter that agents are expected to have; sandboxes are made for it.
    pub python: PathBuf,
    /// Isolation of agents from the rest of the machine.
    pub sandbox: Settings,
    /// The amount that is kept of each agent's log.
    pub logs: LogLimits,
}

impl ProcessConfig {
    /// The defaults, with everything kept in `dir`, for agents of the interpreter `python`.
    pub fn new(dir: PathBuf, python: PathBuf) -> Self {
        Self {
            dir,
            // Not the path of the executable: that may hold another program after an upgrade.
            launcher: "/proc/self/exe".into(),
            bind: Ipv4Addr::LOCALHOST.into(),
            egress: format!("{}:8098", Ipv4Addr::LOCALHOST),
            advertise: None,
            concurrent_starts: 4,
            start_turn: Duration::from_secs(20),
            first_start_turn: Duration::from_secs(2),
            start_limit: Some(Duration::from_secs(60)),
            restart_delays: RestartDelays::default(),
            limits: Limits::default(),
            python,
            sandbox: Settings::default(),
            logs: LogLimits::default(),
        }
    }
}

/// The time between a crash and the next start: `first`, doubled for each crash up to `longest`.
#[derive(Debug, Clone, Copy)]
pub struct RestartDelays {
    /// After the first crash.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// An agent that was ready for so long before it crashed begins with `first` again.
    pub forgiven_after: Duration,
}

impl Default for RestartDelays {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            forgiven_after: Duration::from_secs(60),
        }
    }
}

/// Runs agents as processes. Dropping it ends them all at once, as does the end of the program, however it ends.
pub struct ProcessRuntime {
    config: Arc<ProcessConfig>,
    sandbox: Arc<Sandbox>,
    leftovers: Leftovers,
    logs: Arc<LogBook>,
    turns: Arc<Semaphore>,
    first_turns: Arc<Semaphore>,
    instances: Mutex<HashMap<RevisionId, Entry>>,
    /// Where agents that resolve no names reach egress; served until this is dropped.
    egress_by_address: Option<(SocketAddr, DropGuard)>,
}

/// An instance as the runtime sees it; the supervisor has the other ends.
#[derive(Clone)]
struct Entry {
    started: Started,
    sink: Sink,
    stop: Arc<watch::Sender<Option<Duration>>>,
}

impl ProcessRuntime {
    /// Opens the runtime's directory. Processes that an earlier runtime left there are ended first: exactly those,
    /// known by pid, start time and boot.
    pub async fn new(mut config: ProcessConfig) -> Result<Self> {
        let dir = config.dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            // Agents have other working directories, and leftovers are known by their paths.
            let dir = dir.canonicalize()?;
            let leftovers = Leftovers::open(&dir)?;
            Ok((rundir::clean(&dir, &leftovers)?, dir, leftovers))
        });
        let opened = opened.await.map_err(std::io::Error::other).and_then(|opened| opened);
        let (mut strays, leftovers);
        (strays, config.dir, leftovers) =
            opened.map_err(|error| Error::internal("opening the agents' directory", error))?;
        let (settings, limits) = (config.sandbox.clone(), config.limits);
        let sandbox = Sandbox::find(&config.dir, &config.launcher, &config.python, settings, limits).await?;
        let isolation = sandbox.isolation();
        tracing::info!(network = %isolation.network, limits = %isolation.limits, "agents: {isolation}");
        isolation.notes.iter().for_each(|note| tracing::warn!("{note}"));
        if !isolation.is_sandboxed() {
            tracing::warn!("agents are not sandboxed: they can do what their user can do");
        }
        let sandbox = Arc::new(sandbox);
        let sweeping = Arc::clone(&sandbox);
        strays += tokio::task::spawn_blocking(move || sweeping.sweep()).await.unwrap_or(0);
        if strays > 0 {
            tracing::warn!(strays, "ended agents that an earlier run had left behind");
        }
        let has_names = sandbox.has_own_network() || sandbox.isolation().has_open_network();
        let egress_by_address = if has_names { None } else { serve_egress_by_address(&config.egress)? };
        Ok(Self {
            egress_by_address,
            sandbox,
            leftovers,
            logs: Arc::new(LogBook::new(config.dir.join("logs"), config.logs)),
            turns: Arc::new(Semaphore::new(config.concurrent_starts.max(1))),
            first_turns: Arc::new(Semaphore::new(config.concurrent_starts.max(1))),
            config: Arc::new(config),
            instances: Mutex::default(),
        })
    }

    fn entry(&self, revision: &RevisionId) -> Option<Entry> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).get(revision).cloned()
    }

    /// The entry of this revision if it is not being removed, else a new one with its supervisor.
    fn entry_or_start(&self, instance: &Instance, masker: &Arc<Masker>) -> Result<Entry> {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = instances.get(&instance.revision)
            && *entry.started.states.borrow() != State::Gone
        {
            return Ok(entry.clone());
        }
        let bound = TcpListener::bind((self.config.bind, 0)).and_then(|l| Ok((l.local_addr()?.port(), l)));
        let (port, listener) = bound.map_err(|error| Error::internal("opening the agent's port", error))?;
        let (state, states) = watch::channel(State::Starting);
        let (stop, stopped) = watch::channel(None);
        let sink = self.logs.sink(&instance.agent, instance.revision, masker.clone());
        let supervisor = supervisor::Supervisor {
            config: self.config.clone(),
            sandbox: self.sandbox.clone(),
            leftovers: self.leftovers.clone(),
            turns: self.turns.clone(),
            first_turns: self.first_turns.clone(),
            sink: sink.clone(),
            masker: masker.clone(),
            instance: instance.clone(),
            port,
            listener: Some(listener.into()),
            forwarder: None,
            state,
            stop: stopped,
        };
        let host = self.config.advertise.clone().unwrap_or_else(|| match self.config.bind {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let started = Started { address: format!("{host}:{port}"), states };
        let entry = Entry { started, sink, stop: Arc::new(stop) };
        instances.insert(instance.revision, entry.clone());
        tokio::spawn(supervisor.run());
        Ok(entry)
    }
}

/// Lets agents without UDP, and so without a resolver, reach an egress that has a name: at the same port of this
/// machine's loopback. Inside the runtime only.
fn serve_egress_by_address(egress: &str) -> Result<Option<(SocketAddr, DropGuard)>> {
    let Some((host, port)) = egress.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) else {
        return Ok(None);
    };
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listeners = ports::listen(address).map_err(|e| {
        let text = format!(
            "agents in a closed network resolve no names and reach egress ({egress}) at {address}, which is taken: \
             give the setting egress_url the address of egress instead of its name"
        );
        Error::new(Code::InvalidArgument, text).with_source(e)
    })?;
    let ended = CancellationToken::new();
    tokio::spawn(egress_forwarder::serve(listeners, egress.to_owned(), None, ended.clone()));
    Ok(Some((address, ended.drop_guard())))
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn isolation(&self) -> Isolation {
        self.sandbox.isolation().clone()
    }

    fn egress_route(&self) -> Option<EgressRoute> {
        let own_network = || {
            let url = self.sandbox.has_own_network().then(|| format!("http://{PROXY}"))?;
            Some(EgressRoute { url, has_identity: true })
        };
        let by_address = || {
            let (address, _) = self.egress_by_address.as_ref()?;
            Some(EgressRoute { url: format!("http://{address}"), has_identity: false })
        };
        own_network().or_else(by_address)
    }

    async fn apply(&self, instance: Instance) -> Result<Started> {
        let Program::Unpacked { .. } = instance.program;
        // Before the instances are locked, since large secrets take a while.
        let secrets: Vec<Secret> = instance.mask.iter().chain([&instance.invoke_token]).cloned().collect();
        let masker = tokio::task::spawn_blocking(move || Arc::new(Masker::new(&secrets))).await;
        let masker = masker.map_err(|e| Error::internal("reading what to hide", e))?;
        loop {
            let entry = self.entry_or_start(&instance, &masker)?;
            if entry.stop.borrow().is_none() {
                return Ok(entry.started);
            }
            gone(&entry).await;
        }
    }

    async fn status(&self, revision: &RevisionId) -> Result<Option<Started>> {
        Ok(self.entry(revision).map(|entry| entry.started))
    }

    async fn logs(&self, agent: &Name, query: LogQuery) -> Result<LogPieces> {
        self.logs.read(agent, query).await
    }

    fn metrics(&self) -> Vec<Family> {
        self.logs.metrics()
    }

    async fn remark(&self, revision: &RevisionId, text: &str) -> Result<()> {
        if let Some(entry) = self.entry(revision) {
            entry.sink.remark(text).await;
        }
        Ok(())
    }

    async fn remove(&self, revision: &RevisionId, grace: Duration) -> Result<()> {
        let Some(entry) = self.entry(revision) else {
            return Ok(());
        };
        entry.stop.send_modify(|stop| *stop = Some(stop.map_or(grace, |before| before.min(grace))));
        gone(&entry).await;
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have applied it anew in between.
        if instances.get(revision).is_some_and(|now| Arc::ptr_eq(&now.stop, &entry.stop)) {
            instances.remove(revision);
        }
        Ok(())
    }

    async fn forget(&self, agent: &Name) -> Result<()> {
        self.logs.remove(agent).await?;
        let (sandbox, agent) = (Arc::clone(&self.sandbox), agent.clone());
        let forgotten = tokio::task::spawn_blocking(move || sandbox.forget(&agent)).await;
        forgotten.map_err(|e| Error::internal("forgetting the agent's user", e))?
    }

    async fn shutdown(&self, grace: Duration) {
        let all: Vec<RevisionId> =
            self.instances.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        join_all(all.iter().map(|revision| self.remove(revision, grace))).await;
    }
}

async fn gone(entry: &Entry) {
    // An error means that the supervisor is gone without a word, and its processes with it.
    let _ = entry.started.states.clone().wait_for(|state| *state == State::Gone).await;
}
