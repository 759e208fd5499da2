//! Where the built-in tool is, as users and as agents reach it. Ports and hosts may change from start to start, so
//! these addresses are applied when a tool is shown and never stored.

use crate::stored_tool::{Builtin, Content, StoredTool};
use hoistway_model::{
    Code, Error, Result,
    tool::{AuthType, Connection, Scheme, Tool},
};
use std::net::{IpAddr, SocketAddr};
use url::Url;

/// The base URLs of this service's own HTTP port, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    public: Base,
    internal: Base,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    url: String,
    scheme: Scheme,
    port: u16,
}

impl Addresses {
    /// The configured ones, or else those that a listener at `http` has for a client on this machine.
    pub(crate) fn new(public: Option<&str>, internal: Option<&str>, http: SocketAddr) -> Result<Self> {
        let base = |key: &str, configured: Option<&str>| match configured {
            Some(text) => Base::parse(key, text),
            None if http.port() == 0 => Err(wrong(key, "is required when the HTTP port is 0")),
            None => Base::parse(key, &local_url(http)),
        };
        Ok(Self { public: base("public_url", public)?, internal: base("internal_url", internal.or(public))? })
    }

    /// A tool as it leaves the service.
    pub(crate) fn show(&self, tool: StoredTool) -> Tool {
        Tool {
            connection: self.public(&tool.content),
            internal_url: self.internal(&tool.content),
            has_credentials: tool.content.credentials.is_some(),
            credentials_set_at: tool.content.credentials.map(|sealed| sealed.set_at),
            version: tool.written_by,
            description: tool.content.description,
            name: tool.name,
            labels: tool.labels,
            created_at: tool.created_at,
            updated_at: tool.updated_at,
        }
    }

    /// The connection that the API's user sees.
    pub(crate) fn public(&self, content: &Content) -> Connection {
        match content.builtin {
            Some(Builtin::Echo) => Connection {
                base_url: self.public.url.clone(),
                port: self.public.port,
                scheme: self.public.scheme,
                ..content.connection.clone()
            },
            None => content.connection.clone(),
        }
    }

    /// The URL that agents use.
    pub(crate) fn internal(&self, content: &Content) -> String {
        match content.builtin {
            Some(Builtin::Echo) => self.internal.url.clone(),
            None => with_port(&content.connection),
        }
    }

    /// The connection that the starter kit registers.
    pub(crate) fn echo(&self) -> Connection {
        Connection {
            base_url: self.public.url.clone(),
            port: self.public.port,
            scheme: self.public.scheme,
            auth_type: AuthType::None,
            api_key: None,
            oauth2: None,
        }
    }
}

impl Base {
    fn parse(key: &str, text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|e| wrong(key, format!("is not a URL: {e}")))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(wrong(key, format!("\"{other}\" is neither http nor https"))),
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(key, "must be a base URL without path, query and fragment"));
        }
        let port = url.port().unwrap_or(scheme.default_port());
        Ok(Self { url: url.as_str().trim_end_matches('/').to_owned(), scheme, port })
    }
}

fn wrong(key: &str, message: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidArgument, format!("{key}: {message}"))
}

/// Wildcard and loopback listeners are reached as `localhost` on this machine, over IPv4 and IPv6 alike.
fn local_url(http: SocketAddr) -> String {
    let ip = http.ip();
    let host = match ip {
        _ if ip.is_unspecified() || ip.is_loopback() => "localhost".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    format!("http://{host}:{}", http.port())
}

/// The base URL with the tool's port, where that is not the one that the URL means anyway.
pub(crate) fn with_port(connection: &Connection) -> String {
    let text = &connection.base_url;
    match Url::parse(text) {
        Ok(mut url) if url.port_or_known_default() != Some(connection.port) => {
            // It fails only for URLs without a host, which no tool has.
            let _ = url.set_port(Some(connection.port));
            let url = String::from(url);
            // A path that the text does not have is not added.
            if text.ends_with('/') { url } else { url.trim_end_matches('/').to_owned() }
        }
        _ => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addresses(public: Option<&str>, internal: Option<&str>, http: &str) -> Result<Addresses> {
        Addresses::new(public, internal, http.parse().unwrap())
    }

    #[test]
    fn configured_urls_win_and_internal_falls_back_to_public() {
        let both = addresses(Some("https://hoist.example"), Some("http://tool-registry:8094/"), "0.0.0.0:0").unwrap();
        assert_eq!(both.echo().base_url, "https://hoist.example");
        assert_eq!((both.echo().port, both.echo().scheme), (443, Scheme::Https));
        assert_eq!(both.internal.url, "http://tool-registry:8094");
        let one = addresses(Some("http://box:81"), None, "0.0.0.0:0").unwrap();
        assert_eq!(one.internal, one.public);
    }

    #[test]
    fn a_port_beside_the_url_is_part_of_what_agents_use() {
        let at = |base_url: &str, port| {
            let scheme = if base_url.starts_with("https") { Scheme::Https } else { Scheme::Http };
            let base_url = base_url.to_owned();
            with_port(&Connection { base_url, port, scheme, auth_type: AuthType::None, api_key: None, oauth2: None })
        };
        assert_eq!(at("https://a.example", 8443), "https://a.example:8443");
        assert_eq!(at("https://a.example/v1/", 8443), "https://a.example:8443/v1/");
        assert_eq!(at("https://a.example/v1", 443), "https://a.example/v1");
        assert_eq!(at("http://a.example:9000", 9000), "http://a.example:9000");
    }

    #[test]
    fn listeners_give_urls_of_this_machine() {
        for (http, url) in [
            ("0.0.0.0:8094", "http://localhost:8094"),
            ("[::1]:8094", "http://localhost:8094"),
            ("192.0.2.7:80", "http://192.0.2.7"),
            ("[2001:db8::1]:81", "http://[2001:db8::1]:81"),
        ] {
            assert_eq!(addresses(None, None, http).unwrap().public.url, url);
        }
    }

    #[test]
    fn invalid_base_urls_are_refused_by_setting_name() {
        for bad in ["", "localhost:1", "ftp://x", "http://x/echo", "http://x/?a", "http://x/#a"] {
            let e = addresses(None, Some(bad), "127.0.0.1:1").unwrap_err();
            assert!(e.message.starts_with("internal_url: "), "{e}");
        }
        assert!(addresses(None, None, "127.0.0.1:0").is_err());
    }
}
