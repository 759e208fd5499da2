//! The settings of egress: a TOML file, then `HOISTWAY_EGRESS_*`.

use hoistway_kit::{
    config::xdg_data_dir,
    db::{DatabaseConfig, Location},
    prune::Retention,
    telemetry::LogFormat,
    tls::ServiceTlsConfig,
};
use hoistway_model::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// The name of the service, in configuration, logs and directories.
pub const SERVICE: &str = "egress";
/// The longest time that a budget is for, in days.
const BUDGET_DAYS: u32 = 32;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data directory of the installation; the service has the directory `egress` in it.
    pub data_dir: PathBuf,
    /// Where agents reach egress.
    pub listen: SocketAddr,
    /// Where gRPC is served.
    pub grpc_listen: SocketAddr,
    /// The URL of the tool registry.
    pub tool_registry: String,
    /// The URL of the agent service.
    pub agent: String,
    /// The token that services show each other; absent: `service-token` in the data directory.
    pub service_token_file: Option<PathBuf>,
    /// The token that egress alone shows, to read credentials; absent: `egress-token` in the data directory.
    pub egress_token_file: Option<PathBuf>,
    /// Further `HOST:PORT` by which agents know egress itself, such as `egress:8098`: base URLs begin with them. The
    /// address that it listens on, and `localhost` with its port, are known anyway.
    pub names: Vec<String>,
    /// The key of agents' tokens; absent: `egress-key` in the data directory.
    pub key_file: Option<PathBuf>,
    /// Where the authority's certificate is put for the agent service, besides `egress/ca.pem` in the data directory.
    pub ca_file: Option<PathBuf>,
    /// A PEM file of authorities that tools are trusted by besides the system's.
    pub extra_ca_file: Option<PathBuf>,
    /// Domains whose names may lead to private networks, besides those that are private anyway (`localhost`, `internal`,
    /// `local`, `home.arpa`, and names without a dot).
    pub private_domains: Vec<String>,
    /// `HOST:PORT=ADDRESS:PORT`: connections to the one go to the other, whatever address it is. For tests.
    pub resolve: Vec<String>,
    /// The operator's proxy on the way out, from `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub use_proxy: bool,
    /// The limits of one agent, one call and the whole service.
    pub limits: Limits,
    /// The time for which records of calls are kept, in days.
    pub call_days: u32,
    /// The number of records of calls that are kept.
    pub calls: u32,
    /// The time for which sums of what agents use of models are kept for each hour, in days.
    pub usage_hours_days: u32,
    /// The time for which those for each day are kept, in days; never less than the 32 that budgets look back.
    pub usage_days: u32,
    /// The number of sums that are kept of either kind; those of the last 32 days are kept in any case.
    pub usage_sums: u32,
    /// The interval, in seconds, at which old records are removed.
    pub tidy_seconds: u64,
    /// Whether exported spans have the prompts of models.
    pub trace_prompts: bool,
    /// Where `/healthz` and `/readyz` are served over HTTP; absent: nowhere.
    pub probe_listen: Option<SocketAddr>,
    /// TLS between services.
    pub tls: ServiceTlsConfig,
    /// Where the tables are.
    pub database: DatabaseConfig,
    /// The format of log lines: human or json.
    pub log_format: LogFormat,
}

/// The limits of one agent, one call and the whole service. Times are in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections of all agents.
    pub connections: usize,
    /// Open connections of one agent.
    pub agent_connections: usize,
    /// Calls of one agent at the same time.
    pub agent_calls: usize,
    /// Calls of one agent in a second, on average; 0 is no limit.
    pub agent_rate: u32,
    /// Calls that may come at once after a pause.
    pub agent_burst: u32,
    /// A request's header.
    pub header_size: usize,
    /// A request's body.
    pub request_size: u64,
    /// A response's body.
    pub response_size: u64,
    /// From accepting a connection to the end of its first header, between requests, and for a TLS handshake.
    pub header_ms: u64,
    /// For resolving, connecting and the TLS handshake with a tool.
    pub connect_ms: u64,
    /// For a response's header after the last byte of the request has gone.
    pub first_byte_ms: u64,
    /// Between two pieces of a body.
    pub idle_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: xdg_data_dir(),
            listen: (Ipv4Addr::LOCALHOST, 8098).into(),
            grpc_listen: (Ipv4Addr::LOCALHOST, 8099).into(),
            tool_registry: "http://127.0.0.1:8093".to_owned(),
            agent: "http://127.0.0.1:8097".to_owned(),
            service_token_file: None,
            egress_token_file: None,
            names: Vec::new(),
            key_file: None,
            ca_file: None,
            extra_ca_file: None,
            private_domains: Vec::new(),
            resolve: Vec::new(),
            use_proxy: true,
            limits: Limits::default(),
            call_days: 30,
            calls: 100_000,
            usage_hours_days: 62,
            usage_days: 800,
            usage_sums: 1_000_000,
            tidy_seconds: 60 * 60,
            trace_prompts: false,
            probe_listen: None,
            tls: ServiceTlsConfig::default(),
            database: DatabaseConfig::default(),
            log_format: LogFormat::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            agent_connections: 512,
            agent_calls: 128,
            agent_rate: 200,
            agent_burst: 400,
            header_size: 64 << 10,
            request_size: 256 << 20,
            response_size: 4 << 30,
            header_ms: 30_000,
            connect_ms: 10_000,
            first_byte_ms: 300_000,
            idle_ms: 300_000,
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

    /// The number of records of calls that are kept, and the time for which they are.
    pub(crate) fn calls_kept(&self) -> Retention {
        Retention::new(Duration::from_secs(u64::from(self.call_days) * 86_400), self.calls.into())
    }

    /// The number of sums of hours and of days that are kept, and the time for which they are. Budgets count the days
    /// of a month.
    pub(crate) fn usage_kept(&self) -> [Retention; 2] {
        let days = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
        let of_days = days(self.usage_days.max(BUDGET_DAYS));
        [
            Retention::new(days(self.usage_hours_days), self.usage_sums.into()),
            Retention { at_least: days(BUDGET_DAYS), ..Retention::new(of_days, self.usage_sums.into()) },
        ]
    }

    /// The file of the key of agents' tokens.
    pub fn key_file(&self) -> PathBuf {
        self.in_data_dir(self.key_file.as_deref(), "egress-key")
    }

    /// The file of the service token.
    pub fn service_token_file(&self) -> PathBuf {
        self.in_data_dir(self.service_token_file.as_deref(), "service-token")
    }

    /// The file of the token of egress.
    pub fn egress_token_file(&self) -> PathBuf {
        self.in_data_dir(self.egress_token_file.as_deref(), "egress-token")
    }

    fn in_data_dir(&self, configured: Option<&Path>, name: &str) -> PathBuf {
        configured.map_or_else(|| self.data_dir.join(name), Path::to_owned)
    }
}

impl Limits {
    /// Refuses numbers that mean nothing, or more than a machine has.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |name: &str, value: u64, least: u64, most: u64| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::field(format!("limits.{name}"), format!("must be between {least} and {most}"))),
        };
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        const MOST: u64 = 1_000_000;
        const DAY_MS: u64 = 86_400_000;
        within("connections", count(self.connections), 1, MOST)?;
        within("agent_connections", count(self.agent_connections), 1, MOST)?;
        within("agent_calls", count(self.agent_calls), 1, MOST)?;
        within("header_size", count(self.header_size), 8 << 10, 1 << 20)?;
        for (name, value) in [
            ("header_ms", self.header_ms),
            ("connect_ms", self.connect_ms),
            ("first_byte_ms", self.first_byte_ms),
            ("idle_ms", self.idle_ms),
        ] {
            within(name, value, 1, DAY_MS)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn impossible_limits_are_refused() {
        Limits::default().check().unwrap();
        let e = Limits { agent_calls: 0, ..Limits::default() }.check().unwrap_err();
        assert_eq!(e.message, "limits.agent_calls: must be between 1 and 1000000");
        assert!(Limits { connections: usize::MAX, ..Limits::default() }.check().is_err());
        assert!(Limits { idle_ms: u64::MAX, ..Limits::default() }.check().is_err());
        assert!(Limits { header_size: 1, ..Limits::default() }.check().is_err());
    }
}
