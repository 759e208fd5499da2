//! Agents as containers of a Docker daemon.
//!
//! Each run of an agent is two containers. The first one only holds a network without any interface but its loopback
//! ([`containers::network`]), and hands out its sockets over a Unix socket: so the agent service reaches the agent, and
//! the agent reaches egress and nothing else. The second one is the agent's, in that network.
//!
//! No container outlives the runtime: what an earlier one left is removed at the start, and what could not be removed
//! while the daemon was away, once it is back.

mod container_launcher;
mod containers;
mod daemon;
mod images;
mod installation;
mod isolation_report;
mod labels;
mod network_socket;
mod output;
mod run;
mod runs;

use super::instances::{CallerAddress, Instances};
use super::supervisor::Starts;
use super::{EgressRoute, Instance, Isolation, LogBook, LogLimits, Program, Runtime, StartSettings, Started};
use crate::images::Failure;
use crate::launcher::Limits;
use crate::runtime::logs::Sink;
use crate::sandbox::PROXY;
use async_trait::async_trait;
use container_launcher::ContainerLauncher;
use daemon::{Daemon, brief};
use hoistway_kit::{
    image_registry::ImageRegistry,
    registry_logins::RegistryLogins,
    tls::{ServiceAddress, ServiceTls},
};
use hoistway_model::{
    Code, Digest, Error, Name, Result, RevisionId, Secret,
    image::{ImageRef, StoredImage},
    log::{LogPieces, LogQuery},
    metric::Family,
};
use images::Images;
use labels::Labels;
use runs::Runs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The settings of the Docker runtime.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The Unix socket of the daemon.
    pub socket: String,
    /// The directory for the sockets to agents' networks; the daemon sees it under the same path.
    pub dir: PathBuf,
    /// The service's own directory: agents' logs, and which installation this is.
    pub data_dir: PathBuf,
    /// `host:port` of the platform's own registry as the daemon reaches it.
    pub registry: String,
    /// The password for that registry.
    pub registry_password: Secret,
    /// The registry that built images are pushed to besides, and pulled from.
    pub image_registry: Option<ImageRegistry>,
    /// Its login.
    pub image_registry_logins: RegistryLogins,
    /// The logins of the registries whose images deploys name.
    pub logins: RegistryLogins,
    /// The address on which callers reach agents.
    pub bind: IpAddr,
    /// The host that callers use instead of `bind`, if that is another one.
    pub advertise: Option<String>,
    /// Where egress listens.
    pub egress: ServiceAddress,
    /// The TLS towards agents' callers.
    pub tls: ServiceTls,
    /// A file of authorities that agents trust, once it is there.
    pub ca_bundle: Option<PathBuf>,
    /// When agents are started, and started again.
    pub starts: StartSettings,
    /// Resource limits of each agent.
    pub limits: Limits,
    /// The amount that is kept of each agent's log.
    pub logs: LogLimits,
}

/// Runs agents in containers.
pub struct DockerRuntime {
    config: Arc<DockerConfig>,
    daemon: Arc<Daemon>,
    runs: Arc<Runs>,
    images: Arc<Images>,
    logs: Arc<LogBook>,
    instances: Instances,
    isolation: Isolation,
    _sweeping: DropGuard,
}

impl DockerRuntime {
    /// Connects to the daemon, and removes the containers that an earlier runtime of this installation left.
    pub async fn new(mut config: DockerConfig) -> Result<Self> {
        config.limits = config.limits.normalised();
        let (dir, data_dir) = (config.dir.clone(), config.data_dir.clone());
        let opened = tokio::task::spawn_blocking(move || installation::open(&data_dir, &dir)).await;
        let opened = opened.map_err(std::io::Error::other).and_then(|opened| opened);
        let (installation, dir) =
            opened.map_err(|error| Error::internal("opening the directory of Docker's sockets", error))?;
        config.dir = dir;
        let daemon = Arc::new(Daemon::connect(&config.socket, Labels::new(installation)).await?);
        let called = |e: bollard::errors::Error| {
            let text = format!("Docker cannot be used: {}", brief(&e));
            Error::new(Code::Unavailable, text).with_source(e)
        };
        let isolation = isolation_report::isolation(&daemon.info().await.map_err(called)?, &config.limits);
        tracing::info!(network = %isolation.network, limits = %isolation.limits, "agents: {isolation}");
        isolation.notes.iter().for_each(|note| tracing::warn!("{note}"));
        let runs = Runs::new(daemon.clone());
        let leftover = runs.sweep().await.map_err(called)?;
        if leftover > 0 {
            tracing::warn!(containers = leftover, "removed containers that an earlier run had left behind");
        }
        let ended = CancellationToken::new();
        tokio::spawn(ended.clone().run_until_cancelled_owned(keep_swept(daemon.clone(), runs.clone())));
        let logs = Arc::new(LogBook::new(config.data_dir.join("logs"), config.logs));
        let callers = CallerAddress::new(config.bind, config.advertise.clone(), &config.tls, true)?;
        Ok(Self {
            instances: Instances::new(callers, Starts::new(config.starts), config.limits.memory, logs.clone()),
            images: Arc::new(Images::new(daemon.clone(), &config)),
            config: Arc::new(config),
            daemon,
            runs,
            logs,
            isolation,
            _sweeping: ended.drop_guard(),
        })
    }

    fn launcher(&self, instance: &Instance, sink: Sink, port: u16) -> ContainerLauncher {
        ContainerLauncher {
            config: self.config.clone(),
            daemon: self.daemon.clone(),
            images: self.images.clone(),
            runs: self.runs.clone(),
            instance: instance.clone(),
            sink,
            port,
        }
    }
}

/// Removes what is left over whenever the daemon has been away.
async fn keep_swept(daemon: Arc<Daemon>, runs: Arc<Runs>) {
    loop {
        daemon.reconnected().await;
        tracing::info!("Docker answers again");
        if let Err(e) = runs.sweep().await {
            tracing::warn!("containers are left over: {}", brief(&e));
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn isolation(&self) -> Isolation {
        self.isolation.clone()
    }

    async fn ping(&self) -> Result<()> {
        let failed = |e| Error::new(Code::Unavailable, "Docker does not answer").with_source(e);
        self.daemon.ping().await.map_err(failed)
    }

    fn egress_route(&self) -> Option<EgressRoute> {
        Some(EgressRoute { url: format!("http://{PROXY}"), has_identity: true })
    }

    fn runs_images(&self) -> bool {
        true
    }

    async fn pull(&self, image: &ImageRef, digest: &Digest) -> Result<Program, Failure> {
        let reference = self.images.pull(image, digest).await.map_err(|e| {
            Failure::Unreachable(format!("Docker cannot pull {}: {}", image.display_tagged(), e.brief()))
        })?;
        Ok(Program::Image { reference })
    }

    async fn sweep_images(&self, kept: Vec<StoredImage>) {
        if let Err(e) = self.images.sweep(&kept).await {
            tracing::warn!("images that no agent uses are not removed: {}", brief(&e));
        }
    }

    async fn apply(&self, instance: Instance) -> Result<Started> {
        self.instances.apply(instance, |instance, sink, port| self.launcher(instance, sink, port)).await
    }

    async fn status(&self, revision: &RevisionId) -> Result<Option<Started>> {
        Ok(self.instances.started(revision))
    }

    async fn logs(&self, agent: &Name, query: LogQuery) -> Result<LogPieces> {
        self.logs.read(agent, query).await
    }

    fn metrics(&self) -> Vec<Family> {
        self.logs.metrics()
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
        self.logs.remove(agent).await
    }

    async fn shutdown(&self, grace: Duration) {
        self.instances.remove_all(grace).await;
    }
}
