//! The host name and port of a tool, for agents that connect to it by name.

use url::{Host, Url};

/// A host name and a port that an agent may connect to as if it were its tool: egress answers there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ToolEndpoint {
    host: String,
    port: u16,
}

impl ToolEndpoint {
    /// Reads the base URL of a tool. `None` for a tool at an IP address or at `localhost`: its address means the agent's
    /// own network, so it is reached through the proxy variables or `TOOL_URL_<NAME>` only.
    pub fn of_url(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let port = url.port_or_known_default()?;
        let Host::Domain(name) = url.host()? else { return None };
        let host = name.strip_suffix('.').unwrap_or(name);
        let is_local = host == "localhost" || host.ends_with(".localhost");
        (fits_hosts_file(host) && !is_local).then(|| Self { host: host.to_owned(), port })
    }

    /// The host name, in lower case and ASCII.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Whether a name can stand in a hosts file: anything else could be read as two entries.
pub(crate) fn fits_hosts_file(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_has_a_host_name_and_a_port() {
        for (url, host, port) in [
            ("https://api.stripe.com", "api.stripe.com", 443),
            ("http://API.example.:8080/v1", "api.example", 8080),
            ("http://tool_registry", "tool_registry", 80),
            ("https://bücher.example", "xn--bcher-kva.example", 443),
        ] {
            assert_eq!(ToolEndpoint::of_url(url), Some(ToolEndpoint { host: host.to_owned(), port }), "{url}");
        }
    }

    #[test]
    fn addresses_local_names_and_what_no_hosts_file_can_hold_are_left_out() {
        for url in [
            "https://192.0.2.1",
            "https://0x7f.1",
            "http://[::1]:80",
            "http://localhost:8080",
            "http://echo.localhost",
            "http://a*b.example",
            "ftp://files.example",
            "mailto:a@mail.example",
            "",
        ] {
            assert_eq!(ToolEndpoint::of_url(url), None, "{url}");
        }
    }
}
