//! The build service's configuration: defaults, then a file, then `HOISTWAY_BUILD_*`, then flags.

use crate::{python::Indexes, registry::RegistryConfig, store::Bounds};
use hoistway_kit::{
    config::xdg_data_dir,
    db::{DatabaseConfig, Location},
    idempotency,
    telemetry::LogFormat,
    tls::ServiceTlsConfig,
};
use hoistway_model::Secret;
use serde::{Deserialize, Deserializer, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "build";

/// Settings for operators.
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
    /// A base image, `REPOSITORY:TAG` or `REPOSITORY@DIGEST` in the embedded registry, or the same behind the `HOST/` of
    /// another one. Default, and for an empty text: none.
    pub base_image: Option<String>,
    /// The registry that images are pushed to besides, `HOST[:PORT][/PREFIX]`; runtimes that run whole images pull them
    /// from there. Default: none, they pull from the embedded one.
    pub image_registry: Option<String>,
    /// Docker's `config.json` with the logins of those registries. Default: `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`, if it is there.
    pub docker_config: Option<PathBuf>,
    /// The registries, `HOST` or `HOST:PORT`, that are asked without TLS, besides those on this machine.
    pub insecure_registries: Vec<String>,
    /// The platform to build for, such as `linux/arm64`, which the base image must have. Default: the base image's; of
    /// one for several platforms, this machine's.
    pub platform: Option<String>,
    /// The package index instead of PyPI; it may have a user and a password.
    pub index_url: Option<Secret>,
    /// Package indexes to ask before that one, in a list or with spaces between.
    #[serde(deserialize_with = "listed")]
    pub extra_index_urls: Vec<Secret>,
    /// A netrc file with the passwords of package indexes.
    pub netrc: Option<PathBuf>,
    /// The number of builds that run at a time.
    pub concurrency: usize,
    /// The number of builds that may wait for their turn.
    pub queue: usize,
    /// The time that one build may take, in seconds.
    pub timeout_seconds: u64,
    /// The number of records of failed builds that are kept, and as many of those whose image a later build made again.
    pub records: u64,
    /// The number of locks of each agent that are kept: one for each text of its requirements and each interpreter.
    pub locks: u32,
    /// The number of packages' sizes that are kept.
    pub packages: u64,
    /// The most bytes that the packages of one build may take unpacked.
    pub max_unpacked_bytes: u64,
    /// The most bytes of memory that all programs of one build have together, where there are control groups.
    pub max_memory_bytes: u64,
    /// The program that calls [`crate::run_if_requested`]: this very program, or the small one beside it. Without one, as
    /// in tests, programs are not confined.
    #[serde(skip)]
    pub launcher: Option<PathBuf>,
    /// Whether programs of builds have users of their own where they can; false makes this machine look lesser.
    #[serde(skip)]
    pub own_users: bool,
    /// Whether uv, where there is none, is installed as soon as the service runs, and not by the first build.
    pub preinstall_uv: bool,
    /// The most bytes of the installer's cache.
    pub cache_bytes: u64,
    /// The time for which the answers of calls are kept, in case they are made again, in seconds; deploys end long
    /// before.
    pub operations_seconds: u64,
    /// The number of those answers that are kept.
    pub operations: u64,
    /// The interval, in seconds, at which old records are removed.
    pub tidy_seconds: u64,
    /// The file with the API key that the registry accepts beside the service token. Default: none.
    pub api_key_file: Option<PathBuf>,
    /// The file with the token of calls between services. Default: `service-token` in `data_dir`.
    pub service_token_file: Option<PathBuf>,
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
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 8095)),
            registry_listen: SocketAddr::from(([127, 0, 0, 1], 5000)),
            registry: RegistryConfig::default(),
            python: None,
            base_image: None,
            image_registry: None,
            docker_config: None,
            insecure_registries: Vec::new(),
            platform: None,
            index_url: None,
            extra_index_urls: Vec::new(),
            netrc: None,
            concurrency: 2,
            queue: 64,
            timeout_seconds: 600,
            records: 1_000,
            locks: 20,
            packages: 10_000,
            max_unpacked_bytes: 8 << 30,
            max_memory_bytes: 2 << 30,
            launcher: Some(hoistway_confine::launcher::OWN.into()),
            own_users: true,
            preinstall_uv: true,
            cache_bytes: 2 << 30,
            operations_seconds: 24 * 60 * 60,
            operations: 100_000,
            tidy_seconds: 60 * 60,
            api_key_file: None,
            service_token_file: None,
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
    pub(crate) async fn location(&self) -> hoistway_model::Result<Location> {
        Ok(self.database.location(SERVICE, &self.service_dir()).await?.exclusive())
    }

    /// The amount that is kept of records that no image has.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            operations: idempotency::kept(self.operations_seconds, self.operations),
            records: self.records,
            locks: self.locks,
            packages: self.packages,
        }
    }

    /// The operator's package indexes.
    pub fn indexes(&self) -> Indexes {
        let (index, extra) = (self.index_url.clone(), self.extra_index_urls.clone());
        Indexes { index, extra, netrc: self.netrc.clone() }
    }

    /// The file with the token of calls between services.
    pub fn service_token_file(&self) -> PathBuf {
        self.service_token_file.clone().unwrap_or_else(|| self.data_dir.join("service-token"))
    }
}

/// Reads a list, or one text with spaces between.
fn listed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Secret>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Text(String),
        List(Vec<Secret>),
    }
    // An unreadable value is reported without its text: serde's own words would repeat it.
    Ok(match Given::deserialize(from).map_err(|_| serde::de::Error::custom("is not a list of addresses"))? {
        Given::Text(text) => text.split_whitespace().map(Secret::new).collect(),
        Given::List(list) => list,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn indexes_are_a_list_or_a_text_and_are_not_shown() {
        let read = |text: &str| serde_json::from_str::<Config>(text);
        for given in [r#"["https://a", "https://b"]"#, r#""https://a  https://b""#] {
            let config = read(&format!(r#"{{"extra_index_urls": {given}}}"#)).unwrap();
            let urls: Vec<&str> = config.extra_index_urls.iter().map(Secret::expose).collect();
            assert_eq!(urls, ["https://a", "https://b"]);
            assert!(!format!("{config:?}").contains("https://a"));
        }
        let e = read(r#"{"extra_index_urls": {"hush": 1}}"#).unwrap_err();
        assert!(!e.to_string().contains("hush"), "{e}");
    }
}
