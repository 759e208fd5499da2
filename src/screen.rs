//! What `hoistway up` says once it is ready.

use hoistway_agent::runtime::Isolation;
use std::{fmt, net::SocketAddr, path::PathBuf};

/// Where everything is.
#[derive(Debug)]
pub struct Screen {
    /// The HTTP API's addresses.
    pub api: Vec<SocketAddr>,
    /// The file with the API key.
    pub api_key_file: PathBuf,
    /// `host:port` of the registry.
    pub registry: String,
    /// Where the data is.
    pub data_dir: PathBuf,
    /// The interpreter, as `3.11 at /usr/bin/python3.11`.
    pub python: String,
    /// Why packages cannot be installed, if they cannot.
    pub no_packages: Option<String>,
    /// The gRPC services by name.
    pub services: Vec<(&'static str, SocketAddr)>,
    /// What keeps agents from harming the machine, as enforced.
    pub isolation: Isolation,
    /// How many agents are being started again.
    pub agents: usize,
}

impl fmt::Display for Screen {
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

impl Screen {
    /// The API's URL as a user on this machine types it.
    pub fn url(&self) -> String {
        let at = self.api.first();
        let port = at.map_or(0, SocketAddr::port);
        match at {
            Some(addr) if !addr.ip().is_loopback() && !addr.ip().is_unspecified() => format!("http://{addr}/api"),
            _ => format!("http://localhost:{port}/api"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_command_can_be_pasted() {
        let screen = Screen {
            api: vec![SocketAddr::from(([127, 0, 0, 1], 8092))],
            api_key_file: "/data/api-key".into(),
            registry: "127.0.0.1:5001".into(),
            data_dir: "/data".into(),
            python: "3.11 at /usr/bin/python3.11".into(),
            no_packages: Some("packages cannot be installed".into()),
            services: vec![("build", SocketAddr::from(([127, 0, 0, 1], 5002)))],
            isolation: Isolation::none(),
            agents: 2,
        };
        let text = screen.to_string();
        assert!(text.contains("http://localhost:8092/api/deploy"), "{text}");
        assert!(text.contains("  docs       http://localhost:8092/docs\n"), "{text}");
        assert!(text.contains("not sandboxed; network: open"), "{text}");
        let body = text.split("-d '").nth(1).and_then(|t| t.split('\'').next()).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(body["source_files"]["agent.py"], "def handler(message):\n    return \"Hello, \" + message\n");
    }
}
