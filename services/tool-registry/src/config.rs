//! The settings of the tool registry: a TOML file, then `HOISTWAY_TOOL_REGISTRY_*`.

use hoistway_kit::{
    config::xdg_data_dir,
    db::{DatabaseConfig, Location},
    idempotency,
    prune::Retention,
    telemetry::LogFormat,
    tls::ServiceTlsConfig,
};
use hoistway_model::Result;
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "tool-registry";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data directory of the installation; the service has the directory `tool-registry` in it.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub grpc_listen: SocketAddr,
    /// Where the echo tool is served.
    pub http_listen: SocketAddr,
    /// The base URL of the echo tool for users of the API; absent: `localhost` and the port.
    pub public_url: Option<String>,
    /// The same for agents; absent: `public_url`.
    pub internal_url: Option<String>,
    /// The token that services show each other; absent: `service-token` in the data directory.
    pub service_token_file: Option<PathBuf>,
    /// The token that egress alone shows; absent: `egress-token` in the data directory.
    pub egress_token_file: Option<PathBuf>,
    /// The key of stored credentials; absent: `master.key` in the data directory.
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

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: xdg_data_dir(),
            grpc_listen: (Ipv4Addr::LOCALHOST, 8093).into(),
            http_listen: (Ipv4Addr::LOCALHOST, 8094).into(),
            public_url: None,
            internal_url: None,
            service_token_file: None,
            egress_token_file: None,
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

    /// The number of answers of calls that are kept, and the time for which they are.
    pub fn operations_kept(&self) -> Retention {
        idempotency::kept(self.operations_seconds, self.operations)
    }

    /// The file of the service token.
    pub fn service_token_file(&self) -> PathBuf {
        self.in_data_dir(self.service_token_file.as_deref(), "service-token")
    }

    /// The file of the token of egress.
    pub fn egress_token_file(&self) -> PathBuf {
        self.in_data_dir(self.egress_token_file.as_deref(), "egress-token")
    }

    /// The file of the master key.
    pub fn master_key_file(&self) -> PathBuf {
        self.in_data_dir(self.master_key_file.as_deref(), "master.key")
    }

    fn in_data_dir(&self, configured: Option<&Path>, name: &str) -> PathBuf {
        configured.map_or_else(|| self.data_dir.join(name), Path::to_owned)
    }
}
