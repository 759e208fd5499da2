//! The text that `hoistway up` prints once it is ready.

use super::DEFAULT_PORT;
use hoistway_agent::runtime::Isolation;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// The facts shown in the banner.
#[derive(Debug)]
pub struct StartupBanner {
    /// The HTTP API's addresses.
    pub api: Vec<SocketAddr>,
    /// Whether other machines reach it with TLS.
    pub has_tls: bool,
    /// The file with the API key.
    pub api_key_file: PathBuf,
    /// `host:port` of the registry.
    pub registry: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Whether the data directory is the default of the command line.
    pub is_default_dir: bool,
    /// The interpreter, as `3.11 at /usr/bin/python3.11`.
    pub python: String,
    /// The reason for which packages cannot be installed, if they cannot.
    pub no_packages: Option<String>,
    /// The gRPC services by name.
    pub services: Vec<(&'static str, SocketAddr)>,
    /// The isolation of agents, as enforced.
    pub isolation: Isolation,
    /// The number of agents that are being started again.
    pub agents: usize,
}

impl fmt::Display for StartupBanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url();
        let key = self.api_key_file.display();
        let grpc: Vec<String> = self.services.iter().map(|(name, at)| format!("{name} {at}")).collect();
        writeln!(f, "Hoistway is ready.\n")?;
        writeln!(f, "  API        {url}   (and /api/v1)")?;
        writeln!(f, "  docs       {}/docs", url.trim_end_matches("/api"))?;
        writeln!(f, "  API key    {key}")?;
        writeln!(f, "  registry   {}", self.registry)?;
        writeln!(f, "  data       {}", self.data_dir.display())?;
        writeln!(f, "  Python     {}", self.python)?;
        if let Some(why) = &self.no_packages {
            writeln!(f, "             {why}")?;
        }
        writeln!(f, "  gRPC       {}", grpc.join(", "))?;
        writeln!(f, "  agents     {}; network: {}", self.isolation.enforced, self.isolation.network)?;
        writeln!(f, "             each at most: {}", self.isolation.limits)?;
        for note in &self.isolation.notes {
            writeln!(f, "             {note}")?;
        }
        if !self.isolation.is_sandboxed() {
            writeln!(f, "             deploy only code that you would run yourself")?;
        }
        if self.agents > 0 {
            writeln!(f, "             {} being started again", self.agents)?;
        }
        writeln!(f, "\nTry it in another terminal:\n")?;
        writeln!(f, "  export RUNAGENTS_API_KEY=$(cat '{key}')")?;
        writeln!(f, "  curl -sS {url}/deploy -H \"Authorization: Bearer $RUNAGENTS_API_KEY\" -d '{{")?;
        writeln!(f, "    \"agent_name\": \"hello\",")?;
        writeln!(
            f,
            "    \"source_files\": {{\"agent.py\": \"def handler(message):\\n    return \\\"Hello, \\\" + message\\n\"}}"
        )?;
        writeln!(f, "  }}'")?;
        writeln!(f, "  curl -sS {url}/agents/hello/invoke -H \"Authorization: Bearer $RUNAGENTS_API_KEY\" \\")?;
        writeln!(f, "    -d '{{\"message\": \"world\"}}'")?;
        write!(f, "\nCtrl-C stops it; agents come back with the next start.")
    }
}

impl StartupBanner {
    /// Returns the API's URL for a user on this machine.
    pub fn url(&self) -> String {
        let at = self.api.first();
        let port = at.map_or(0, SocketAddr::port);
        match at {
            Some(addr) if self.has_tls && !addr.ip().is_loopback() && !addr.ip().is_unspecified() => {
                format!("https://{addr}/api")
            }
            Some(addr) if !is_localhost(addr.ip()) => format!("http://{addr}/api"),
            _ => format!("http://localhost:{port}/api"),
        }
    }

    /// Returns the exports that the command line needs in another terminal to find this installation; empty where it
    /// finds it by default.
    pub fn exports(&self) -> String {
        let mut lines = String::new();
        let url = self.url();
        let endpoint = url.trim_end_matches("/api");
        if endpoint != format!("http://localhost:{DEFAULT_PORT}") {
            lines.push_str(&format!("  export RUNAGENTS_ENDPOINT={endpoint}\n"));
        }
        // The key in the default directory is for addresses of this machine only.
        if !self.is_default_dir
            || self.api.first().is_some_and(|at| !at.ip().is_loopback() && !at.ip().is_unspecified())
        {
            lines.push_str(&format!("  export RUNAGENTS_API_KEY=$(cat '{}')\n", self.api_key_file.display()));
        }
        lines
    }
}

/// Whether `localhost` leads to an address: it is one of the two loopback addresses or the unspecified one.
fn is_localhost(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST) || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn banner(api: &str, is_default_dir: bool) -> StartupBanner {
        StartupBanner {
            api: vec![api.parse().unwrap()],
            has_tls: false,
            api_key_file: "/data/api-key".into(),
            registry: "127.0.0.1:5001".into(),
            data_dir: "/data".into(),
            is_default_dir,
            python: "3.11 at /usr/bin/python3.11".into(),
            no_packages: Some("packages cannot be installed".into()),
            services: vec![("build", SocketAddr::from(([127, 0, 0, 1], 5002)))],
            isolation: Isolation::none(),
            agents: 2,
        }
    }

    #[test]
    fn the_command_line_is_told_what_it_does_not_find_by_itself() {
        let key = "  export RUNAGENTS_API_KEY=$(cat '/data/api-key')\n";
        for (api, is_default_dir, expected) in [
            ("127.0.0.1:8092", true, String::new()),
            ("0.0.0.0:8092", false, key.to_owned()),
            ("[::1]:8093", true, "  export RUNAGENTS_ENDPOINT=http://localhost:8093\n".to_owned()),
            ("127.0.0.2:8092", false, format!("  export RUNAGENTS_ENDPOINT=http://127.0.0.2:8092\n{key}")),
        ] {
            assert_eq!(banner(api, is_default_dir).exports(), expected, "{api}");
        }
        let with_tls = StartupBanner { has_tls: true, ..banner("10.1.2.3:8092", true) };
        assert_eq!(with_tls.url(), "https://10.1.2.3:8092/api");
        assert_eq!(StartupBanner { has_tls: true, ..banner("0.0.0.0:8092", true) }.url(), "http://localhost:8092/api");
        // The key of an installation in the default directory is for addresses of this machine only.
        assert!(banner("10.1.2.3:8092", true).exports().contains(key));
    }

    #[test]
    fn the_first_command_can_be_pasted() {
        let text = banner("127.0.0.1:8092", false).to_string();
        assert!(text.contains("http://localhost:8092/api/deploy"), "{text}");
        assert!(text.contains("  docs       http://localhost:8092/docs\n"), "{text}");
        assert!(text.contains("not sandboxed; network: open"), "{text}");
        let body = text.split("-d '").nth(1).and_then(|t| t.split('\'').next()).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(body["source_files"]["agent.py"], "def handler(message):\n    return \"Hello, \" + message\n");
    }
}
