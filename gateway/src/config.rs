//! The gateway's configuration: defaults, then a file, then `HOISTWAY_GATEWAY_*` variables.

use crate::{
    access_control::AccessLimits,
    oidc::{CallerLimits, fetch::PlainHosts},
    rate_limits::{Rate, Rates},
    saga, state,
};
use hoistway_kit::{
    config::xdg_data_dir,
    db::{DatabaseConfig, Location},
    prune::Retention,
    telemetry::LogFormat,
    tls::{ApiTlsConfig, ServiceTlsConfig},
};
use hoistway_model::{Result, source};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "gateway";

/// The operator's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory of the installation; the gateway's data is in its directory `gateway`.
    pub data_dir: PathBuf,
    /// The address of the HTTP API. The default is loopback; any other is reachable from outside.
    pub listen: SocketAddr,
    /// The tool registry's gRPC address.
    pub tool_registry: String,
    /// The build service's gRPC address.
    pub build: String,
    /// The agent service's gRPC address.
    pub agent: String,
    /// The gRPC address of egress.
    pub egress: String,
    /// `host:port` at which the API's users reach the platform's registry; part of every `image_uri`.
    pub public_registry: String,
    /// The registry that the build service pushes images to besides, `HOST[:PORT][/PREFIX]`; it is part of every
    /// `image_uri` then.
    pub image_registry: Option<String>,
    /// The file with the API key; created at the first start. Default: `api-key` in `data_dir`.
    pub api_key_file: Option<PathBuf>,
    /// The file with the token of calls between services. Default: `service-token` in `data_dir`.
    pub service_token_file: Option<PathBuf>,
    /// The file with the master key, which encrypts all secrets. Default: `master.key` in `data_dir`.
    pub master_key_file: Option<PathBuf>,
    /// The most bytes of one request body.
    pub max_body_bytes: usize,
    /// The time limit of a deployment before its point of no return, in seconds.
    pub deploy_deadline_seconds: u64,
    /// The time limit of an agent's answer to an invoke, in seconds.
    pub invoke_timeout_seconds: u64,
    /// The most concurrent invokes of one agent.
    pub invoke_concurrency: usize,
    /// The most waiting deployments of one agent.
    pub deploy_queue: usize,
    /// The time for which records of ended deployments are kept, in days.
    pub journal_days: u32,
    /// The most records of ended deployments that are kept.
    pub journal_entries: u64,
    /// The time for which entries of the audit log, and records of keys that are no longer valid, are kept, in days.
    pub audit_days: u32,
    /// The most entries of the audit log that are kept.
    pub audit_entries: u64,
    /// The interval in seconds at which expired data is removed and the images in use are reported to the registry.
    pub tidy_seconds: u64,
    /// The requests of one key per second, without invokes. 0 is no limit.
    pub requests_per_second: u32,
    /// The most requests of one key at once.
    pub request_burst: u32,
    /// The invokes of one key per second. 0 is no limit.
    pub invokes_per_second: u32,
    /// The most invokes of one key at once.
    pub invoke_burst: u32,
    /// The wrong keys from one address per minute. 0 is no limit.
    pub failed_auth_per_minute: u32,
    /// The most concurrent requests, streams included.
    pub max_requests: usize,
    /// The most API keys that are valid at a time.
    pub max_keys: u32,
    /// The most bytes of an agent's answer that is not streamed.
    pub max_answer_bytes: usize,
    /// The most files of one source; 2000 at most.
    pub max_source_files: usize,
    /// The most bytes of one source; 32 MiB at most.
    pub max_source_bytes: usize,
    /// Hosts, as `HOST` or `HOST:PORT`, from which identity providers' keys may be fetched over plain HTTP; this
    /// machine is always permitted.
    pub identity_provider_http_hosts: Vec<String>,
    /// Origins, as `https://HOST`, whose web pages may call the API; `*` for all.
    pub allowed_origins: Vec<String>,
    /// Reverse proxies whose `X-Forwarded-For` is trusted for a request's address.
    pub trusted_proxies: Vec<IpAddr>,
    /// TLS of the HTTP API.
    pub api_tls: ApiTlsConfig,
    /// TLS between services.
    pub tls: ServiceTlsConfig,
    /// Where the tables are.
    pub database: DatabaseConfig,
    /// The format of log lines: human or json.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let limits = state::Limits::default();
        let saga = saga::Limits::default();
        let access = AccessLimits::default();
        Self {
            data_dir: xdg_data_dir(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8092)),
            tool_registry: "http://127.0.0.1:8093".into(),
            build: "http://127.0.0.1:8095".into(),
            agent: "http://127.0.0.1:8097".into(),
            egress: "http://127.0.0.1:8099".into(),
            public_registry: "127.0.0.1:5000".into(),
            image_registry: None,
            api_key_file: None,
            service_token_file: None,
            master_key_file: None,
            max_body_bytes: limits.max_body,
            deploy_deadline_seconds: saga.deadline.as_secs(),
            invoke_timeout_seconds: limits.invoke_timeout.as_secs(),
            invoke_concurrency: limits.invoke_concurrency,
            deploy_queue: saga.queue,
            journal_days: 30,
            journal_entries: 50_000,
            audit_days: 365,
            audit_entries: 500_000,
            tidy_seconds: 3_600,
            requests_per_second: 200,
            request_burst: 1_000,
            invokes_per_second: 2_000,
            invoke_burst: 10_000,
            failed_auth_per_minute: 30,
            max_requests: access.max_requests,
            max_keys: access.max_keys,
            max_answer_bytes: limits.max_answer,
            max_source_files: limits.max_source_files,
            max_source_bytes: limits.max_source_bytes,
            identity_provider_http_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: access.trusted_proxies,
            api_tls: ApiTlsConfig::default(),
            tls: ServiceTlsConfig::default(),
            database: DatabaseConfig::default(),
            log_format: LogFormat::default(),
        }
    }
}

impl Config {
    /// Returns the gateway's own directory.
    pub fn service_dir(&self) -> PathBuf {
        self.data_dir.join(SERVICE)
    }

    /// The place of the tables.
    pub(crate) async fn location(&self) -> Result<Location> {
        Ok(self.database.location(SERVICE, &self.service_dir()).await?.exclusive())
    }

    /// Returns the limits of the HTTP API.
    pub fn limits(&self) -> state::Limits {
        state::Limits {
            max_body: self.max_body_bytes,
            deploy_deadline: self.deploy_deadline(),
            invoke_timeout: Duration::from_secs(self.invoke_timeout_seconds),
            invoke_concurrency: self.invoke_concurrency,
            max_answer: self.max_answer_bytes,
            max_source_files: self.max_source_files.min(source::MAX_FILES),
            max_source_bytes: self.max_source_bytes.min(source::MAX_BYTES),
            ..state::Limits::default()
        }
    }

    /// Returns the limits of end users' authentication.
    pub fn caller_limits(&self) -> CallerLimits {
        CallerLimits {
            plain_hosts: PlainHosts::new(&self.identity_provider_http_hosts),
            rate: self.access_limits().rates.invokes,
            ..CallerLimits::default()
        }
    }

    /// Returns the limits of access control.
    pub fn access_limits(&self) -> AccessLimits {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let rates = Rates {
            requests: Rate::new(self.requests_per_second, second, self.request_burst),
            invokes: Rate::new(self.invokes_per_second, second, self.invoke_burst),
            failures: Rate::new(self.failed_auth_per_minute, minute, self.failed_auth_per_minute),
        };
        AccessLimits {
            rates,
            max_requests: self.max_requests,
            max_keys: self.max_keys,
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }

    /// Returns the retention of the audit log.
    pub fn audit_kept(&self) -> Retention {
        Retention::new(days(self.audit_days), self.audit_entries)
    }

    /// Returns the retention of ended deployments.
    pub fn journal_kept(&self) -> Retention {
        Retention::new(days(self.journal_days), self.journal_entries)
    }

    /// Returns the interval at which expired data is removed.
    pub fn tidy_every(&self) -> Duration {
        Duration::from_secs(self.tidy_seconds.max(1))
    }

    /// Returns the limits of the saga.
    pub fn saga_limits(&self) -> saga::Limits {
        saga::Limits { deadline: self.deploy_deadline(), queue: self.deploy_queue }
    }

    /// Returns the time limit of one deployment.
    pub fn deploy_deadline(&self) -> Duration {
        Duration::from_secs(self.deploy_deadline_seconds)
    }

    /// Returns a configured file, or its default path in the data directory.
    pub fn file(&self, configured: &Option<PathBuf>, name: &str) -> PathBuf {
        configured.clone().unwrap_or_else(|| self.data_dir.join(name))
    }
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 60 * 60)
}
