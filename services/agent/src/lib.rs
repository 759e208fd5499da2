//! The agent service: agents, their revisions, the routes to them, and the runtimes that run them.
//!
//! [`serve`] is the whole service. A process that hosts several services calls [`open`], [`grpc`] and [`run`] itself
//! and takes a local transport of the same server. Either way `main` first
//! calls [`launcher::run_if_requested`]: agents are children of this very program.

mod ca_bundle;
pub mod config;
pub mod environment;
mod grpc;
pub mod images;
pub mod interpreter;
pub mod launcher;
mod migrations;
pub mod routing_table;
pub mod runtime;
pub mod sandbox;
mod service;
mod store;

pub use config::Config;
pub use grpc::{GrpcAgentIdentities, GrpcAgentService};
pub use migrations::ALL as MIGRATIONS;
pub use service::Service;

use ca_bundle::CaBundle;
use config::RuntimeKind;
use environment::{AgentEnvironment, EgressAccess};
use hoistway_kit::{
    egress_auth::EgressKey,
    fs::DirLock,
    grpc::Server,
    idempotency,
    image_registry::ImageRegistry,
    ports::{Listeners, listen_as_configured},
    probes,
    registry_logins::RegistryLogins,
    secrets::MasterKey,
    shutdown::part,
    tls::ServiceTls,
    token::ServiceToken,
};
use hoistway_model::{AgentIdentities, AgentService, Error, Result};
use images::{Bounds, Images, LayerStore, Registries};
use interpreter::Interpreter;
use runtime::{DockerConfig, DockerRuntime, EgressRoute, ProcessConfig, ProcessRuntime, Runtime, StartSettings};
use service::Parts;
use std::{fmt, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The keys and tokens that the service shares with the rest of the installation.
#[derive(Clone)]
pub struct Deps {
    /// The token that callers must show, and that the service shows the platform's registry.
    pub token: ServiceToken,
    /// The key of stored specifications.
    pub master_key: MasterKey,
    /// The key of the tokens by which egress knows agents.
    pub egress_key: EgressKey,
    /// The runtime of agents; absent: processes of this machine.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// The certificate of the listeners, if they have TLS, and of connections to other services.
    pub tls: ServiceTls,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

impl Deps {
    /// Reads the keys from the configured files, which are made at the first start, and the certificate.
    pub async fn load(config: &Config) -> Result<Self> {
        let (token, key, egress) = (config.service_token_file(), config.master_key_file(), config.egress_key_file());
        let tls = config.tls.clone();
        let load = move || {
            let (token, master_key) = (ServiceToken::load_or_create(&token)?, MasterKey::load_or_create(&key)?);
            let egress_key = EgressKey::load_or_create(&egress)?;
            Ok(Self { token, master_key, egress_key, runtime: None, tls: tls.load()? })
        };
        tokio::task::spawn_blocking(load).await.map_err(|e| Error::internal("reading the keys", e))?
    }
}

/// The port of the service.
#[derive(Debug)]
pub struct Ports {
    /// For gRPC.
    pub grpc: Listeners,
}

impl Ports {
    /// Listens on the configured address, with the TLS of [`Deps`], and writes the port that was taken for port 0 into
    /// `config`.
    pub fn listen(config: &mut Config, tls: &ServiceTls) -> Result<Self> {
        Ok(Self { grpc: tls.secure_grpc("grpc_listen", listen_as_configured(&mut config.grpc_listen)?)? })
    }
}

/// Opens the service: its directory, its database, its runtime; agents of earlier times come back in the background.
/// It listens nowhere; agents get egress' URL from `config`, so the port in there must be the real one.
/// Whoever opens it ends it with [`Service::shutdown`].
pub async fn open(config: &Config, deps: &Deps) -> Result<Arc<Service>> {
    let dir = config.service_dir();
    let interpreter = Interpreter::find(config.python.as_deref()).await?;
    let (locked, layers) = (dir.clone(), dir.join("layers"));
    let opening = tokio::task::spawn_blocking(move || {
        let lock = DirLock::acquire(&locked)?;
        let layers = LayerStore::open(&layers, Bounds::default())?;
        Ok::<_, Error>((lock, layers))
    });
    let (lock, layers) = opening.await.map_err(|e| Error::internal("opening the agents' directory", e))??;
    let runtime = match &deps.runtime {
        Some(runtime) => Arc::clone(runtime),
        None => configured_runtime(config, &interpreter, &deps.token, &deps.tls).await?,
    };
    // Users name these images, so the operator's logins are shown only if the operator says so.
    let logins = RegistryLogins::named(config.docker_config.clone());
    let insecure = config.insecure_registries.clone();
    let platform = deps.tls.address("registry_address", &config.registry_address)?;
    let registries = Registries::new(platform, deps.token.secret(), logins, insecure)?;
    let EgressRoute { url, has_identity } =
        runtime.egress_route().unwrap_or_else(|| EgressRoute { url: config.egress_url(), has_identity: false });
    let key = (!has_identity).then(|| deps.egress_key.clone());
    let egress = EgressAccess { url, key, open_network: runtime.isolation().has_open_network() };
    let ca_bundle = CaBundle::new(config.egress_ca_file(), config.ca_bundle_file());
    ca_bundle.ensure().await;
    Service::open(Parts {
        store: store::Store::open(&config.location().await?, deps.master_key.clone(), keep(config)).await?,
        directory: dir,
        images: Images::new(registries, layers, interpreter.clone()),
        interpreter,
        environment: AgentEnvironment::new(egress),
        egress_key: deps.egress_key.clone(),
        ca_bundle,
        runtime,
        lock,
        tidy_every: Duration::from_secs(config.tidy_seconds.max(1)),
        drain: Duration::from_secs(config.drain_seconds),
        idle_after: (config.idle_seconds > 0).then(|| Duration::from_secs(config.idle_seconds)),
    })
    .await
}

/// Seals anew, after a rotation of the master key, what old keys have sealed; for a service that does not run. Opening
/// the service does it as well.
pub async fn reseal(config: &Config, key: &MasterKey) -> Result<()> {
    let dir = config.service_dir();
    let lock = tokio::task::spawn_blocking(move || DirLock::acquire(&dir)).await;
    let _lock = lock.map_err(|e| Error::internal("locking the agents' directory", e))??;
    store::Store::open(&config.location().await?, key.clone(), keep(config)).await?.close().await;
    Ok(())
}

fn keep(config: &Config) -> store::StoreLimits {
    let operations = idempotency::kept(config.operations_seconds, config.operations);
    store::StoreLimits { revisions: config.revisions, agents: config.max_agents, operations }
}

async fn configured_runtime(
    config: &Config,
    interpreter: &Interpreter,
    token: &ServiceToken,
    tls: &ServiceTls,
) -> Result<Arc<dyn Runtime>> {
    Ok(match config.runtime {
        RuntimeKind::Process => Arc::new(ProcessRuntime::new(process_config(config, interpreter, tls)?).await?),
        RuntimeKind::Docker => Arc::new(DockerRuntime::new(docker_config(config, token, tls)?).await?),
    })
}

fn start_settings(config: &Config) -> StartSettings {
    StartSettings {
        concurrent: config.concurrent_starts,
        limit: (config.start_seconds > 0).then(|| Duration::from_secs(config.start_seconds)),
        ..StartSettings::default()
    }
}

fn process_config(config: &Config, interpreter: &Interpreter, tls: &ServiceTls) -> Result<ProcessConfig> {
    Ok(ProcessConfig {
        bind: config.agents_bind,
        egress: tls.address("egress_url", &config.egress_address())?,
        tls: tls.clone(),
        advertise: config.agents_host.clone(),
        starts: start_settings(config),
        limits: config.limits,
        logs: config.logs,
        warm_parents: config.warm_parents,
        sandbox: sandbox::Settings {
            mode: config.sandbox,
            network: config.network,
            egress_port: config.egress_port(),
            ca_bundle: std::path::absolute(config.ca_bundle_file()).ok(),
            readable: config.readable.clone(),
            writable: config.writable.clone(),
            pretend: config.pretend,
        },
        ..ProcessConfig::new(config.service_dir(), interpreter.path.clone())
    })
}

/// Refuses the settings of sandboxes: containers are another one, and what they enforce is not chosen.
fn docker_config(config: &Config, token: &ServiceToken, tls: &ServiceTls) -> Result<DockerConfig> {
    let refuse = |field: &str, why: &str| Err(Error::field(field, format!("{why} with runtime = \"docker\"")));
    if config.sandbox != sandbox::Mode::Auto {
        return refuse("sandbox", "cannot be chosen");
    }
    if config.network == sandbox::Network::Open {
        return refuse("network", "cannot be open");
    }
    if !config.readable.is_empty() || !config.writable.is_empty() {
        return refuse("readable", "and writable cannot be used");
    }
    Ok(DockerConfig {
        socket: config.docker.socket.clone(),
        dir: config.docker.dir.clone().unwrap_or_else(|| config.service_dir().join("sockets")),
        data_dir: config.service_dir(),
        registry: match &config.docker.registry {
            Some(registry) => registry.clone(),
            None => tls.address("registry_address", &config.registry_address)?.to_string(),
        },
        registry_password: token.secret().clone(),
        image_registry: ImageRegistry::of_setting(config.image_registry.as_deref())?,
        image_registry_logins: RegistryLogins::new(config.docker_config.clone()),
        logins: RegistryLogins::named(config.docker_config.clone()),
        bind: config.agents_bind,
        advertise: config.agents_host.clone(),
        egress: tls.address("egress_url", &config.egress_address())?,
        tls: tls.clone(),
        ca_bundle: Some(config.ca_bundle_file()),
        starts: start_settings(config),
        limits: config.limits,
        logs: config.logs,
    })
}

/// The gRPC server of any agent service, with health and reflection.
pub fn grpc(agents: Arc<dyn AgentService>, identities: Arc<dyn AgentIdentities>, deps: &Deps) -> Result<Server> {
    Server::new(deps.token.clone())
        .add(grpc::server(agents))
        .add(grpc::identity_server(identities))
        .reflection(hoistway_proto::DESCRIPTORS)
}

/// Serves an opened service until `shutdown`, then drains and stops the agents.
pub async fn run(service: Arc<Service>, server: Server, ports: Ports, shutdown: CancellationToken) -> Result<()> {
    let ended = shutdown.child_token();
    let closing = async {
        ended.cancelled().await;
        // Watches never end by themselves, and calls are drained only when all of them have ended.
        service.close_routes();
    };
    let (served, ()) = tokio::join!(part(&ended, server.serve(ports.grpc, ended.clone())), closing);
    service.shutdown().await;
    served
}

/// The whole service as its own binary runs it.
pub async fn serve(config: &Config, deps: Deps, ports: Ports, shutdown: CancellationToken) -> Result<()> {
    let service = open(config, &deps).await?;
    let server = grpc(service.handle(), service.identities(), &deps)?;
    let ended = shutdown.child_token();
    let check = service.clone();
    probes::serve_beside(run(service, server, ports, ended.clone()), config.probe_listen, check, &ended).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_that_containers_do_not_have_are_refused() {
        let (token, none) = (ServiceToken::generate().unwrap(), ServiceTls::default());
        assert!(docker_config(&Config::default(), &token, &none).is_ok());
        let closed = Config { network: sandbox::Network::Closed, ..Config::default() };
        assert!(docker_config(&closed, &token, &none).is_ok());
        for (config, field) in [
            (Config { sandbox: sandbox::Mode::None, ..Config::default() }, "sandbox"),
            (Config { network: sandbox::Network::Open, ..Config::default() }, "network"),
            (Config { readable: vec!["/srv".into()], ..Config::default() }, "readable"),
            (Config { writable: vec!["/srv".into()], ..Config::default() }, "readable"),
        ] {
            let error = docker_config(&config, &token, &none).unwrap_err();
            assert!(error.message.starts_with(field) && error.message.contains("docker"), "{error}");
        }
    }
}
