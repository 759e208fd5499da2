//! The environment of an agent: what the platform says, then what the user says, and the user wins. Nothing else of
//! the platform's own environment gets in.

use hoistway_kit::{address_scope::is_in, egress_auth::EgressKey};
use hoistway_model::{
    RevisionId, Secret,
    agent::{AgentSpec, EnvVar, LlmConfig},
    env::platform,
    public_model_apis::{ANTHROPIC, OPENAI, PLACEHOLDER_KEY, is_model_variable},
    redact::MASK,
};
use http::Uri;
use std::net::IpAddr;
use url::Url;

/// Each is read by one client or another.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
const NO_PROXIES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Where clouds keep the metadata of machines: egress never leads there.
const METADATA: &str = "169.254.169.254";
/// Without `::1`: httpx 0.24 makes no client where it is named.
const LOOPBACK: [&str; 2] = ["localhost", "127.0.0.1"];

/// The way in which agents reach egress.
#[derive(Debug, Clone)]
pub struct EgressAccess {
    /// Base URL of egress as agents reach it, without a path.
    pub url: String,
    /// Makes the token that says which revision calls; absent where the listener says it.
    pub key: Option<EgressKey>,
    /// Whether agents reach more than egress.
    pub open_network: bool,
}

/// The environment of every agent of this installation.
#[derive(Debug, Clone)]
pub struct AgentEnvironment {
    egress: EgressAccess,
}

impl AgentEnvironment {
    /// The environment of agents that reach egress so.
    pub fn new(egress: EgressAccess) -> Self {
        let url = egress.url.trim_end_matches('/').to_owned();
        Self { egress: EgressAccess { url, ..egress } }
    }

    /// The final environment, but for what only the runtime knows (`PORT`, `HOME`, …).
    pub fn of(&self, spec: &AgentSpec, entry_point: Option<&str>, revision: RevisionId) -> Vec<(String, Secret)> {
        let platform = self.platform(spec, entry_point).into_iter();
        let mut vars: Vec<(String, Secret)> = platform.map(|(name, value)| (name, Secret::new(value))).collect();
        // Some clients read the one case of letters and some the other: a user's own proxy is for all of them.
        let is_users = |name: &str| spec.config.env.iter().any(|var| var.name.eq_ignore_ascii_case(name));
        vars.extend(self.proxies(spec, revision).into_iter().filter(|(name, _)| !is_users(name)));
        // An empty key or address is none: clients of models refuse the one and call the other.
        let is_blank = |var: &EnvVar| is_model_variable(&var.name) && var.value.expose().trim().is_empty();
        for var in spec.config.env.iter().filter(|var| !is_blank(var)) {
            vars.retain(|(name, _)| *name != var.name);
            vars.push((var.name.clone(), var.value.clone()));
        }
        vars
    }

    /// The same as it may be shown: the platform's variables as they are, the user's masked unless they are no secrets.
    /// The proxy variables have the token in them and are not shown.
    pub fn shown(&self, spec: &AgentSpec, entry_point: Option<&str>) -> Vec<(String, String)> {
        let mut vars = self.platform(spec, entry_point);
        for var in &spec.config.env {
            vars.retain(|(name, _)| *name != var.name);
            let value = if var.is_shown() { var.value.expose() } else { MASK };
            vars.push((var.name.clone(), value.to_owned()));
        }
        vars
    }

    /// The variables that make clients call through egress.
    fn proxies(&self, spec: &AgentSpec, revision: RevisionId) -> Vec<(String, Secret)> {
        let url = match (&self.egress.key, self.egress.url.split_once("://")) {
            (Some(key), Some((scheme, authority))) => {
                Secret::new(format!("{scheme}://agent:{}@{authority}", key.mint(revision).expose()))
            }
            _ => Secret::new(self.egress.url.clone()),
        };
        let mut vars: Vec<(String, Secret)> = PROXIES.iter().map(|&name| (name.to_owned(), url.clone())).collect();
        let exceptions = self.no_proxy(spec);
        if !exceptions.is_empty() {
            vars.extend(NO_PROXIES.iter().map(|&name| (name.to_owned(), Secret::new(exceptions.clone()))));
        }
        vars
    }

    /// The hosts that are called without egress. In a network of the agent's own these are its own servers on loopback,
    /// where egress' base URLs are as well; a tool at such a name, or at one below it, which clients except along with
    /// it, is on the machine's loopback, to which only the proxy leads. On the machine's loopback base URLs need the
    /// token that goes to the proxy, so it is no exception there. An open network reaches more by itself: what egress
    /// does not lead to, and loopback where egress is elsewhere.
    fn no_proxy(&self, spec: &AgentSpec) -> String {
        if self.egress.key.is_none() {
            let tools: Vec<Url> = spec.tools.iter().filter_map(|tool| tool.url.as_ref()?.parse().ok()).collect();
            let hosts = || tools.iter().filter_map(Url::host_str).map(|host| host.strip_suffix('.').unwrap_or(host));
            let is_tool = |name: &str| hosts().any(|host| is_in(host, name));
            return LOOPBACK.into_iter().filter(|host| !is_tool(host)).collect::<Vec<_>>().join(",");
        }
        if !self.egress.open_network {
            return String::new();
        }
        let mut hosts = vec![METADATA];
        let uri: Option<Uri> = self.egress.url.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        if !ip.is_some_and(|ip| ip.is_loopback()) && host != "localhost" {
            hosts.extend(LOOPBACK);
        }
        hosts.join(",")
    }

    fn platform(&self, spec: &AgentSpec, entry_point: Option<&str>) -> Vec<(String, String)> {
        let mut vars = vec![(platform::AGENT_NAME.to_owned(), spec.agent.to_string())];
        let mut set = |name: String, value: String| vars.push((name, value));
        for (name, value) in spec.config.variables() {
            set(name.to_owned(), value.to_owned());
        }
        if let Some(entry) = spec.entry_point.as_deref().or(entry_point) {
            set(platform::USER_ENTRY_POINT.to_owned(), entry.to_owned());
        }
        for LlmConfig { role, provider, model } in &spec.config.llm {
            set(format!("{}{}", platform::LLM_MODEL, role.env_suffix()), model.clone());
            set(format!("{}{}", platform::LLM_PROVIDER, role.env_suffix()), provider.clone());
            // The model that OpenAI's Agents SDK asks for where an agent names no model.
            if role.env_suffix().is_empty() && !OPENAI.has_own_key(&spec.config.env) {
                set("OPENAI_DEFAULT_MODEL".to_owned(), model.clone());
            }
        }
        // The public runtime appends `/chat/completions` to it.
        set(platform::LLM_GATEWAY_URL.to_owned(), format!("{}/v1", self.egress.url));
        // A key of the user's own is for the API itself, or for the address that the user names.
        if !OPENAI.has_own_key(&spec.config.env) {
            set("OPENAI_BASE_URL".to_owned(), format!("{}/v1", self.egress.url));
            set("OPENAI_API_KEY".to_owned(), PLACEHOLDER_KEY.to_owned());
        }
        if !ANTHROPIC.has_own_key(&spec.config.env) {
            set("ANTHROPIC_BASE_URL".to_owned(), self.egress.url.clone());
            set("ANTHROPIC_API_KEY".to_owned(), PLACEHOLDER_KEY.to_owned());
        }
        let names: Vec<&str> = spec.tools.iter().map(|t| t.name.as_str()).collect();
        set(platform::TOOL_NAMES.to_owned(), names.join(","));
        for tool in &spec.tools {
            let Some(url) = &tool.url else { continue };
            // In a closed network clients that do not know of proxies reach egress alone.
            let url = match self.egress.open_network {
                true => url.clone(),
                false => format!("{}/tools/{}", self.egress.url, tool.name),
            };
            set(format!("{}{}", platform::TOOL_URL_PREFIX, tool.name.env_suffix()), url);
        }
        vars
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{
        Digest, Name,
        agent::{AgentConfig, EnvVar, LlmRole},
        tool::BoundTool,
    };

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    fn spec() -> AgentSpec {
        let llm =
            |role, provider: &str, model: &str| LlmConfig { role, provider: provider.into(), model: model.into() };
        let tool = |n: &str, url: Option<&str>| BoundTool { name: name(n), url: url.map(str::to_owned) };
        let var = |n: &str, value: &str| EnvVar { name: n.into(), value: Secret::new(value), secret: None };
        AgentSpec {
            agent: name("payment-agent"),
            image: "r.example/a:1".parse().unwrap(),
            build_id: None,
            entry_point: None,
            tools: vec![tool("stripe-api", Some("https://api.stripe.com")), tool("later", None)],
            config: AgentConfig {
                system_prompt: "Be kind.".into(),
                description: "Pays".into(),
                llm: vec![llm(LlmRole::Chat, "openai", "gpt-4o"), llm(LlmRole::Reranking, "own", "rr")],
                env: vec![var("MODE", "secret-mode"), var("OPENAI_API_KEY", "sk-own"), var("EMPTY", "")],
                ..AgentConfig::default()
            },
            fingerprint: Digest::of(b"x"),
        }
    }

    fn with_env(env: Vec<EnvVar>) -> AgentSpec {
        let spec = spec();
        AgentSpec { config: AgentConfig { env, ..spec.config }, ..spec }
    }

    fn owned(vars: &[(&str, &str)]) -> Vec<(String, String)> {
        vars.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    fn access(url: &str, key: Option<EgressKey>, open_network: bool) -> EgressAccess {
        EgressAccess { url: url.into(), key, open_network }
    }

    fn exposed(around: &AgentEnvironment, revision: RevisionId) -> Vec<(String, String)> {
        let vars = around.of(&spec(), Some("agent.py"), revision).into_iter();
        vars.map(|(name, value)| (name, value.expose().to_owned())).collect()
    }

    #[test]
    fn the_environment_has_the_platforms_and_the_users_variables() {
        let around = AgentEnvironment::new(access("http://127.0.0.1:4000/", None, false));
        let vars = exposed(&around, RevisionId::mint());
        let expected = owned(&[
            ("AGENT_NAME", "payment-agent"),
            ("SYSTEM_PROMPT", "Be kind."),
            ("AGENT_DESCRIPTION", "Pays"),
            ("USER_ENTRY_POINT", "agent.py"),
            ("LLM_MODEL", "gpt-4o"),
            ("LLM_PROVIDER", "openai"),
            ("LLM_MODEL_RERANKING", "rr"),
            ("LLM_PROVIDER_RERANKING", "own"),
            ("LLM_GATEWAY_URL", "http://127.0.0.1:4000/v1"),
            ("ANTHROPIC_BASE_URL", "http://127.0.0.1:4000"),
            ("ANTHROPIC_API_KEY", PLACEHOLDER_KEY),
            ("TOOL_NAMES", "stripe-api,later"),
            ("TOOL_URL_STRIPE_API", "http://127.0.0.1:4000/tools/stripe-api"),
            ("HTTP_PROXY", "http://127.0.0.1:4000"),
            ("HTTPS_PROXY", "http://127.0.0.1:4000"),
            ("http_proxy", "http://127.0.0.1:4000"),
            ("https_proxy", "http://127.0.0.1:4000"),
            ("NO_PROXY", "localhost,127.0.0.1"),
            ("no_proxy", "localhost,127.0.0.1"),
            ("MODE", "secret-mode"),
            ("OPENAI_API_KEY", "sk-own"),
            ("EMPTY", ""),
        ]);
        assert_eq!(vars, expected);
    }

    #[test]
    fn clients_of_models_are_led_to_egress_but_for_those_with_a_key_of_the_users_own() {
        let around = AgentEnvironment::new(access("http://127.0.0.1:4000", None, false));
        let base_urls = |env: &[(&str, &str)]| {
            let var = |(name, value): &(&str, &str)| EnvVar {
                name: (*name).into(),
                value: Secret::new(*value),
                secret: None,
            };
            let vars = around.of(&with_env(env.iter().map(var).collect()), None, RevisionId::mint());
            let get = |name: &str| vars.iter().find(|(n, _)| n == name).map(|(_, value)| value.expose().to_owned());
            assert_eq!(get("OPENAI_DEFAULT_MODEL").is_some(), get("OPENAI_BASE_URL").is_some());
            ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"].map(get)
        };
        let (openai, anthropic) = (Some("http://127.0.0.1:4000/v1".into()), Some("http://127.0.0.1:4000".into()));
        assert_eq!(base_urls(&[]), [openai.clone(), anthropic.clone()]);
        assert_eq!(base_urls(&[("OPENAI_API_KEY", "sk-own")]), [None, anthropic.clone()]);
        let elsewhere = [("OPENAI_API_KEY", "sk-own"), ("OPENAI_API_BASE", "https://llm.example/v1")];
        assert_eq!(base_urls(&elsewhere), [None, anthropic.clone()]);
        assert_eq!(base_urls(&[("OPENAI_API_KEY", "sk-own"), ("OPENAI_BASE_URL", "")]), [None, anthropic]);
        let blank = [("ANTHROPIC_API_KEY", "sk-own"), ("OPENAI_API_KEY", ""), ("OPENAI_BASE_URL", " ")];
        assert_eq!(base_urls(&blank), [openai, None]);
        let empty = EnvVar { name: "OPENAI_API_KEY".into(), value: Secret::new(""), secret: None };
        let vars = around.of(&with_env(vec![empty]), None, RevisionId::mint());
        let key = vars.iter().find(|(name, _)| name == "OPENAI_API_KEY").map(|(_, value)| value.expose().to_owned());
        assert_eq!(key.as_deref(), Some(PLACEHOLDER_KEY));
    }

    #[test]
    fn the_shown_environment_masks_user_values_and_omits_the_token() {
        let around = AgentEnvironment::new(access("http://127.0.0.1:4000", Some(EgressKey::generate().unwrap()), true));
        let shown = around.shown(&spec(), None);
        let get = |n: &str| shown.iter().find(|(name, _)| name == n).map(|(_, value)| value.as_str());
        assert_eq!(get("LLM_MODEL"), Some("gpt-4o"));
        assert_eq!((get("MODE"), get("OPENAI_API_KEY"), get("EMPTY")), (Some(MASK), Some(MASK), Some(MASK)));
        assert_eq!((get("HTTPS_PROXY"), get("USER_ENTRY_POINT"), get("PORT")), (None, None, None));
        let var = |secret| EnvVar { name: "API_KEY".into(), value: Secret::new("shown"), secret };
        for (secret, want) in [(Some(false), "shown"), (Some(true), MASK), (None, MASK)] {
            let shown = around.shown(&with_env(vec![var(secret)]), None);
            assert!(shown.contains(&("API_KEY".into(), want.into())), "{secret:?}");
        }
        assert_eq!(get("ANTHROPIC_API_KEY"), Some(PLACEHOLDER_KEY));
    }

    #[test]
    fn in_an_open_network_proxies_have_the_revisions_token_and_tools_their_own_urls() {
        let (key, revision) = (EgressKey::generate().unwrap(), RevisionId::mint());
        let proxy = |authority: &str| format!("http://agent:{}@{authority}", key.mint(revision).expose());
        for (authority, no_proxy) in [
            ("127.0.0.1:4000", "169.254.169.254"),
            ("[::1]:4000", "169.254.169.254"),
            ("localhost:4000", "169.254.169.254"),
            ("egress:8098", "169.254.169.254,localhost,127.0.0.1"),
        ] {
            let access = access(&format!("http://{authority}"), Some(key.clone()), true);
            let vars = exposed(&AgentEnvironment::new(access), revision);
            let get = |n: &str| vars.iter().find(|(name, _)| name == n).map(|(_, value)| value.as_str());
            for name in PROXIES {
                assert_eq!(get(name), Some(proxy(authority).as_str()), "{name}");
            }
            assert_eq!((get("NO_PROXY"), get("no_proxy")), (Some(no_proxy), Some(no_proxy)));
            assert_eq!(get("TOOL_URL_STRIPE_API"), Some("https://api.stripe.com"));
        }
    }

    #[test]
    fn an_agents_own_servers_are_called_without_egress_where_loopback_is_its_own() {
        let (key, url) = (EgressKey::generate().unwrap(), "http://127.0.0.1:4000");
        let no_proxy = |key: Option<EgressKey>, tool: &str| {
            let mut spec = spec();
            spec.tools.push(BoundTool { name: name("t"), url: Some(tool.to_owned()) });
            let vars = AgentEnvironment::new(access(url, key, false)).of(&spec, None, RevisionId::mint());
            vars.iter().find(|(name, _)| name == "NO_PROXY").map(|(_, value)| value.expose().to_owned())
        };
        assert_eq!(no_proxy(None, "https://x.example").as_deref(), Some("localhost,127.0.0.1"));
        assert_eq!(no_proxy(None, "http://LocalHost:8094/api").as_deref(), Some("127.0.0.1"));
        assert_eq!(no_proxy(None, "http://127.0.0.1:8094").as_deref(), Some("localhost"));
        assert_eq!(no_proxy(None, "http://127.1:8094").as_deref(), Some("localhost"));
        assert_eq!(no_proxy(None, "http://localhost.:8094").as_deref(), Some("127.0.0.1"));
        assert_eq!(no_proxy(None, "http://Tool.localhost:8094").as_deref(), Some("127.0.0.1"));
        assert_eq!(no_proxy(None, "http://notlocalhost:8094").as_deref(), Some("localhost,127.0.0.1"));
        assert_eq!(no_proxy(Some(key), "https://x.example"), None);
    }

    #[test]
    fn a_users_own_proxy_takes_the_place_of_ours_in_both_cases_of_letters() {
        let around = AgentEnvironment::new(access("http://127.0.0.1:4000", None, true));
        let mut spec = spec();
        spec.config.env.push(EnvVar { name: "HTTPS_PROXY".into(), value: Secret::new("http://own:1"), secret: None });
        let vars = around.of(&spec, None, RevisionId::mint());
        let get = |n: &str| vars.iter().find(|(name, _)| name == n).map(|(_, value)| value.expose());
        assert_eq!((get("HTTPS_PROXY"), get("https_proxy")), (Some("http://own:1"), None));
        assert_eq!(get("http_proxy"), Some("http://127.0.0.1:4000"));
    }
}
