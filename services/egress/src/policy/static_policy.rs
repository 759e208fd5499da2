//! Policies that stay the same, from a file: for trying egress alone, and for measuring it.

use crate::{
    origin::Origin,
    policy::{
        AgentPolicy, Capability, Credential, KeyPlace, ModelBackend, ModelKey, ModelPolicy, ModelServer, OAuth2Client,
        Policies, PolicyError, Protocol, RegisteredModels, ToolPolicy,
    },
    request_path::PathPattern,
};
use async_trait::async_trait;
use hoistway_kit::egress_auth::EgressKey;
use hoistway_model::{Code, Error, Name, Result, RevisionId, Secret, agent::LlmRole};
use serde::Deserialize;
use std::{collections::HashMap, path::Path, sync::Arc};

/// Some agents, for as long as the process runs.
#[derive(Debug, Default)]
pub struct FixedPolicies {
    agents: HashMap<RevisionId, Arc<AgentPolicy>>,
    /// Every tool that any of them may call.
    tools: Vec<(Origin, Name)>,
}

impl FixedPolicies {
    /// Those of some agents.
    pub fn new(agents: impl IntoIterator<Item = AgentPolicy>) -> Self {
        let agents: HashMap<_, _> = agents.into_iter().map(|agent| (agent.revision, Arc::new(agent))).collect();
        let tools = agents.values().flat_map(|agent| &agent.tools);
        let tools = tools.map(|tool| (tool.origin.clone(), tool.name.clone())).collect();
        Self { agents, tools }
    }

    /// Reads a JSON file: `{"agents": [{"agent", "revision", "tools": [{"name", "base_url", …}]}]}`.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |e: String| Error::new(Code::InvalidArgument, format!("{}: {e}", path.display()));
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let file: File = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        let agents: Vec<AgentPolicy> =
            file.agents.into_iter().map(Agent::read).collect::<Result<_>>().map_err(|e| wrong(e.to_string()))?;
        Ok(Self::new(agents))
    }

    /// Each agent's name with its token.
    pub fn tokens(&self, key: &EgressKey) -> Vec<(Name, Secret)> {
        self.agents.values().map(|agent| (agent.agent.clone(), key.mint(agent.revision))).collect()
    }
}

#[async_trait]
impl Policies for FixedPolicies {
    async fn policy(&self, revision: RevisionId) -> Result<Arc<AgentPolicy>, PolicyError> {
        self.agents.get(&revision).cloned().ok_or(PolicyError::Unknown)
    }

    async fn registered_at(&self, origin: &Origin) -> Option<Name> {
        self.tools.iter().find(|(at, _)| at == origin).map(|(_, name)| name.clone())
    }

    async fn tool(&self, name: &Name) -> Result<ToolPolicy> {
        let found = self.agents.values().flat_map(|agent| &agent.tools).find(|tool| tool.name == *name);
        found.cloned().ok_or_else(|| Error::not_found("tool", name))
    }

    async fn model_provider(&self, name: &Name) -> Result<RegisteredModels> {
        let models = || self.agents.values().flat_map(|agent| &agent.models);
        let served: Vec<&ModelPolicy> = models().filter(|model| model.provider == name.as_str()).collect();
        let first = served.first().ok_or_else(|| Error::not_found("model provider", name))?;
        let models = served.iter().map(|model| model.model.clone()).collect();
        Ok(RegisteredModels { models, backend: first.backend.clone() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Agent {
    agent: Name,
    revision: RevisionId,
    tools: Vec<Tool>,
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    open_network: bool,
}

/// The chat model of an agent, at a server of the OpenAI API unless it says another one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    model: String,
    provider: Name,
    endpoint: String,
    #[serde(default)]
    api: ModelApi,
    #[serde(default)]
    api_key: Option<Secret>,
    #[serde(default)]
    allow_private: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelApi {
    #[default]
    Openai,
    Anthropic,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    name: Name,
    base_url: String,
    #[serde(default)]
    capabilities: Vec<Covered>,
    #[serde(default)]
    credential: Option<Auth>,
    #[serde(default)]
    allow_private: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Covered {
    #[serde(default)]
    methods: Vec<String>,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Auth {
    Header {
        name: String,
        #[serde(default)]
        prefix: String,
        value: Secret,
    },
    Query {
        name: String,
        #[serde(default)]
        prefix: String,
        value: Secret,
    },
    Oauth2 {
        token_url: String,
        client_id: String,
        client_secret: Secret,
        #[serde(default)]
        scopes: Vec<String>,
        #[serde(default)]
        audience: Option<String>,
    },
}

impl Agent {
    fn read(self) -> Result<AgentPolicy> {
        let tools = self.tools.into_iter().map(Tool::read).collect::<Result<_>>()?;
        let models = self.models.into_iter().map(Model::read).collect::<Result<_>>()?;
        let Self { agent, revision, open_network, .. } = self;
        Ok(AgentPolicy { agent, revision, tools, models, own_key_origins: Vec::new(), open_network })
    }
}

impl Model {
    fn read(self) -> Result<ModelPolicy> {
        let (origin, prefix) = Origin::of_url(&self.endpoint)?;
        let Self { model, provider, api_key, allow_private, .. } = self;
        let (name, key) = (provider.clone(), api_key.map(ModelKey::ApiKey));
        let protocol = match self.api {
            ModelApi::Openai => Protocol::OpenAi,
            ModelApi::Anthropic => Protocol::Anthropic,
        };
        let (timeout, retries) = (None, 0);
        let server = ModelServer { name, protocol, origin, prefix, key, allow_private, timeout, retries };
        let backend = ModelBackend::Server(Arc::new(server));
        Ok(ModelPolicy { role: LlmRole::Chat, model, provider: provider.into(), backend, price: None })
    }
}

impl Tool {
    fn read(self) -> Result<ToolPolicy> {
        let mut tool = ToolPolicy::new(self.name, &self.base_url)?;
        tool.capabilities = self.capabilities.into_iter().map(Covered::read).collect::<Result<_>>()?;
        tool.credential = self.credential.map_or(Ok(Credential::None), Auth::read)?;
        tool.allow_private = self.allow_private;
        Ok(tool)
    }
}

impl Covered {
    fn read(self) -> Result<Capability> {
        let method = |text: &String| {
            text.parse().map_err(|_| Error::field("methods", format!("\"{}\" is not a method", text.escape_debug())))
        };
        let methods = self.methods.iter().map(method).collect::<Result<_>>()?;
        Ok(Capability { methods, path: PathPattern::parse(&self.path).map_err(|e| Error::field("path", e))? })
    }
}

impl Auth {
    fn read(self) -> Result<Credential> {
        Ok(match self {
            Auth::Header { name, prefix, value } => {
                let name =
                    name.parse().map_err(|_| Error::field("credential.header.name", "is not a header's name"))?;
                Credential::ApiKey { place: KeyPlace::Header(name), prefix, value }
            }
            Auth::Query { name, prefix, value } => Credential::ApiKey { place: KeyPlace::Query(name), prefix, value },
            Auth::Oauth2 { token_url, client_id, client_secret, scopes, audience } => {
                Credential::OAuth2(Arc::new(OAuth2Client { token_url, client_id, client_secret, scopes, audience }))
            }
        })
    }
}
