//! Agents as processes of this machine.
//!
//! Each instance has one task, its [`Supervisor`](super::supervisor::Supervisor), which owns everything: the listener that the agent answers on (so a
//! crash does not lose the port, and connections wait while the agent starts again), its private directories, and one
//! launcher process for each start.

mod grouped;
mod launch;
mod launch_spec;
mod launcher_process;
mod leftovers;
mod prepared;
mod process_launcher;
mod rundir;
mod warm_parents;

use super::instances::{CallerAddress, Instances};
use super::network::egress_forwarder;
use super::supervisor::Starts;
use super::{EgressRoute, Instance, Isolation, LogBook, LogLimits, Program, Runtime, StartSettings, Started};
use crate::launcher::Limits;
use crate::runtime::logs::Sink;
use crate::sandbox::{PROXY, Sandbox, Settings};
use async_trait::async_trait;
use hoistway_kit::{
    ports,
    tls::{ServiceAddress, ServiceTls},
};
use hoistway_model::{
    Code, Error, Name, Result, RevisionId,
    log::{LogPieces, LogQuery},
    metric::Family,
};
use leftovers::Leftovers;
use process_launcher::ProcessLauncher;
use rundir::RunDir;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use warm_parents::WarmParents;

/// The settings of the process runtime.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Where it keeps its things: `run/` (private directories of instances), `gone/` (what is being removed) and
    /// `logs/`. Only one runtime may use it at a time: the caller holds the data directory's lock.
    pub dir: PathBuf,
    /// The program that calls [`crate::launcher::run_if_requested`]; this very program by default, or the small one
    /// beside it.
    pub launcher: PathBuf,
    /// Where agents listen.
    pub bind: IpAddr,
    /// Where egress listens, for the connections of agents in networks of their own.
    pub egress: ServiceAddress,
    /// The TLS towards agents' callers.
    pub tls: ServiceTls,
    /// The host that callers use instead of `bind`, if that is another one.
    pub advertise: Option<String>,
    /// When agents are started, and started again.
    pub starts: StartSettings,
    /// Resource limits of each agent.
    pub limits: Limits,
    /// The interpreter that agents are expected to have; sandboxes are made for it.
    pub python: PathBuf,
    /// Isolation of agents from the rest of the machine.
    pub sandbox: Settings,
    /// The amount that is kept of each agent's log.
    pub logs: LogLimits,
    /// Whether agents are forked from processes that have imported their packages.
    pub warm_parents: bool,
}

impl ProcessConfig {
    /// The defaults, with everything kept in `dir`, for agents of the interpreter `python`.
    pub fn new(dir: PathBuf, python: PathBuf) -> Self {
        Self {
            dir,
            launcher: hoistway_confine::launcher::OWN.into(),
            bind: Ipv4Addr::LOCALHOST.into(),
            egress: ServiceAddress::local("127.0.0.1:8098"),
            tls: ServiceTls::default(),
            advertise: None,
            starts: StartSettings::default(),
            limits: Limits::default(),
            python,
            sandbox: Settings::default(),
            logs: LogLimits::default(),
            warm_parents: false,
        }
    }
}

/// Runs agents as processes. Dropping it ends them all at once, as does the end of the program, however it ends.
pub struct ProcessRuntime {
    config: Arc<ProcessConfig>,
    sandbox: Arc<Sandbox>,
    leftovers: Leftovers,
    logs: Arc<LogBook>,
    instances: Instances,
    warm_parents: Arc<WarmParents>,
    /// Where agents that resolve no names reach egress; served until this is dropped.
    egress_by_address: Option<(SocketAddr, DropGuard)>,
}

impl ProcessRuntime {
    /// Opens the runtime's directory. Processes that an earlier runtime left there are ended first: exactly those,
    /// known by pid, start time and boot.
    pub async fn new(mut config: ProcessConfig) -> Result<Self> {
        let (dir, launcher) = (config.dir.clone(), config.launcher.clone());
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            // Agents have other working directories, and leftovers are known by their paths.
            let dir = dir.canonicalize()?;
            let leftovers = Leftovers::open(&dir)?;
            let launcher = hoistway_confine::launcher::chosen(launcher, &[crate::launcher::SOURCE]);
            Ok((rundir::clean(&dir, &leftovers)?, dir, leftovers, launcher))
        });
        let opened = opened.await.map_err(std::io::Error::other).and_then(|opened| opened);
        let (mut strays, leftovers);
        (strays, config.dir, leftovers, config.launcher) =
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
        let has_names = sandbox.isolation().has_open_network() && !config.egress.has_tls();
        let is_direct = sandbox.has_own_network() || has_names;
        let egress_by_address = if is_direct { None } else { serve_egress_by_address(&config.egress)? };
        let logs = Arc::new(LogBook::new(config.dir.join("logs"), config.logs));
        let callers =
            CallerAddress::new(config.bind, config.advertise.clone(), &config.tls, sandbox.has_own_network())?;
        let starts = Starts::new(config.starts);
        let config = Arc::new(config);
        let warm_parents = Arc::new(WarmParents::new(config.clone(), sandbox.clone(), leftovers.clone()));
        Ok(Self {
            warm_parents,
            egress_by_address,
            sandbox,
            leftovers,
            instances: Instances::new(callers, starts, config.limits.memory, logs.clone()),
            logs,
            config,
        })
    }

    fn launcher(&self, instance: &Instance, sink: Sink, port: u16) -> ProcessLauncher {
        ProcessLauncher {
            config: self.config.clone(),
            sandbox: self.sandbox.clone(),
            leftovers: self.leftovers.clone(),
            dir: RunDir::of(&self.config.dir, &instance.revision),
            instance: instance.clone(),
            sink,
            port,
            user: None,
            copies_app: true,
            warm_parents: self.warm_parents.clone(),
            may_fork: true,
        }
    }
}

/// Lets agents reach an egress that has TLS, and those without UDP, and so without a resolver, one that has a name: at
/// the same port of this machine's loopback. Inside the runtime only.
fn serve_egress_by_address(egress: &ServiceAddress) -> Result<Option<(SocketAddr, DropGuard)>> {
    let Some(port) = egress.port() else { return Ok(None) };
    let has_address = egress.host() == "localhost" || egress.host().parse::<IpAddr>().is_ok();
    if has_address && !egress.has_tls() {
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
    tokio::spawn(egress_forwarder::serve(listeners, egress.clone(), None, ended.clone()));
    Ok(Some((address, ended.drop_guard())))
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

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
        if !matches!(instance.program, Program::Unpacked { .. }) {
            return Err(Error::internal("starting an agent", "its image is not unpacked"));
        }
        self.instances.apply(instance, |instance, sink, port| self.launcher(instance, sink, port)).await
    }

    async fn status(&self, revision: &RevisionId) -> Result<Option<Started>> {
        Ok(self.instances.started(revision))
    }

    async fn logs(&self, agent: &Name, query: LogQuery) -> Result<LogPieces> {
        self.logs.read(agent, query).await
    }

    fn metrics(&self) -> Vec<Family> {
        self.logs.metrics().into_iter().chain(self.warm_parents.metrics()).collect()
    }

    async fn remark(&self, revision: &RevisionId, text: &str) -> Result<()> {
        self.instances.remark(revision, text).await;
        Ok(())
    }

    async fn remove(&self, revision: &RevisionId, grace: Duration) -> Result<()> {
        self.instances.remove(revision, grace).await;
        Ok(())
    }

    async fn forget(&self, agent: &Name) -> Result<()> {
        self.logs.remove(agent).await?;
        self.warm_parents.forget(agent).await;
        let (sandbox, agent) = (Arc::clone(&self.sandbox), agent.clone());
        let forgotten = tokio::task::spawn_blocking(move || sandbox.forget(&agent)).await;
        forgotten.map_err(|e| Error::internal("forgetting the agent's user", e))?
    }

    async fn shutdown(&self, grace: Duration) {
        self.instances.remove_all(grace).await;
        self.warm_parents.shutdown();
    }
}
