//! The connection of a tool, as the deploy call and `POST /tools` both receive it: a base URL, with a port, a scheme
//! and a kind of credential beside it.

use hoistway_model::{
    Error, Result,
    error::excerpt,
    limits::MAX_URL,
    tool::{AuthType, Connection, Scheme},
};
use std::str::FromStr;
use url::Url;

/// The port and scheme that are the reference's defaults. Clients that always send them do not choose them, so they
/// never contradict a base URL that differs.
const DEFAULT_PORT: i64 = 443;

/// The members of a request about a tool's connection, with their paths there.
#[derive(Debug)]
pub struct ConnectionInput {
    /// The path of the base URL, and the URL.
    pub base_url: (String, String),
    /// The path of the port, and the port if it was given.
    pub port: (String, Option<i64>),
    /// The path of the scheme, and the scheme if it was given.
    pub scheme: (String, Option<String>),
    /// The path of the kind of credential, and the kind if it was given.
    pub auth_type: (String, Option<String>),
}

impl ConnectionInput {
    /// Checks all members, and that they do not contradict each other.
    pub fn check(self) -> Result<Connection> {
        let (url_path, base_url) = self.base_url;
        let url = http_url(&url_path, &base_url)?;
        let auth_type = one_of::<AuthType>(&self.auth_type.0, self.auth_type.1.as_deref())?.unwrap_or_default();
        let scheme = one_of::<Scheme>(&self.scheme.0, self.scheme.1.as_deref())?;
        let (port_path, port) = self.port;
        if let Some(port) = port.filter(|port| !(1..=65_535).contains(port)) {
            return Err(Error::field(port_path, format!("{port} is not a port; 1 to 65535 are")));
        }

        let in_url = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
        if scheme.is_some_and(|scheme| scheme != in_url && scheme != Scheme::default()) {
            let message = format!("{} contradicts the base URL, which says {}", Scheme::Http.as_str(), in_url.as_str());
            return Err(Error::field(self.scheme.0, message));
        }
        let from_url = url.port().unwrap_or(in_url.default_port());
        let port = match port {
            None | Some(DEFAULT_PORT) => from_url,
            Some(port) if names_port(&base_url) && port != i64::from(from_url) => {
                let message = format!("{port} contradicts the base URL, which says {from_url}");
                return Err(Error::field(port_path, message));
            }
            Some(port) => u16::try_from(port).unwrap_or(from_url),
        };
        Ok(Connection { base_url, port, scheme: in_url, auth_type, api_key: None, oauth2: None })
    }
}

/// Parses an absolute HTTP URL without any secret in it.
pub fn http_url(path: &str, text: &str) -> Result<Url> {
    let wrong = |why: &str| Error::field(path, why);
    if text.len() > MAX_URL {
        return Err(wrong(&format!("{} bytes are too many, {MAX_URL} is the limit", text.len())));
    }
    // The text is stored unchanged, so everything that the parser would silently correct is refused.
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(wrong(&format!("\"{}\" is not a URL: it has spaces or backslashes", excerpt(text))));
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // The parser takes "http:///x" for "http://x".
    let has_authority = text.split_once("://").is_some_and(|(_, rest)| !rest.starts_with(['/', '?', '#']));
    let Some(url) = url.filter(|_| has_authority) else {
        return Err(wrong(&format!("\"{}\" is not a URL that begins with http:// or https://", excerpt(text))));
    };
    if url.domain().is_some_and(|domain| domain.trim_end_matches('.').split('.').any(str::is_empty)) {
        return Err(wrong(&format!("\"{}\" has a host with an empty part", excerpt(text))));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("must not have a user name or password in it; give a credential instead"));
    }
    if url.fragment().is_some() {
        return Err(wrong("must not have a fragment (#…)"));
    }
    Ok(url)
}

/// Whether the URL itself contains a port, even its scheme's default, which the parser drops.
fn names_port(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after_host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

/// Parses one of an enumeration's values, in any letter case; blank counts as absent.
pub fn one_of<T: FromStr<Err = String>>(path: &str, text: Option<&str>) -> Result<Option<T>> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    text.map(|text| {
        let end = text.char_indices().nth(100).map_or(text.len(), |(at, _)| at);
        text[..end].parse().map_err(|why| Error::field(path, why))
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(url: &str, port: Option<i64>, scheme: Option<&str>) -> Result<(u16, &'static str), String> {
        let given = ConnectionInput {
            base_url: ("t.base_url".into(), url.into()),
            port: ("t.port".into(), port),
            scheme: ("t.scheme".into(), scheme.map(Into::into)),
            auth_type: ("t.auth_type".into(), Some("apikey".into())),
        };
        match given.check() {
            Ok(c) => {
                assert_eq!((c.base_url.as_str(), c.auth_type), (url, AuthType::ApiKey));
                Ok((c.port, c.scheme.as_str()))
            }
            Err(e) => Err(e.message),
        }
    }

    #[test]
    fn port_and_scheme_come_from_the_base_url() {
        for (url, port, scheme, want) in [
            ("https://a.example", None, None, (443, "HTTPS")),
            ("http://a.example", None, None, (80, "HTTP")),
            ("http://a.example:9000/x", None, None, (9000, "HTTP")),
            ("https://a.example:9000", None, Some("https"), (9000, "HTTPS")),
            ("http://[::1]:9000", None, None, (9000, "HTTP")),
            // A client's defaults have no effect.
            ("http://a.example:9000", Some(443), Some("HTTPS"), (9000, "HTTP")),
            ("http://a.example", Some(443), Some("HTTPS"), (80, "HTTP")),
            // A base URL without a port permits one beside it.
            ("http://a.example", Some(8080), Some("Http"), (8080, "HTTP")),
            ("https://[::1]/x:1", Some(8443), None, (8443, "HTTPS")),
            ("https://a.example:443", Some(443), None, (443, "HTTPS")),
        ] {
            assert_eq!(check(url, port, scheme), Ok(want), "{url} {port:?} {scheme:?}");
        }
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for (url, port, scheme, want) in [
            ("https://a.example:9000", Some(9001), None, "t.port: 9001 contradicts the base URL, which says 9000"),
            ("https://a.example:443", Some(9001), None, "t.port: 9001 contradicts the base URL, which says 443"),
            ("https://a.example", None, Some("HTTP"), "t.scheme: HTTP contradicts the base URL, which says HTTPS"),
            ("https://a.example", Some(70_000), None, "t.port: 70000 is not a port; 1 to 65535 are"),
            ("https://a.example", Some(0), None, "t.port: 0 is not a port; 1 to 65535 are"),
            ("https://a.example", None, Some("FTP"), "t.scheme: \"FTP\" is not one of HTTP, HTTPS"),
        ] {
            assert_eq!(check(url, port, scheme), Err(want.to_owned()), "{url} {port:?} {scheme:?}");
        }
        for url in [
            "not a url",
            "file:///etc/passwd",
            "a.example:9000",
            "localhost:9000",
            "//a.example",
            "http:a.example",
            "https://",
            "http:///x",
            "https://x..y",
            "https://.x",
            "https://u:p@a.example",
            "https://u@a.example",
            "https://a.example/#x",
            "https://a.example:99999",
            "https://a\\b",
            "ftp://a.example",
            " https://a.example",
            "https://a.example/\u{0}",
        ] {
            let e = check(url, None, None).unwrap_err();
            assert!(e.starts_with("t.base_url: ") && !e.contains("u:p"), "{url}: {e}");
        }
    }
}
