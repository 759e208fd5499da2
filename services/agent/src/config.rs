//! The settings of the agent service: a TOML file, then `HOISTWAY_AGENT_*`.

use crate::{
    launcher::Limits,
    runtime::LogLimits,
    sandbox::{Mode, Network, Pretend},
};
use hoistway_kit::{
    config::xdg_data_dir,
    db::{DatabaseConfig, Location},
    telemetry::LogFormat,
    tls::ServiceTlsConfig,
};
use hoistway_model::Result;
use http::Uri;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "agent";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data directory of the installation; the service has the directory `agent` in it.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub grpc_listen: SocketAddr,
    /// Where egress listens on this machine.
    pub egress_listen: SocketAddr,
    /// Base URL of egress as agents reach it; absent: `egress_listen`.
    pub egress_url: Option<String>,
    /// The key of the tokens by which egress knows agents; absent: `egress-key` in the data directory.
    pub egress_key_file: Option<PathBuf>,
    /// The certificate of egress' authority, which agents trust; absent: `egress/ca.pem` in the data directory.
    pub egress_ca_file: Option<PathBuf>,
    /// `host:port` of the platform's own registry, with `https://` before it if it has TLS.
    pub registry_address: String,
    /// The registry that built images are pushed to besides, `HOST[:PORT][/PREFIX]`: the runtime docker pulls them from
    /// there. Default: none, it pulls from the platform's own.
    pub image_registry: Option<String>,
    /// Docker's `config.json` with the logins of `image_registry`, by default `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`, and of the registries whose images deploys name, by default none.
    pub docker_config: Option<PathBuf>,
    /// The registries, `HOST` or `HOST:PORT`, that are asked without TLS, besides those on this machine. A Docker daemon
    /// has a setting of its own for that.
    pub insecure_registries: Vec<String>,
    /// The Python that runs agents: a path or a name on `PATH`; absent: the first that is new enough.
    pub python: Option<PathBuf>,
    /// What runs agents: process or docker.
    pub runtime: RuntimeKind,
    /// The settings of the runtime docker.
    pub docker: Docker,
    /// The address that agents listen on.
    pub agents_bind: IpAddr,
    /// The host under which gateways reach agents; absent: `agents_bind`.
    pub agents_host: Option<String>,
    /// The number of agents that may be starting at the same time.
    pub concurrent_starts: usize,
    /// The time that a start may take until the agent is ready, in seconds; 0: for ever.
    pub start_seconds: u64,
    /// The time in which a replaced instance may finish the requests that it has, in seconds: the gateway's
    /// `invoke_timeout_seconds` and a little more.
    pub drain_seconds: u64,
    /// The time without invokes after which an agent is stopped until the next one, in seconds; 0: never.
    pub idle_seconds: u64,
    /// The number of superseded revisions of each agent that are kept, to be rolled back to.
    pub revisions: u32,
    /// The number of agents that there may be.
    pub max_agents: u32,
    /// Whether agents are forked from processes that have imported their packages, where the machine allows it.
    pub warm_parents: bool,
    /// Resource limits of each agent.
    pub limits: Limits,
    /// The amount that is kept of each agent's log.
    pub logs: LogLimits,
    /// The isolation of agents from the rest of the machine: auto, namespaces, landlock or none.
    pub sandbox: Mode,
    /// The network that agents reach: auto, closed or open.
    pub network: Network,
    /// Further files and directories that agents may read.
    pub readable: Vec<PathBuf>,
    /// Directories that agents may read and write, shared by all of them.
    pub writable: Vec<PathBuf>,
    /// Mechanisms of this machine that shall not be used, for tests.
    pub pretend: Pretend,
    /// The token that services show each other; absent: `service-token` in the data directory.
    pub service_token_file: Option<PathBuf>,
    /// The key of what is stored; absent: `master.key` in the data directory.
    pub master_key_file: Option<PathBuf>,
    /// The time for which the answers of calls are kept, in case they are made again, in seconds; deploys end long
    /// before.
    pub operations_seconds: u64,
    /// The number of those answers that are kept.
    pub operations: u64,
    /// The interval, in seconds, at which old records are removed.
    pub tidy_seconds: u64,
    /// Where `/healthz` and `/readyz` are served over HTTP; absent: nowhere.
    pub probe_listen: Option<SocketAddr>,
    /// TLS between services.
    pub tls: ServiceTlsConfig,
    /// Where the tables are.
    pub database: DatabaseConfig,
    /// The format of log lines: human or json.
    pub log_format: LogFormat,
}

/// What runs agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Processes of this machine.
    #[default]
    Process,
    /// Containers of a Docker daemon on this machine.
    Docker,
}

impl FromStr for RuntimeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "process" => Ok(Self::Process),
            "docker" => Ok(Self::Docker),
            _ => Err(format!("\"{text}\" is neither process nor docker")),
        }
    }
}

/// The settings of the runtime docker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// The Unix socket of the daemon.
    pub socket: String,
    /// The directory for the sockets to agents' networks, which must have the same path for the daemon; absent:
    /// `sockets` in the service's directory.
    pub dir: Option<PathBuf>,
    /// `host:port` of the platform's registry as the daemon reaches it; absent: that of `registry_address`.
    pub registry: Option<String>,
}

impl Default for Docker {
    fn default() -> Self {
        Self { socket: "/var/run/docker.sock".to_owned(), dir: None, registry: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: xdg_data_dir(),
            grpc_listen: (Ipv4Addr::LOCALHOST, 8097).into(),
            egress_listen: (Ipv4Addr::LOCALHOST, 8098).into(),
            egress_url: None,
            egress_key_file: None,
            egress_ca_file: None,
            registry_address: "127.0.0.1:5000".to_owned(),
            image_registry: None,
            docker_config: None,
            insecure_registries: Vec::new(),
            python: None,
            runtime: RuntimeKind::default(),
            docker: Docker::default(),
            agents_bind: Ipv4Addr::LOCALHOST.into(),
            agents_host: None,
            concurrent_starts: 4,
            start_seconds: 60,
            drain_seconds: 305,
            idle_seconds: 0,
            revisions: 10,
            max_agents: 200,
            warm_parents: true,
            limits: Limits::default(),
            logs: LogLimits::default(),
            sandbox: Mode::default(),
            network: Network::default(),
            readable: Vec::new(),
            writable: Vec::new(),
            pretend: Pretend::default(),
            service_token_file: None,
            master_key_file: None,
            operations_seconds: 24 * 60 * 60,
            operations: 100_000,
            tidy_seconds: 60 * 60,
            probe_listen: None,
            tls: ServiceTlsConfig::default(),
            database: DatabaseConfig::default(),
            log_format: LogFormat::default(),
        }
    }
}

impl Config {
    /// The service's own directory.
    pub fn service_dir(&self) -> PathBuf {
        self.data_dir.join(SERVICE)
    }

    /// The place of the tables.
    pub(crate) async fn location(&self) -> Result<Location> {
        Ok(self.database.location(SERVICE, &self.service_dir()).await?.exclusive())
    }

    /// The file of the service token.
    pub fn service_token_file(&self) -> PathBuf {
        self.in_data_dir(self.service_token_file.as_deref(), "service-token")
    }

    /// The file of the master key.
    pub fn master_key_file(&self) -> PathBuf {
        self.in_data_dir(self.master_key_file.as_deref(), "master.key")
    }

    /// The file of the key of agents' tokens.
    pub fn egress_key_file(&self) -> PathBuf {
        self.in_data_dir(self.egress_key_file.as_deref(), "egress-key")
    }

    /// The file of the certificate of egress' authority.
    pub fn egress_ca_file(&self) -> PathBuf {
        self.in_data_dir(self.egress_ca_file.as_deref(), "egress/ca.pem")
    }

    /// The file of all authorities that agents trust.
    pub fn ca_bundle_file(&self) -> PathBuf {
        self.service_dir().join("ca-bundle.pem")
    }

    /// The port of egress as agents reach it.
    pub fn egress_port(&self) -> u16 {
        match self.parsed_egress_url() {
            Some(url) => url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 }),
            None => self.egress_listen.port(),
        }
    }

    /// The address of egress as agents reach it, `host:port`, with `https://` before it if it has TLS.
    pub fn egress_address(&self) -> String {
        match self.parsed_egress_url() {
            Some(url) if url.host().is_some() => {
                let scheme = if url.scheme_str() == Some("https") { "https://" } else { "" };
                format!("{scheme}{}:{}", url.host().unwrap_or_default(), self.egress_port())
            }
            _ => self.egress_listen.to_string(),
        }
    }

    fn parsed_egress_url(&self) -> Option<Uri> {
        self.egress_url.as_ref()?.parse().ok()
    }

    /// Base URL of egress as agents reach it.
    pub fn egress_url(&self) -> String {
        self.egress_url.clone().unwrap_or_else(|| format!("http://{}", self.egress_listen))
    }

    fn in_data_dir(&self, configured: Option<&Path>, name: &str) -> PathBuf {
        configured.map_or_else(|| self.data_dir.join(name), Path::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_egress_is_the_one_that_agents_are_told() {
        let at = |url: Option<&str>| {
            let config = Config { egress_url: url.map(Into::into), ..Config::default() };
            (config.egress_port(), config.egress_address())
        };
        assert_eq!(at(None), (8098, "127.0.0.1:8098".into()));
        assert_eq!(at(Some("http://egress:9000")), (9000, "egress:9000".into()));
        assert_eq!(at(Some("http://egress")), (80, "egress:80".into()));
        assert_eq!(at(Some("https://[::1]/")), (443, "https://[::1]:443".into()));
    }
}
