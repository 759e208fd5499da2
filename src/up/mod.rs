//! `hoistway up`: every service and the gateway in one process, each on its own port and database. The gateway calls
//! the services' servers directly, without a network connection.

mod startup_banner;

use crate::{UpArgs, demo, rotate};
use hoistway_agent as agent;
use hoistway_build as build;
use hoistway_client::{
    AgentClient, AgentIdentitiesClient, BuildClient, EgressClient, ToolCredentialsClient, ToolRegistryClient,
};
use hoistway_egress as egress;
use hoistway_gateway::{self as gateway, Gateway, saga::Services};
use hoistway_kit::{
    config,
    db::DatabaseConfig,
    egress_auth::EgressKey,
    fs::{self, DirLock, private_dir},
    invoke_statement::InvokeStatementKey,
    open_files,
    ports::{self, Listeners, Ports},
    secrets::MasterKey,
    shutdown::{self, part},
    telemetry::{self, LogFormat},
    tls::{ApiTlsConfig, ServiceTls, ServiceTlsConfig},
    token::{ApiKey, ServiceToken},
};
use hoistway_model::{AgentIdentities, Code, Error, Result, Secret, page};
use hoistway_tool_registry as tools;
use serde::{Deserialize, Serialize};
use startup_banner::StartupBanner;
use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// The port of the HTTP API: the default of public clients.
pub const DEFAULT_PORT: u16 = 8092;

/// The address of the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// `localhost:PORT`: 127.0.0.1 and, where there is IPv6, ::1.
    Localhost(u16),
    /// One address.
    Addr(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(port) = text.strip_prefix("localhost:") {
            return port.parse().map(Listen::Localhost).map_err(|_| format!("\"{port}\" is not a port"));
        }
        text.parse().map(Listen::Addr).map_err(|_| format!("\"{text}\" is neither ADDR:PORT nor localhost:PORT"))
    }
}

impl Listen {
    fn bind(self) -> Result<Listeners> {
        match self {
            Listen::Localhost(port) => ports::listen_loopback(port),
            // Clients and the command line expect this installation at `localhost`.
            Listen::Addr(addr) => ports::listen_with_loopback(addr),
        }
    }
}

/// The state that all parts share.
struct Shared {
    token: ServiceToken,
    egress_token: ServiceToken,
    egress_key: EgressKey,
    master_key: MasterKey,
    api_key: ApiKey,
    api_key_file: PathBuf,
    /// Held as long as the process runs.
    _lock: DirLock,
}

impl Shared {
    fn open(dir: &Path) -> Result<Self> {
        private_dir(dir).map_err(fs::path_error("making", dir))?;
        let api_key_file = dir.join("api-key");
        Ok(Self {
            _lock: DirLock::acquire(dir)?,
            token: ServiceToken::load_or_create(&dir.join("service-token"))?,
            egress_token: ServiceToken::load_or_create(&dir.join("egress-token"))?,
            egress_key: EgressKey::load_or_create(&dir.join("egress-key"))?,
            master_key: MasterKey::load_or_create(&rotate::key_file(dir))?,
            api_key: ApiKey::load_or_create(&api_key_file)?,
            api_key_file,
        })
    }
}

/// The settings of `up` itself in its configuration file, outside the tables of the services. Flags and variables win.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpConfig {
    listen: Option<String>,
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    python: Option<PathBuf>,
    base_image: Option<String>,
    image_registry: Option<String>,
    docker_config: Option<PathBuf>,
    insecure_registries: Vec<String>,
    /// The place of the tables.
    pub database: DatabaseConfig,
    log_format: Option<LogFormat>,
}

/// The settings of the whole stack.
struct Settings {
    listen: Listen,
    data_dir: PathBuf,
    python: Option<PathBuf>,
    base_image: Option<String>,
    image_registry: Option<String>,
    docker_config: Option<PathBuf>,
    insecure_registries: Vec<String>,
    database: DatabaseConfig,
    log_format: LogFormat,
    tools: tools::Config,
    build: build::Config,
    agent: agent::Config,
    egress: egress::Config,
    gateway: gateway::Config,
}

impl Settings {
    /// Merges flags, then the file, then the defaults; for each service its variables, then its table in the file.
    /// Settings that the services must agree on are decided here, so the services' own settings for them are refused.
    fn load(args: UpArgs) -> Result<Self> {
        let file = args.config.as_deref().map(config::File::read).transpose()?;
        let own: UpConfig = file.as_ref().map(config::File::program).transpose()?.unwrap_or_default();
        let listen = own.listen.map(|text| text.parse()).transpose().map_err(|e: String| Error::field("listen", e))?;
        let data_dir = config::data_dir(args.data_dir.or(own.data_dir))?;
        let shared = [
            "data_dir",
            "service_token_file",
            "egress_token_file",
            "master_key_file",
            "api_key_file",
            "database",
            "tls",
            "log_format",
        ];
        let decided = |more: &[&'static str]| [&shared, more].concat();
        let file = file.as_ref();
        let agent: agent::Config = config::load_part(
            agent::config::SERVICE,
            file,
            &decided(&[
                "grpc_listen",
                "egress_listen",
                "egress_url",
                "egress_key_file",
                "egress_ca_file",
                "registry_address",
                "image_registry",
                "docker_config",
                "insecure_registries",
                "python",
            ]),
        )?;
        let gateway: gateway::Config = config::load_part(
            gateway::config::SERVICE,
            file,
            &decided(&["listen", "tool_registry", "build", "agent", "egress", "public_registry", "image_registry"]),
        )?;
        let api_tls = ApiTlsConfig {
            cert_file: args.tls_cert.or(gateway.api_tls.cert_file),
            key_file: args.tls_key.or(gateway.api_tls.key_file),
            allow_plaintext: args.allow_plaintext || gateway.api_tls.allow_plaintext,
        };
        Ok(Self {
            listen: args.listen.or(listen).unwrap_or(Listen::Localhost(DEFAULT_PORT)),
            data_dir,
            python: args.python.or(own.python),
            base_image: args.base_image.or(own.base_image),
            image_registry: args.image_registry.or(own.image_registry),
            docker_config: own.docker_config,
            insecure_registries: own.insecure_registries,
            database: own.database.with_flags(args.database_url, args.database_password_file),
            log_format: args.log_format.or(own.log_format).unwrap_or_default(),
            tools: config::load_part(
                tools::config::SERVICE,
                file,
                &decided(&["grpc_listen", "http_listen", "public_url", "internal_url"]),
            )?,
            build: config::load_part(
                build::config::SERVICE,
                file,
                &decided(&[
                    "grpc_listen",
                    "registry_listen",
                    "python",
                    "base_image",
                    "image_registry",
                    "docker_config",
                    "insecure_registries",
                ]),
            )?,
            agent: agent::Config {
                tls: ServiceTlsConfig { allow_plaintext: api_tls.allow_plaintext, ..ServiceTlsConfig::default() },
                sandbox: args.sandbox.unwrap_or(agent.sandbox),
                network: args.network.unwrap_or(agent.network),
                runtime: args.runtime.unwrap_or(agent.runtime),
                ..agent
            },
            egress: config::load_part(
                egress::config::SERVICE,
                file,
                &decided(&["listen", "grpc_listen", "tool_registry", "agent", "key_file", "ca_file"]),
            )?,
            gateway: gateway::Config { api_tls, ..gateway },
        })
    }
}

/// Runs the stack until a signal stops it.
pub async fn run(args: UpArgs) -> Result<()> {
    let demo = args.demo;
    let settings = Settings::load(args)?;
    let _telemetry = telemetry::init("hoistway", settings.log_format)?;
    open_files::raise_limit()?;
    let stop = shutdown::on_signals()?;
    let (data_dir, database) = (settings.data_dir, settings.database);
    let shared = Shared::open(&data_dir)?;
    let api = settings.gateway.api_tls.secure(settings.listen.bind()?)?;
    let mut kept = Ports::open(&data_dir)?;

    // The services outlive the gateway, whose requests in flight still need them. Egress outlives the agents.
    let (services, way_out) = (CancellationToken::new(), CancellationToken::new());

    let tool_ports = tools::Ports { grpc: kept.listen("tool-registry")?, http: kept.listen("echo-tool")? };
    let build_ports = build::Ports { grpc: kept.listen("build")?, registry: kept.listen("registry")? };
    let agent_ports = agent::Ports { grpc: kept.listen("agent")? };
    let egress_ports = egress::Ports { grpc: kept.listen("egress-grpc")?, http: kept.listen("egress")? };
    let registry = first(&build_ports.registry)?.to_string();
    let grpc = vec![
        ("tool-registry", first(&tool_ports.grpc)?),
        ("build", first(&build_ports.grpc)?),
        ("agent", first(&agent_ports.grpc)?),
        ("egress", first(&egress_ports.grpc)?),
    ];

    let tool_config = tools::Config {
        data_dir: data_dir.clone(),
        http_listen: first(&tool_ports.http)?,
        public_url: Some(format!("http://{}", first(&tool_ports.http)?)),
        database: database.clone(),
        ..settings.tools
    };
    let tool_deps = tools::Deps {
        token: shared.token.clone(),
        egress_token: shared.egress_token.clone(),
        master_key: shared.master_key.clone(),
    };
    let tool_service = tools::open(&tool_config, &tool_deps).await?;
    let tool_server = tools::grpc(Arc::new(tool_service.clone()), Arc::new(tool_service.clone()), &tool_deps)?;

    let build_config = build::Config {
        data_dir: data_dir.clone(),
        python: settings.python,
        base_image: settings.base_image,
        image_registry: settings.image_registry.clone(),
        docker_config: settings.docker_config.clone(),
        insecure_registries: settings.insecure_registries.clone(),
        database: database.clone(),
        ..settings.build
    };
    let build_deps = build::Deps { token: shared.token.clone(), api_key: Some(shared.api_key.clone()) };
    let build_service = build::open(&build_config, &build_deps, services.child_token()).await?;
    let interpreter = build_service.interpreter().clone();
    let no_packages = build_service.packages();

    let agent_config = agent::Config {
        data_dir: data_dir.clone(),
        egress_listen: first(&egress_ports.http)?,
        registry_address: registry.clone(),
        image_registry: settings.image_registry.clone(),
        docker_config: settings.docker_config,
        insecure_registries: settings.insecure_registries,
        python: Some(interpreter.executable.clone()),
        database: database.clone(),
        // A redeploy cuts no invoke that is within its timeout.
        drain_seconds: settings.agent.drain_seconds.max(settings.gateway.invoke_timeout_seconds.saturating_add(5)),
        ..settings.agent
    };
    let egress_config = egress::Config {
        data_dir: data_dir.clone(),
        listen: first(&egress_ports.http)?,
        database: database.clone(),
        ..settings.egress
    };
    // Agents trust this authority, and start before egress does.
    let authority_dir = egress_config.service_dir();
    let authority = tokio::task::spawn_blocking(move || egress::Authority::load_or_create(&authority_dir)).await;
    authority.map_err(|e| Error::internal("opening the authority of egress", e))??;
    let agent_deps = agent::Deps {
        token: shared.token.clone(),
        master_key: shared.master_key.clone(),
        egress_key: shared.egress_key.clone(),
        runtime: None,
        tls: agent_config.tls.load()?,
    };
    let agent_service = agent::open(&agent_config, &agent_deps).await?;
    if let Some(layers) = agent_service.unpacked_layers() {
        build_service.unpack_layers_into(layers);
    }
    let agent_server = agent::grpc(agent_service.handle(), agent_service.identities(), &agent_deps)?;

    let tool_credentials = tool_server.clone().into_local_with(&shared.egress_token);
    let agents: Arc<dyn AgentIdentities> = Arc::new(AgentIdentitiesClient::new(agent_server.clone().into_local()));
    let tools = Arc::new(ToolCredentialsClient::new(tool_credentials));
    let policies = egress::WatchedPolicies::new(tools, Arc::clone(&agents), &egress_config.private_domains)?;
    let policies = policies.stopping(stop.clone());
    let egress_deps = egress::Deps {
        token: shared.token.clone(),
        key: shared.egress_key.clone(),
        policies: Arc::new(policies),
        records: None,
        agents: Some(agents),
        invoke_statements: InvokeStatementKey::new(&shared.token)?,
        tls: ServiceTls::default(),
    };
    let egress_service = egress::open(&egress_config, &egress_deps).await?;
    let egress_server = egress::grpc(egress_service.handle(), &egress_deps)?;

    let gateway_config = gateway::Config {
        data_dir: data_dir.clone(),
        public_registry: registry.clone(),
        image_registry: settings.image_registry,
        database,
        ..settings.gateway
    };
    let patience = gateway_config.deploy_deadline();
    let clients = Services {
        tools: Arc::new(ToolRegistryClient::new(tool_server.clone().into_local())),
        builds: Arc::new(BuildClient::new(build_service.server().into_local(), patience)),
        agents: Arc::new(AgentClient::new(agent_server.clone().into_local(), patience)),
    };
    let deps = gateway::Deps {
        services: clients,
        egress: Arc::new(EgressClient::new(egress_server.clone().into_local())),
        tls: ServiceTls::default(),
        master_key: shared.master_key.clone(),
        api_key: shared.api_key.clone(),
        invoke_statements: InvokeStatementKey::new(&shared.token)?,
    };
    let gateway = Gateway::open(&gateway_config, deps, stop.clone()).await?;
    rotate::finish(&data_dir, shared.master_key.clone()).await?;

    let banner = StartupBanner {
        api: api.addrs(),
        has_tls: api.tls().is_some(),
        api_key_file: shared.api_key_file.clone(),
        registry,
        is_default_dir: config::data_dir(None).is_ok_and(|default| default == data_dir),
        data_dir,
        python: format!("{} at {}", interpreter.full_version, interpreter.executable.display()),
        no_packages,
        services: grpc,
        isolation: agent_service.isolation(),
        agents: page::of_agents(&*agent_service.handle(), |agent| Some(agent.name)).await?.len(),
    };

    // A service that ends by itself ends the others too: a partial stack would only answer with errors.
    let front = async {
        let served = gateway.serve(api).await;
        services.cancel();
        served
    };
    let agents = async {
        let served = agent::run(agent_service, agent_server, agent_ports, services.clone()).await;
        way_out.cancel();
        served
    };
    let (front, tool_registry, build, agents, egress, ()) = tokio::join!(
        part(&stop, front),
        part(&stop, tools::run(tool_service, tool_server, tool_ports, services.clone())),
        part(&stop, build_service.run(build_ports, services.clone())),
        part(&stop, agents),
        part(&stop, egress::run(egress_service, egress_server, egress_ports, way_out.clone())),
        say(banner, demo.then(|| shared.api_key.secret().clone()), &stop),
    );
    front.and(tool_registry).and(build).and(agents).and(egress)
}

fn first(listeners: &Listeners) -> Result<SocketAddr> {
    let addr = listeners.addrs().first().copied();
    addr.ok_or_else(|| Error::new(Code::Internal, "a port is not listening"))
}

/// Prints the banner to standard output, where scripts wait for it; a closed one is not an error. The demo, if
/// requested, comes after it; on a terminal no log lines are printed during the demo.
async fn say(banner: StartupBanner, demo: Option<Secret>, stop: &CancellationToken) {
    {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{banner}").and_then(|()| out.flush());
    }
    if let Some(key) = demo
        && let Ok(base) = banner.url().parse()
    {
        let one_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let _held = one_terminal.then(telemetry::hold_lines);
        stop.run_until_cancelled(demo::show(base, key, &banner.exports())).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!("localhost:80".parse(), Ok(Listen::Localhost(80)));
        assert_eq!("127.0.0.1:80".parse(), Ok(Listen::Addr(SocketAddr::from(([127, 0, 0, 1], 80)))));
        for bad in ["80", "localhost", "localhost:x", "example.org:80"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
