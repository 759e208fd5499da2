//! The API's address and key: from flags, then from the sources of the public Python SDK (its two variables and its
//! configuration file), then from this user's installation on this machine.

use super::{Failure, Outcome};
use clap::Args;
use hoistway_kit::config;
use hoistway_model::Secret;
use serde::Deserialize;
use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
};
use url::{Host, Url};

/// The default address of `hoistway up`; the SDK's default too.
const DEFAULT_ENDPOINT: &str = "http://localhost:8092";

/// The options for access to the API.
#[derive(Args, Debug, Clone, Default)]
pub struct Access {
    /// The API's address [default: $RUNAGENTS_ENDPOINT, ~/.runagents/config.json, http://localhost:8092]
    #[arg(long, value_name = "URL", global = true)]
    pub endpoint: Option<String>,
    /// A file with the API key [default: $RUNAGENTS_API_KEY, ~/.runagents/config.json, this user's local installation]
    #[arg(long, value_name = "FILE", global = true)]
    pub api_key_file: Option<PathBuf>,
}

/// An address and the key for it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Everything before `/agents`: it ends with `/api`, `/api/v1` or a workspace's path, without a slash.
    pub base: Url,
    /// The key, if there is one.
    pub key: Option<Secret>,
    /// Whether the key is the one in the data directory, which is sent to its own installation only.
    pub is_own_key: bool,
}

/// The fields of the SDK's configuration file that are read.
#[derive(Deserialize, Default)]
#[serde(default)]
struct SdkConfig {
    endpoint: String,
    api_key: String,
}

impl Access {
    /// Finds the endpoint and the key.
    pub fn find(&self) -> Outcome<Target> {
        let config = sdk_config();
        let endpoint = self
            .endpoint
            .clone()
            .or_else(|| variable("RUNAGENTS_ENDPOINT"))
            .or_else(|| Some(config.endpoint).filter(|text| !text.is_empty()))
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let base = base_url(&endpoint)?;
        let given = match &self.api_key_file {
            Some(file) => Some(read_secret("the API key", file)?),
            None => variable("RUNAGENTS_API_KEY")
                .or_else(|| Some(config.api_key).filter(|text| !text.is_empty()))
                .map(|text| Secret::new(text.trim().to_owned())),
        };
        if given.is_some() || !is_loopback(&base) {
            return Ok(Target { base, key: given, is_own_key: false });
        }
        let own = local_key_file().and_then(|file| read_secret("the API key", &file).ok());
        Ok(Target { base, is_own_key: own.is_some(), key: own })
    }
}

/// Whether an address is this machine's own; no proxy is used for such an address.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        None => false,
    }
}

fn base_url(endpoint: &str) -> Outcome<Url> {
    let wrong = |why: String| Failure::usage(format!("\"{endpoint}\" is not an endpoint: {why}"));
    let mut url = Url::parse(endpoint.trim()).map_err(|e| wrong(format!("{e}; it looks like {DEFAULT_ENDPOINT}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong(format!("it looks like {DEFAULT_ENDPOINT}")));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if path.ends_with("/api") || path.contains("/api/v1") { path } else { format!("{path}/api") };
    url.set_path(&path);
    url.set_query(None);
    Ok(url)
}

fn sdk_config() -> SdkConfig {
    let file = env::var_os("HOME").map(|home| Path::new(&home).join(".runagents/config.json"));
    let text = file.and_then(|file| fs::read_to_string(file).ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn local_key_file() -> Option<PathBuf> {
    let dir = config::data_dir(env::var_os("HOISTWAY_DATA_DIR").map(PathBuf::from)).ok()?;
    Some(dir.join("api-key"))
}

/// Returns the token of the user on whose behalf an agent is invoked: from `file`, else from the environment.
pub fn user_token(file: Option<&Path>) -> Outcome<Option<Secret>> {
    match file {
        Some(file) => read_secret("the user's token", file).map(Some),
        None => Ok(variable("HOISTWAY_USER_TOKEN").map(|text| Secret::new(text.trim()))),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.trim().is_empty())
}

fn read_secret(what: &str, file: &Path) -> Outcome<Secret> {
    let text = fs::read_to_string(file)
        .map_err(|e| Failure::usage(format!("{what} cannot be read from {}: {e}", file.display())))?;
    Ok(Secret::new(text.trim()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn endpoints_as_the_sdk_takes_them() {
        for (given, base) in [
            ("http://localhost:8092", "http://localhost:8092/api"),
            ("http://localhost:8092/", "http://localhost:8092/api"),
            ("https://h.example/api/v1/", "https://h.example/api/v1"),
            ("https://h.example/api", "https://h.example/api"),
            ("https://h.example/hoistway", "https://h.example/hoistway/api"),
        ] {
            assert_eq!(base_url(given).unwrap().as_str(), base);
        }
        for bad in ["localhost:8092", "ftp://x", "", "/api"] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_local_key_is_for_loopback_only() {
        let loopback = |text: &str| is_loopback(&base_url(text).unwrap());
        assert!(loopback("http://localhost:1") && loopback("http://127.8.0.1:1") && loopback("http://[::1]:1"));
        assert!(!loopback("http://10.0.0.1:1") && !loopback("https://localhost.example"));
    }
}
