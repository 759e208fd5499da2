//! The gateway's configuration: defaults, then a file, then `HOISTWAY_GATEWAY_*`, then flags.

use crate::{saga, state};
use hoistway_kit::{config::xdg_data_dir, telemetry::LogFormat};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "gateway";

/// What an operator may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory of the installation; the gateway has the directory `gateway` in it.
    pub data_dir: PathBuf,
    /// Where the HTTP API listens. The default is loopback; anything else makes it reachable from outside.
    pub listen: SocketAddr,
    /// The tool registry's gRPC address.
    pub tool_registry: String,
    /// The build service's gRPC address.
    pub build: String,
    /// The agent service's gRPC address.
    pub agent: String,
    /// `host:port` at which the API's users reach the platform's registry; part of every `image_uri`.
    pub public_registry: String,
    /// The file with the API key; made at the first start when it is not there. Default: `api-key` in `data_dir`.
    pub api_key_file: Option<PathBuf>,
    /// The file with the token of calls between services. Default: `service-token` in `data_dir`.
    pub service_token_file: Option<PathBuf>,
    /// The file with the key of everything encrypted. Default: `master.key` in `data_dir`.
    pub master_key_file: Option<PathBuf>,
    /// The most bytes of one request body.
    pub max_body_bytes: usize,
    /// How long a deployment may take before its point of no return, in seconds.
    pub deploy_deadline_seconds: u64,
    /// How long an agent may take to answer an invoke, in seconds.
    pub invoke_timeout_seconds: u64,
    /// How many invokes of one agent run at a time.
    pub invoke_concurrency: usize,
    /// How many deployments of one agent may wait.
    pub deploy_queue: usize,
    /// How long the records of ended deployments are kept, in days.
    pub journal_days: u32,
    /// How log lines look: human or json.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let limits = state::Limits::default();
        let saga = saga::Limits::default();
        Self {
            data_dir: xdg_data_dir(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8092)),
            tool_registry: "http://127.0.0.1:8093".into(),
            build: "http://127.0.0.1:8095".into(),
            agent: "http://127.0.0.1:8097".into(),
            public_registry: "127.0.0.1:5000".into(),
            api_key_file: None,
            service_token_file: None,
            master_key_file: None,
            max_body_bytes: limits.max_body,
            deploy_deadline_seconds: saga.deadline.as_secs(),
            invoke_timeout_seconds: limits.invoke_timeout.as_secs(),
            invoke_concurrency: limits.invoke_concurrency,
            deploy_queue: saga.queue,
            journal_days: 30,
            log_format: LogFormat::default(),
        }
    }
}

impl Config {
    /// The gateway's own directory.
    pub fn service_dir(&self) -> PathBuf {
        self.data_dir.join(SERVICE)
    }

    /// The bounds of the HTTP edge.
    pub fn limits(&self) -> state::Limits {
        state::Limits {
            max_body: self.max_body_bytes,
            deploy_deadline: self.deploy_deadline(),
            invoke_timeout: Duration::from_secs(self.invoke_timeout_seconds),
            invoke_concurrency: self.invoke_concurrency,
            ..state::Limits::default()
        }
    }

    /// The bounds of the saga.
    pub fn saga_limits(&self) -> saga::Limits {
        saga::Limits { deadline: self.deploy_deadline(), queue: self.deploy_queue }
    }

    /// The time limit of one deployment.
    pub fn deploy_deadline(&self) -> Duration {
        Duration::from_secs(self.deploy_deadline_seconds)
    }

    /// A file of this configuration, or its default place in the data directory.
    pub fn file(&self, configured: &Option<PathBuf>, name: &str) -> PathBuf {
        configured.clone().unwrap_or_else(|| self.data_dir.join(name))
    }
}
