//! The environment of an agent: what the platform says, then what the user says, and the user wins. Nothing else of
//! the platform's own environment gets in.

use hoistway_model::{
    Secret,
    agent::{AgentSpec, LlmConfig},
    redact::MASK,
};
use std::collections::BTreeMap;

/// Stands where model clients insist on a key; only egress understands it.
pub const PLACEHOLDER_KEY: &str = "hoistway-placeholder";

/// Read by clients that trust what the operator's programs trust.
const CA_FILES: [&str; 2] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];
/// Read in both cases of letters by one client or another.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// What every agent of this installation is told.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Base URL of egress as agents reach it, without a path.
    pub egress_url: String,
    /// Variables of the operator that are passed on: CA files and, while agents' network is open, proxies.
    passed_on: Vec<(String, String)>,
}

impl Surroundings {
    /// Takes from the operator's environment (`vars`) what is passed on on purpose.
    pub fn new(egress_url: &str, vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars: BTreeMap<String, String> = vars.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut passed_on = Vec::new();
        if let Some(file) = vars.get(CA_FILES[0]) {
            passed_on.extend(CA_FILES.map(|name| (name.to_owned(), file.clone())));
        }
        let either = |name: &str| vars.get(&name.to_ascii_lowercase()).or_else(|| vars.get(name)).cloned();
        if either("HTTP_PROXY").or_else(|| either("HTTPS_PROXY")).is_some() {
            for name in PROXIES {
                let value = match (name, either(name)) {
                    ("NO_PROXY", given) => Some(without_proxy(given, egress_url)),
                    (_, given) => given,
                };
                if let Some(value) = value {
                    passed_on.push((name.to_owned(), value.clone()));
                    passed_on.push((name.to_ascii_lowercase(), value));
                }
            }
        }
        Self { egress_url: egress_url.trim_end_matches('/').to_owned(), passed_on }
    }

    /// The final environment, but for what only the runtime knows (`PORT`, `HOME`, …).
    pub fn of(&self, spec: &AgentSpec, entry_point: Option<&str>) -> Vec<(String, Secret)> {
        let platform = self.platform(spec, entry_point).into_iter();
        let passed_on = self.passed_on.iter().cloned();
        let mut vars: Vec<(String, Secret)> =
            platform.chain(passed_on).map(|(name, value)| (name, Secret::new(value))).collect();
        for var in &spec.env {
            vars.retain(|(name, _)| *name != var.name);
            vars.push((var.name.clone(), var.value.clone()));
        }
        vars
    }

    /// The same as it may be shown: the platform's variables as they are, the user's masked. What is passed on is the
    /// operator's and not shown.
    pub fn shown(&self, spec: &AgentSpec, entry_point: Option<&str>) -> Vec<(String, String)> {
        let mut vars = self.platform(spec, entry_point);
        for var in &spec.env {
            vars.retain(|(name, _)| *name != var.name);
            vars.push((var.name.clone(), MASK.to_owned()));
        }
        vars
    }

    fn platform(&self, spec: &AgentSpec, entry_point: Option<&str>) -> Vec<(String, String)> {
        let mut vars = vec![
            ("AGENT_NAME".to_owned(), spec.agent.to_string()),
            ("SYSTEM_PROMPT".to_owned(), spec.system_prompt.clone()),
        ];
        let mut set = |name: String, value: String| vars.push((name, value));
        if let Some(entry) = spec.entry_point.as_deref().or(entry_point) {
            set("USER_ENTRY_POINT".to_owned(), entry.to_owned());
        }
        for LlmConfig { role, provider, model } in &spec.llm {
            set(format!("LLM_MODEL{}", role.env_suffix()), model.clone());
            set(format!("LLM_PROVIDER{}", role.env_suffix()), provider.clone());
        }
        // What the public runtime appends to it is `/chat/completions`.
        set("LLM_GATEWAY_URL".to_owned(), format!("{}/v1", self.egress_url));
        set("OPENAI_BASE_URL".to_owned(), format!("{}/v1", self.egress_url));
        set("OPENAI_API_KEY".to_owned(), PLACEHOLDER_KEY.to_owned());
        set("ANTHROPIC_BASE_URL".to_owned(), self.egress_url.clone());
        set("ANTHROPIC_API_KEY".to_owned(), PLACEHOLDER_KEY.to_owned());
        let names: Vec<&str> = spec.tools.iter().map(|t| t.name.as_str()).collect();
        set("TOOL_NAMES".to_owned(), names.join(","));
        for tool in &spec.tools {
            if let Some(url) = &tool.url {
                set(format!("TOOL_URL_{}", tool.name.env_suffix()), url.clone());
            }
        }
        vars
    }
}

/// The operator's exceptions, and this machine and egress besides.
fn without_proxy(given: Option<String>, egress_url: &str) -> String {
    let authority = egress_url.split_once("://").map_or(egress_url, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split([':', '/']).next().unwrap_or_default(),
    };
    let mut hosts: Vec<&str> =
        given.iter().flat_map(|g| g.split(',')).map(str::trim).filter(|h| !h.is_empty()).collect();
    for host in ["localhost", "127.0.0.1", "::1", host] {
        if !host.is_empty() && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{
        Digest, Name,
        agent::{EnvVar, LlmRole},
        tool::BoundTool,
    };

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    fn spec() -> AgentSpec {
        let llm =
            |role, provider: &str, model: &str| LlmConfig { role, provider: provider.into(), model: model.into() };
        let tool = |n: &str, url: Option<&str>| BoundTool { name: name(n), url: url.map(str::to_owned) };
        let var = |n: &str, value: &str| EnvVar { name: n.into(), value: Secret::new(value) };
        AgentSpec {
            agent: name("payment-agent"),
            image: "r.example/a:1".parse().unwrap(),
            build_id: None,
            system_prompt: "Be kind.".into(),
            tools: vec![tool("stripe-api", Some("https://api.stripe.com")), tool("later", None)],
            llm: vec![llm(LlmRole::Chat, "openai", "gpt-4o"), llm(LlmRole::Reranking, "own", "rr")],
            env: vec![var("MODE", "secret-mode"), var("OPENAI_API_KEY", "sk-own"), var("EMPTY", "")],
            identity_provider: None,
            entry_point: None,
            fingerprint: Digest::of(b"x"),
        }
    }

    fn owned(vars: &[(&str, &str)]) -> Vec<(String, String)> {
        vars.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn the_whole_table() {
        let around = Surroundings::new("http://127.0.0.1:4000/", owned(&[("HOME", "/root"), ("HOISTWAY_X", "1")]));
        let vars: Vec<(String, String)> =
            around.of(&spec(), Some("agent.py")).into_iter().map(|(n, v)| (n, v.expose().to_owned())).collect();
        let expected = owned(&[
            ("AGENT_NAME", "payment-agent"),
            ("SYSTEM_PROMPT", "Be kind."),
            ("USER_ENTRY_POINT", "agent.py"),
            ("LLM_MODEL", "gpt-4o"),
            ("LLM_PROVIDER", "openai"),
            ("LLM_MODEL_RERANKING", "rr"),
            ("LLM_PROVIDER_RERANKING", "own"),
            ("LLM_GATEWAY_URL", "http://127.0.0.1:4000/v1"),
            ("OPENAI_BASE_URL", "http://127.0.0.1:4000/v1"),
            ("ANTHROPIC_BASE_URL", "http://127.0.0.1:4000"),
            ("ANTHROPIC_API_KEY", PLACEHOLDER_KEY),
            ("TOOL_NAMES", "stripe-api,later"),
            ("TOOL_URL_STRIPE_API", "https://api.stripe.com"),
            ("MODE", "secret-mode"),
            ("OPENAI_API_KEY", "sk-own"),
            ("EMPTY", ""),
        ]);
        assert_eq!(vars, expected);
    }

    #[test]
    fn what_is_shown_hides_the_users_values() {
        let around = Surroundings::new("http://127.0.0.1:4000", owned(&[("SSL_CERT_FILE", "/ca.pem")]));
        let shown = around.shown(&spec(), None);
        let get = |n: &str| shown.iter().find(|(name, _)| name == n).map(|(_, value)| value.as_str());
        assert_eq!(get("LLM_MODEL"), Some("gpt-4o"));
        assert_eq!((get("MODE"), get("OPENAI_API_KEY"), get("EMPTY")), (Some(MASK), Some(MASK), Some(MASK)));
        assert_eq!((get("SSL_CERT_FILE"), get("USER_ENTRY_POINT"), get("PORT")), (None, None, None));
        assert_eq!(get("ANTHROPIC_API_KEY"), Some(PLACEHOLDER_KEY));
    }

    #[test]
    fn ca_files_and_proxies_are_passed_on_on_purpose() {
        let vars = [("SSL_CERT_FILE", "/ca.pem"), ("https_proxy", "http://p:1"), ("NO_PROXY", "corp.example, ::1")];
        let around = Surroundings::new("http://agent-host:4000", owned(&vars));
        let none = "corp.example,::1,localhost,127.0.0.1,agent-host";
        let expected = owned(&[
            ("SSL_CERT_FILE", "/ca.pem"),
            ("REQUESTS_CA_BUNDLE", "/ca.pem"),
            ("HTTPS_PROXY", "http://p:1"),
            ("https_proxy", "http://p:1"),
            ("NO_PROXY", none),
            ("no_proxy", none),
        ]);
        assert_eq!(around.passed_on, expected);
        let none = Surroundings::new("http://127.0.0.1:4000", owned(&[("NO_PROXY", "x"), ("SSL_CERT_FILE", "")]));
        assert!(none.passed_on.is_empty());
    }
}
