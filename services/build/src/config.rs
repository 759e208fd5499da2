//! The build service's configuration: defaults, then a file, then `HOISTWAY_BUILD_*`, then flags.

use crate::registry::RegistryConfig;
use hoistway_kit::{config::xdg_data_dir, telemetry::LogFormat};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "build";

/// What an operator may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory of the installation; the service has the directory `build` in it.
    pub data_dir: PathBuf,
    /// Where gRPC listens.
    pub grpc_listen: SocketAddr,
    /// Where the registry listens.
    pub registry_listen: SocketAddr,
    /// The registry's own settings.
    pub registry: RegistryConfig,
    /// The interpreter to build for. Default: the first on PATH that is new enough.
    pub python: Option<PathBuf>,
    /// A base image in the embedded registry, `REPOSITORY:TAG` or `REPOSITORY@DIGEST`. Default: none.
    pub base_image: Option<String>,
    /// How many builds run at a time.
    pub concurrency: usize,
    /// How many builds may wait for their turn.
    pub queue: usize,
    /// How long one build may take, in seconds.
    pub timeout_seconds: u64,
    /// The file with the API key that the registry accepts beside the service token. Default: none.
    pub api_key_file: Option<PathBuf>,
    /// The file with the token of calls between services. Default: `service-token` in `data_dir`.
    pub service_token_file: Option<PathBuf>,
    /// How log lines look: human or json.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: xdg_data_dir(),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 8095)),
            registry_listen: SocketAddr::from(([127, 0, 0, 1], 5000)),
            registry: RegistryConfig::default(),
            python: None,
            base_image: None,
            concurrency: 2,
            queue: 64,
            timeout_seconds: 600,
            api_key_file: None,
            service_token_file: None,
            log_format: LogFormat::default(),
        }
    }
}

impl Config {
    /// The service's own directory.
    pub fn service_dir(&self) -> PathBuf {
        self.data_dir.join(SERVICE)
    }

    /// The file with the token of calls between services.
    pub fn service_token_file(&self) -> PathBuf {
        self.service_token_file.clone().unwrap_or_else(|| self.data_dir.join("service-token"))
    }
}
