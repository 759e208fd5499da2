//! Scheme, host and port in one normal form: whatever way a client writes an address, it is compared and dialled in
//! this one.

use hoistway_model::{Error, Result, public_model_apis::MODEL_APIS, tool::Scheme};
use http::uri::Authority;
use std::fmt;
use url::{Host, Url};

/// A host in its normal form: lower case, ASCII, IPv4 addresses in four decimal parts, no dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName(Host<String>);

impl HostName {
    /// Reads a host as it is written in a URL, an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        // Nobody needs these here, and what is written in two ways is understood in two ways.
        if text.is_empty() || text.contains(['%', '@']) {
            return None;
        }
        let host = Host::parse(text).ok()?;
        match &host {
            Host::Domain(name) if name.is_empty() || name.ends_with('.') => None,
            _ => Some(Self(host)),
        }
    }

    /// The name or address, without brackets.
    pub fn bare(&self) -> String {
        match &self.0 {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        }
    }

    /// The address, when it is one.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match &self.0 {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some((*ip).into()),
            Host::Ipv6(ip) => Some((*ip).into()),
        }
    }

    /// Whether it means this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_loopback()) || self.0 == Host::Domain("localhost".to_owned())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: HostName,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `HOST` or `HOST:PORT`, without a user.
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        let authority: Authority = text.parse().ok()?;
        let port = match text.rsplit_once(':').map(|(_, port)| port) {
            Some(port) if !port.contains(']') => {
                let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                port.parse().ok().filter(|&port: &u16| digits && port != 0)?
            }
            _ => default_port?,
        };
        if text.contains('@') {
            return None;
        }
        Some(Self { host: HostName::parse(authority.host())?, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// HTTP or HTTPS.
    pub scheme: Scheme,
    /// Host and port.
    pub place: HostPort,
}

impl Origin {
    /// Whether clients of models call this origin by default.
    pub(crate) fn is_public_model_api(&self) -> bool {
        let text = self.to_string();
        MODEL_APIS.iter().any(|api| api.origin == text)
    }

    /// The origin of a base URL, and its path without a slash at the end. Users, queries and fragments are refused.
    pub fn of_url(text: &str) -> Result<(Self, String)> {
        let wrong = |why: &str| Error::field("base_url", why);
        let url = Url::parse(text).map_err(|e| wrong(&format!("is not a URL: {e}")))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must have neither user, nor query, nor fragment"));
        }
        let host = url.host_str().and_then(HostName::parse).ok_or_else(|| wrong("has no usable host"))?;
        let port = url.port().unwrap_or(scheme.default_port());
        Ok((Self { scheme, place: HostPort { host, port } }, url.path().trim_end_matches('/').to_owned()))
    }

    /// `HOST` or `HOST:PORT`, the port only where the scheme does not mean it anyway.
    pub(crate) fn authority(&self) -> String {
        match self.place.port == self.scheme.default_port() {
            true => self.place.host.to_string(),
            false => self.place.to_string(),
        }
    }
}

/// A base URL without its query: calls bring queries of their own.
pub(crate) fn without_query(base_url: &str) -> Result<String> {
    let mut url = Url::parse(base_url).map_err(|e| Error::field("base_url", format!("is not a URL: {e}")))?;
    url.set_query(None);
    Ok(url.into())
}

/// The scheme as it is written in URLs.
pub(crate) const fn scheme_text(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", scheme_text(self.scheme), self.authority())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_spelling_of_a_host_is_one() {
        for (text, normal) in [
            ("API.Stripe.com", "api.stripe.com"),
            ("api.stripe.com.", "api.stripe.com"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("[::FFFF:127.0.0.1]", "[::ffff:7f00:1]"),
            ("tool_registry", "tool_registry"),
        ] {
            assert_eq!(HostName::parse(text).unwrap().to_string(), normal);
        }
        for bad in ["", ".", "a b", "a%2eb", "a..", "a@b", "1.2.3.4.5", "::1", "a/b"] {
            assert_eq!(HostName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn authorities_are_normalised() {
        let place = |text: &str| HostPort::parse(text, Some(443)).map(|place| place.to_string());
        assert_eq!(place("a.example").as_deref(), Some("a.example:443"));
        assert_eq!(place("A.example:80").as_deref(), Some("a.example:80"));
        assert_eq!(place("[::1]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(place("[::1]").as_deref(), Some("[::1]:443"));
        for bad in ["", ":80", "a:", "a:0", "a:65536", "a:+80", "u@a", "u:p@a:80", "a:80:90", "a/b"] {
            assert_eq!(place(bad), None, "{bad}");
        }
        assert_eq!(HostPort::parse("a", None), None);
    }

    #[test]
    fn base_urls_are_split_into_origin_and_path() {
        let (origin, prefix) = Origin::of_url("https://API.example:443/v1/").unwrap();
        assert_eq!((origin.to_string().as_str(), prefix.as_str()), ("https://api.example", "/v1"));
        let (origin, prefix) = Origin::of_url("http://[::1]:8080").unwrap();
        assert_eq!((origin.to_string().as_str(), prefix.as_str()), ("http://[::1]:8080", ""));
        for bad in ["", "a", "ftp://a", "http://u@a", "http://a/?x", "http://a/#x", "http:///x%"] {
            assert!(Origin::of_url(bad).is_err(), "{bad}");
        }
    }
}
