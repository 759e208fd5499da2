//! The host names and ports that agents connect to by name.

use hoistway_model::{agent::AgentSpec, public_model_apis::MODEL_APIS};
use url::{Host, Url};

/// A host name and a port that an agent may connect to as if its tool, or the API of its models, were there: egress
/// answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Those of an agent: its tools, as far as they have names, and the public APIs of models, so that programs which
    /// have their addresses in the code work unchanged.
    pub fn all_of(spec: &AgentSpec) -> Vec<Self> {
        let tools = spec.tools.iter().filter_map(|tool| tool.url.as_deref());
        tools.chain(MODEL_APIS.iter().map(|api| api.origin)).filter_map(Self::of_url).collect()
    }

    /// Reads the base URL of a tool. `None` for a tool at an IP address or at `localhost`: its address means the
    /// agent's own network, so it is reached through the proxy variables or `TOOL_URL_<NAME>` only.
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

/// Whether a name is valid in a hosts file: anything else could be read as two entries.
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
            assert_eq!(Endpoint::of_url(url), Some(Endpoint { host: host.to_owned(), port }), "{url}");
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
            assert_eq!(Endpoint::of_url(url), None, "{url}");
        }
    }
}
