//! The tool registry: tools, model and identity providers, which agent uses which tool, and the built-in echo tool.
//!
//! [`serve`] is the whole service. A process that hosts several services calls [`open`], [`grpc`] and [`run`] itself
//! and takes a local transport of the same server.

pub mod config;
mod deploy_plan;
pub mod echo;
mod echo_url;
mod grpc;
mod migrations;
mod service;
mod store;
mod stored_tool;
mod validation;
mod vault;

pub use config::Config;
pub use grpc::{GrpcToolCredentials, GrpcToolRegistry};
pub use migrations::ALL as MIGRATIONS;
pub use service::ToolRegistryService;

use hoistway_kit::{
    grpc::Server,
    ports::{Listeners, listen_as_configured},
    probes,
    secrets::MasterKey,
    shutdown::part,
    token::ServiceToken,
};
use hoistway_model::{Error, Result, ToolCredentials, ToolRegistry};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The keys and tokens that the service shares with the rest of the installation.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The token that callers must show.
    pub token: ServiceToken,
    /// The token of egress, to which alone credentials are shown.
    pub egress_token: ServiceToken,
    /// The key of stored credentials.
    pub master_key: MasterKey,
}

impl Deps {
    /// Reads them from the configured files, which are made at the first start.
    pub async fn load(config: &Config) -> Result<Self> {
        let (token, egress_token) = (config.service_token_file(), config.egress_token_file());
        let key = config.master_key_file();
        let load = move || {
            Ok(Self {
                token: ServiceToken::load_or_create(&token)?,
                egress_token: ServiceToken::load_or_create(&egress_token)?,
                master_key: MasterKey::load_or_create(&key)?,
            })
        };
        tokio::task::spawn_blocking(load).await.map_err(|e| Error::internal("reading the keys", e))?
    }
}

/// The two ports of the service.
#[derive(Debug)]
pub struct Ports {
    /// For gRPC.
    pub grpc: Listeners,
    /// For the echo tool.
    pub http: Listeners,
}

impl Ports {
    /// Listens on the configured addresses, with TLS if it is configured, and writes the ports that were taken for port
    /// 0 into `config`.
    pub fn listen(config: &mut Config) -> Result<Self> {
        let tls = config.tls.load()?;
        Ok(Self {
            grpc: tls.secure_grpc("grpc_listen", listen_as_configured(&mut config.grpc_listen)?)?,
            http: tls.secure_http("http_listen", listen_as_configured(&mut config.http_listen)?)?,
        })
    }
}

/// Opens the service: its directory, its database, its keys. It listens nowhere; the echo tool's URLs come from
/// `config`, so a port 0 in there must have become the real one.
pub async fn open(config: &Config, deps: &Deps) -> Result<ToolRegistryService> {
    ToolRegistryService::open(config, deps.master_key.clone()).await
}

/// Seals anew, after a rotation of the master key, what old keys have sealed; for a service that does not run. Opening
/// the service does it as well.
pub async fn reseal(config: &Config, deps: &Deps) -> Result<()> {
    open(config, deps).await?.close().await;
    Ok(())
}

/// The gRPC server of any tool registry, with health and reflection. Credentials are shown to egress alone.
pub fn grpc(registry: Arc<dyn ToolRegistry>, credentials: Arc<dyn ToolCredentials>, deps: &Deps) -> Result<Server> {
    Server::new(deps.token.clone())
        .add(grpc::server(registry))
        .add_restricted(deps.egress_token.clone(), grpc::credentials_server(credentials))
        .reflection(hoistway_proto::DESCRIPTORS)
}

/// Serves an opened service until `shutdown`, then drains.
pub async fn run(
    service: ToolRegistryService,
    server: Server,
    ports: Ports,
    shutdown: CancellationToken,
) -> Result<()> {
    // When one of the two ends, the other one is of no use.
    let ended = shutdown.child_token();
    let closing = async {
        ended.cancelled().await;
        // Watches never end by themselves, and calls are drained only when all of them have ended.
        service.close_watches();
    };
    let (rpc, http, (), ()) = tokio::join!(
        part(&ended, server.serve(ports.grpc, ended.clone())),
        part(&ended, echo::serve(ports.http, ended.clone())),
        service.maintain(ended.clone()),
        closing
    );
    service.close().await;
    rpc.and(http)
}

/// The whole service as its own binary runs it.
pub async fn serve(config: &Config, deps: Deps, ports: Ports, shutdown: CancellationToken) -> Result<()> {
    let service = open(config, &deps).await?;
    let server = grpc(Arc::new(service.clone()), Arc::new(service.clone()), &deps)?;
    let ended = shutdown.child_token();
    let check = Arc::new(service.clone());
    probes::serve_beside(run(service, server, ports, ended.clone()), config.probe_listen, check, &ended).await
}
