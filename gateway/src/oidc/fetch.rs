//! Fetches an issuer's keys: from the provider's address, or from that in the issuer's OpenID configuration. No
//! redirect is followed, and the size and the time of a fetch are limited.

use super::keyset::KeySet;
use hoistway_kit::{
    address_scope::{AddressScope, Lookup, check_url},
    web::USER_AGENT,
};
use hoistway_model::error::innermost;
use reqwest::{Client, Response, redirect::Policy};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use tokio::{sync::OnceCell, time::timeout};
use url::{Host, Url};

/// The longest time of a fetch, its connection included.
const FETCH: Duration = Duration::from_secs(5);
/// The largest set of keys, and the largest configuration, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// The widest permitted addresses: a company's own issuer may be in its network or on this machine.
const FARTHEST: AddressScope = AddressScope::Private;

/// Hosts from which keys may be fetched without TLS, as `HOST` or `HOST:PORT`; this machine is always permitted.
#[derive(Debug, Clone, Default)]
pub struct PlainHosts(Arc<[String]>);

impl PlainHosts {
    /// Returns these hosts.
    pub fn new(hosts: &[String]) -> Self {
        Self(hosts.iter().map(|host| host.trim().to_ascii_lowercase()).collect())
    }

    /// Whether keys may come from `url`: keys from an unencrypted connection could be forged.
    pub fn allow(&self, url: &Url) -> bool {
        url.scheme() == "https" || url.scheme() == "http" && (is_loopback(url) || self.name(url))
    }

    fn name(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
        let with_port = format!("{host}:{port}");
        self.0.iter().any(|named| *named == host || *named == with_port)
    }
}

/// Whether `url` is on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// A fetcher of keys.
#[derive(Debug, Default)]
pub struct Fetcher {
    plain: PlainHosts,
    /// The client for this machine, and that for all other hosts, which may use the operator's proxy. Created at the
    /// first use: that reads the machine's certificates.
    clients: OnceCell<(Client, Client)>,
}

/// The result of a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// The keys.
    pub keys: KeySet,
    /// The time for which the issuer permits caching them.
    pub max_age: Option<Duration>,
}

/// The relevant part of an OpenID configuration.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// Returns a fetcher that uses plain HTTP only for this machine and `plain`.
    pub fn new(plain: PlainHosts) -> Self {
        Self { plain, clients: OnceCell::new() }
    }

    /// Returns the hosts that may be used without TLS.
    pub fn plain_hosts(&self) -> &PlainHosts {
        &self.plain
    }

    /// Returns the keys of `issuer`, from `jwks_uri` unless that is empty. The error is for those who registered the
    /// provider.
    pub async fn fetch(&self, issuer: &str, jwks_uri: &str) -> Result<Fetched, String> {
        let fetched = timeout(FETCH, async {
            if !jwks_uri.is_empty() {
                return self.keys(jwks_uri).await;
            }
            let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let (bytes, _) = self.get(&at).await?;
            let found: Discovery = serde_json::from_slice(&bytes)
                .map_err(|_| format!("{at} is not an OpenID configuration with an issuer and a jwks_uri"))?;
            // Otherwise anyone who can put a file there could impersonate another issuer.
            if found.issuer != issuer {
                return Err(format!("{at} is the configuration of another issuer"));
            }
            self.keys(&found.jwks_uri).await
        });
        fetched.await.unwrap_or_else(|_| Err(format!("there was no answer within {} s", FETCH.as_secs())))
    }

    async fn keys(&self, at: &str) -> Result<Fetched, String> {
        let (bytes, max_age) = self.get(at).await?;
        let keys = KeySet::parse(&bytes).map_err(|why| format!("{at}: {why}"))?;
        Ok(Fetched { keys, max_age })
    }

    async fn get(&self, at: &str) -> Result<(Vec<u8>, Option<Duration>), String> {
        let url = Url::parse(at).map_err(|_| format!("{at} is not a URL"))?;
        if !self.plain.allow(&url) {
            return Err(format!("{at} does not begin with https://"));
        }
        check_url(&url, FARTHEST).map_err(|why| format!("{at} is not asked: {why}"))?;
        let (here, elsewhere) = self.clients.get_or_try_init(clients).await?;
        let client = if is_loopback(&url) { here } else { elsewhere };
        let sent = client.get(url).header(http::header::ACCEPT, "application/json").send().await;
        let answer = sent.map_err(|e| format!("{at} cannot be fetched: {}", innermost(&e)))?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("{at} answered with HTTP status {}", answer.status().as_u16()));
        }
        let max_age = max_age(&answer);
        Ok((body(answer, at).await?, max_age))
    }
}

async fn clients() -> Result<(Client, Client), String> {
    let make = || {
        // The TLS library uses the process's default provider; only the first call sets it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lookup = Arc::new(Lookup(FARTHEST));
        let client = || Client::builder().redirect(Policy::none()).dns_resolver(lookup.clone()).user_agent(USER_AGENT);
        Ok::<_, reqwest::Error>((client().no_proxy().build()?, client().build()?))
    };
    let made = tokio::task::spawn_blocking(make).await;
    made.map_err(|e| e.to_string())?.map_err(|e| format!("the HTTP client cannot be made: {}", innermost(&e)))
}

async fn body(mut answer: Response, at: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| format!("{at} broke off: {}", innermost(&e)))? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(format!("{at} answered with more than {} KiB", MAX_BYTES >> 10));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns `max-age` of `Cache-Control`, less the answer's age; zero when it must not be cached.
fn max_age(answer: &Response) -> Option<Duration> {
    let headers = answer.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let directives = || text(http::header::CACHE_CONTROL).unwrap_or_default().split(',').map(str::trim);
    if directives().any(|d| d.eq_ignore_ascii_case("no-store") || d.eq_ignore_ascii_case("no-cache")) {
        return Some(Duration::ZERO);
    }
    let seconds = directives().find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
    })?;
    let age = text(http::header::AGE).and_then(|age| age.trim().parse().ok()).unwrap_or(0);
    Some(Duration::from_secs(seconds.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_may_be_asked() {
        let hosts = PlainHosts::new(&["Keycloak:8080".to_owned(), "idp.internal".to_owned()]);
        let allow = |url: &str| hosts.allow(&url.parse().unwrap());
        for good in [
            "https://id.example.com/k",
            "https://10.0.0.7/k",
            "http://127.0.0.2:9/k",
            "http://[::1]/k",
            "http://localhost/k",
            "http://keycloak:8080/k",
            "http://idp.internal:81/k",
        ] {
            assert!(allow(good), "{good}");
        }
        for bad in ["http://id.example.com/k", "http://keycloak/k", "http://10.0.0.7/k", "ftp://localhost/k"] {
            assert!(!allow(bad), "{bad}");
        }
    }
}
