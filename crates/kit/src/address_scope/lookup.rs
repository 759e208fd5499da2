//! Resolves hosts to addresses that may be dialled. The checked address is the one that is dialled; there is no second
//! lookup.

use super::{AddressScope, scope};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The most addresses of one name that are checked.
const MAX_CHECKED: usize = 64;
/// The most addresses of one name that are tried.
const MAX_TRIED: usize = 8;

/// The reason why a host has no address that may be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAddress {
    /// The name has no address, or the lookup failed.
    Unknown(String),
    /// Every address is forbidden; this is the most public scope among them.
    Forbidden(AddressScope),
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoAddress::Unknown(e) => write!(f, "its name cannot be resolved: {e}"),
            NoAddress::Forbidden(AddressScope::Forbidden) => f.write_str("it is at an address that may not be asked"),
            NoAddress::Forbidden(_) => f.write_str("it is on this machine or in a private network"),
        }
    }
}

impl std::error::Error for NoAddress {}

/// Returns the addresses of a host that may be dialled, in order; at least one. The host is a name, or an address with
/// or without brackets; `most` is the least public scope allowed.
pub async fn addresses(host: &str, port: u16, most: AddressScope) -> Result<Vec<SocketAddr>, NoAddress> {
    let found: Vec<SocketAddr> = match literal(host) {
        Some(ip) => vec![(ip, port).into()],
        None => match tokio::net::lookup_host((host, port)).await {
            Ok(found) => found.take(MAX_CHECKED).collect(),
            Err(e) => return Err(NoAddress::Unknown(e.to_string())),
        },
    };
    let allowed = found.iter().filter(|address| scope(address.ip()) <= most);
    let allowed: Vec<SocketAddr> = allowed.take(MAX_TRIED).copied().collect();
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    match found.iter().map(|address| scope(address.ip())).min() {
        None => Err(NoAddress::Unknown("no address".into())),
        Some(reach) => Err(NoAddress::Forbidden(reach)),
    }
}

/// Checks a URL before an HTTP client follows it: a literal address is dialled without [`Lookup`]. Redirects need the
/// check again.
pub fn check_url(url: &Url, most: AddressScope) -> Result<(), NoAddress> {
    match url.host_str().and_then(literal).map(scope) {
        Some(reach) if reach > most => Err(NoAddress::Forbidden(reach)),
        _ => Ok(()),
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// [`addresses`] as the `dns_resolver` of an HTTP client. It resolves names only: see [`check_url`].
#[derive(Debug, Clone, Copy)]
pub struct Lookup(pub AddressScope);

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let most = self.0;
        Box::pin(async move { Ok(Box::new(addresses(name.as_str(), 0, most).await?.into_iter()) as Addrs) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn names_and_addresses_are_judged_alike() {
        for (host, most, expected) in [
            ("8.8.8.8", AddressScope::Public, Ok("8.8.8.8:80")),
            ("127.0.0.1", AddressScope::Private, Ok("127.0.0.1:80")),
            ("[::1]", AddressScope::Private, Ok("[::1]:80")),
            ("127.0.0.1", AddressScope::Public, Err(AddressScope::Private)),
            ("localhost", AddressScope::Public, Err(AddressScope::Private)),
            // The system's resolver parses these as addresses.
            ("2130706433", AddressScope::Public, Err(AddressScope::Private)),
            ("0xa9fea9fe", AddressScope::Private, Err(AddressScope::Forbidden)),
            ("169.254.169.254", AddressScope::Private, Err(AddressScope::Forbidden)),
            ("::ffff:169.254.169.254", AddressScope::Private, Err(AddressScope::Forbidden)),
            ("[fd00:ec2::254]", AddressScope::Private, Err(AddressScope::Forbidden)),
        ] {
            let found = addresses(host, 80, most).await.map(|found| found[0].to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(NoAddress::Forbidden), "{host}");
        }
        assert!(matches!(addresses("no.invalid", 80, AddressScope::Private).await, Err(NoAddress::Unknown(_))));
        let found = Lookup(AddressScope::Private).resolve("localhost".parse().unwrap()).await.ok().unwrap();
        assert!(found.into_iter().all(|address| address.ip().is_loopback()));
        assert!(Lookup(AddressScope::Public).resolve("localhost".parse().unwrap()).await.is_err());
    }

    #[test]
    fn addresses_in_urls_are_checked() {
        for (url, allowed) in [
            ("http://169.254.169.254/latest", false),
            ("http://[fd20:ce::254]/", false),
            ("http://[::ffff:a9fe:a9fe]/", false),
            ("http://2852039166/", false),
            ("https://10.0.0.7/", true),
            ("https://registry.example/", true),
        ] {
            assert_eq!(check_url(&url.parse().unwrap(), AddressScope::Private).is_ok(), allowed, "{url}");
        }
    }
}
