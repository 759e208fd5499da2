//! `/api/agents/{name}/config`: what can be changed without a build.

use super::{
    body::WholeBody,
    deploy::{self, Asked, Underway},
    deploy_request::{env, llm, tools},
    error::{ApiResult, ErrorBody},
    json::{self, Object, complaint, has_value},
    query::{Query, Segment},
};
use crate::{
    deploy::{
        kind::{ConfigChange, Work},
        providers,
    },
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_model::{
    Code, Error, NAMESPACE, Name, Result,
    agent::{Agent, AgentConfigChange, LlmConfig},
    error::excerpt,
};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What can be changed here.
const MEMBERS: &str = "system_prompt, identity_provider, llm_configs or required_tools";

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(get, put, patch))
}

/// An agent's configuration, in the public SDK's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentConfig {
    /// The agent.
    #[schema(value_type = String, examples("hello"))]
    agent_name: Name,
    /// Where it runs.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// Its image.
    image: String,
    /// What the agent's code runs on.
    runtime: &'static str,
    /// The system prompt; may be empty.
    system_prompt: String,
    /// Empty: nobody authenticates callers.
    identity_provider: String,
    /// Its models, each role at most once.
    llm_configs: Vec<ModelConfig>,
    /// Always empty: spending is not metered.
    model_usage: Vec<String>,
    /// The tools that it uses.
    required_tools: Vec<String>,
    /// Always empty: policies are not supported.
    policies: Vec<String>,
    /// What the caller should know; absent when there is nothing.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A model of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentConfigModel)]
pub struct ModelConfig {
    /// `chat`, `embedding`, `classify` or `reranking`.
    role: &'static str,
    /// The registered model provider's name; absent for one that needs no registration.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    model_provider: Option<String>,
    /// The protocol: openai, anthropic, bedrock or ollama. Absent when the registered provider is gone.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// The model's identifier.
    model: String,
}

/// A change of an agent's configuration: what is given replaces what was there, the rest stays.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the strict reader reads it; this describes it")]
#[schema(as = AgentConfigChange)]
pub struct ConfigBody {
    /// The system prompt; an empty string removes it.
    system_prompt: Option<String>,
    /// A registered identity provider; an empty string removes it.
    identity_provider: Option<String>,
    /// Every model of the agent.
    llm_configs: Option<Vec<ModelChange>>,
    /// Every tool of the agent.
    required_tools: Option<Vec<String>>,
}

/// A model: with the name of a registered provider, or with a protocol.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the strict reader reads it; this describes it")]
#[schema(as = AgentConfigModelChange)]
pub struct ModelChange {
    /// chat (default), embedding, classify or reranking.
    role: Option<String>,
    /// A registered model provider's name.
    model_provider: Option<String>,
    /// openai, anthropic, bedrock or ollama, when no registered provider is named.
    provider: Option<String>,
    /// The model's identifier.
    model: String,
}

/// Get an agent's configuration
///
/// What can be changed without a build, in the words of the public SDK.
#[utoipa::path(get, path = "/agents/{name}/config", operation_id = "get_agent_config", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
), responses((status = 200, body = AgentConfig, description = "The configuration")))]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<AgentConfig>> {
    let agent = state.agents.get_agent(name.name("agent")?).await?;
    Ok(Json(shape(&state, agent, Vec::new()).await?))
}

/// Change an agent's configuration
///
/// What is given replaces what was there, the rest stays. A change makes a new revision with the same image, which is
/// swapped in without losing a request; nothing changed makes none.
#[utoipa::path(put, path = "/agents/{name}/config", operation_id = "update_agent_config", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
    ("wait" = Option<String>, Query, description = "`ready` (default) or `none`"),
    ("timeout" = Option<u32>, Query, description = "Seconds that the answer waits at most"),
), request_body(content = ConfigBody, example = json!({"system_prompt": "Be brief."})), responses(
    (status = 200, body = AgentConfig, description = "The configuration as it is now"),
    (status = 202, body = Underway, description = "It goes on; `Location` says where to look"),
    (status = 409, body = ErrorBody, description = "The agent is stopped"),
    (status = 500, body = ErrorBody, description = "It did not start with it, and goes on with its present configuration"),
))]
pub async fn put(
    State(state): State<Arc<AppState>>,
    name: Segment,
    query: Query,
    body: WholeBody,
) -> ApiResult<Response> {
    let name = name.name("agent")?;
    let asked = Asked::of(&state, &query)?;
    let agent = state.agents.get_agent(name.clone()).await?;
    let mut warnings = Vec::new();
    let (change, named) = parse(&body.bytes, &agent, &state, &mut warnings)?;
    for named in named {
        named.check(&state).await?;
    }
    let done = match deploy::carry_out(&state, Work::Config(change), asked, warnings).await? {
        Ok(done) => done,
        Err(underway) => return Ok(underway),
    };
    let agent = state.agents.get_agent(name).await?;
    Ok((done.headers, Json(shape(&state, agent, done.warnings).await?)).into_response())
}

/// Change a part of an agent's configuration
///
/// The same as PUT, which is partial as well.
#[utoipa::path(patch, path = "/agents/{name}/config", operation_id = "patch_agent_config", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
    ("wait" = Option<String>, Query, description = "`ready` (default) or `none`"),
    ("timeout" = Option<u32>, Query, description = "Seconds that the answer waits at most"),
), request_body(content = ConfigBody, example = json!({"system_prompt": "Be brief."})), responses(
    (status = 200, body = AgentConfig, description = "The configuration as it is now"),
    (status = 202, body = Underway, description = "It goes on; `Location` says where to look"),
    (status = 409, body = ErrorBody, description = "The agent is stopped"),
    (status = 500, body = ErrorBody, description = "It did not start with it, and goes on with its present configuration"),
))]
pub async fn patch(state: State<Arc<AppState>>, name: Segment, query: Query, body: WholeBody) -> ApiResult<Response> {
    put(state, name, query, body).await
}

/// A registered provider that the request names, with the protocol that it says it has.
struct NamedProvider {
    path: String,
    name: Name,
    protocol: Option<String>,
}

impl NamedProvider {
    async fn check(self, state: &AppState) -> Result<()> {
        let found = match state.tools.get_model_provider(self.name.clone()).await {
            Ok(found) => found,
            Err(e) if e.code == Code::NotFound => {
                let message = format!("\"{}\" is not a registered model provider", self.name);
                return Err(Error::field(format!("{}.model_provider", self.path), message));
            }
            Err(e) => return Err(e),
        };
        match self.protocol.filter(|protocol| !protocol.eq_ignore_ascii_case(&found.provider)) {
            Some(other) => {
                let message = format!("\"{}\" contradicts the model provider \"{}\"", excerpt(&other), self.name);
                Err(Error::field(format!("{}.provider", self.path), message))
            }
            None => Ok(()),
        }
    }
}

fn parse(
    body: &[u8],
    agent: &Agent,
    state: &AppState,
    warnings: &mut Vec<String>,
) -> Result<(ConfigChange, Vec<NamedProvider>)> {
    let mut root = Object::parse(body)?;
    if root.take("policies").is_some_and(|value| has_value(&value)) {
        let instead = "name the tools that the agent may call in required_tools";
        return Err(complaint("policies", "policies is not supported").with_details([instead.to_owned()]));
    }
    // Whoever sends back what GET answered means no harm; whoever expects these to change is told.
    for (key, present) in [
        ("agent_name", agent.name.to_string()),
        ("image", state.public.show_image(&agent.spec.image)),
        ("namespace", NAMESPACE.to_owned()),
        ("runtime", RUNTIME.to_owned()),
    ] {
        if root.text(key)?.is_some_and(|given| given != present) {
            warnings.push(format!("{key} cannot be changed here and is ignored"));
        }
    }
    let _ = (root.take("model_usage"), root.take("warnings"));

    let system_prompt = root.string("system_prompt")?;
    if let Some(prompt) = &system_prompt {
        env::fits("system_prompt", "SYSTEM_PROMPT", prompt)?;
    }
    let identity_provider = match root.string("identity_provider")? {
        None => None,
        Some(text) if text.trim().is_empty() => Some(None),
        Some(text) => Some(Some(json::name("identity_provider", &text)?)),
    };
    let mut named = Vec::new();
    let llm = match root.objects("llm_configs")? {
        None => None,
        Some(items) => {
            let mut models: Vec<LlmConfig> = Vec::new();
            for item in items {
                let path = item.path().to_owned();
                let model = model(item, &mut named, warnings)?;
                if let Some(first) = models.iter().position(|other| other.role == model.role) {
                    let message = format!("llm_configs[{first}] has the role {} already", model.role.as_str());
                    return Err(Error::field(format!("{path}.role"), message));
                }
                models.push(model);
            }
            Some(models)
        }
    };
    let required_tools = match root.has("required_tools") {
        true => Some(tools::required(&mut root)?.into_iter().map(|(_, name)| name).collect()),
        false => None,
    };
    root.finish(warnings);
    let config = AgentConfigChange { system_prompt, llm, identity_provider };
    if config.is_empty() && required_tools.is_none() {
        return Err(Error::new(Code::InvalidArgument, format!("nothing to change: give {MEMBERS}")));
    }
    Ok((ConfigChange { agent: agent.name.clone(), config, required_tools }, named))
}

fn model(mut item: Object, named: &mut Vec<NamedProvider>, warnings: &mut Vec<String>) -> Result<LlmConfig> {
    if item.take("monthly_budget_usd").is_some() {
        let path = item.path_of("monthly_budget_usd");
        return Err(complaint(&path, format!("{path} is not supported")));
    }
    let registered = item.text("model_provider")?;
    let provider = match registered {
        Some(text) if !providers::is_known(&text) => {
            let name = json::name(&item.path_of("model_provider"), &text)?;
            let protocol = item.text("provider")?;
            named.push(NamedProvider { path: item.path().to_owned(), name: name.clone(), protocol });
            name.into()
        }
        Some(known) => known,
        None => {
            let given = item.required("provider")?;
            llm::provider(&item.path_of("provider"), &given)?
        }
    };
    let (role, model) = (llm::role(&mut item)?, llm::model(&mut item)?);
    item.finish(warnings);
    Ok(LlmConfig { role, provider, model })
}

/// What agents are written in.
const RUNTIME: &str = "python";

async fn shape(state: &AppState, agent: Agent, warnings: Vec<String>) -> Result<AgentConfig> {
    let spec = agent.spec;
    let mut llm_configs = Vec::with_capacity(spec.config.llm.len());
    for config in spec.config.llm {
        let (model_provider, provider) = if providers::is_known(&config.provider) {
            (None, Some(config.provider))
        } else {
            let protocol = match state.tools.get_model_provider(Name::parse("provider", &config.provider)?).await {
                Ok(registered) => Some(registered.provider),
                Err(e) if e.code == Code::NotFound => None,
                Err(e) => return Err(e),
            };
            (Some(config.provider), protocol)
        };
        llm_configs.push(ModelConfig { role: config.role.as_str(), model_provider, provider, model: config.model });
    }
    Ok(AgentConfig {
        agent_name: agent.name,
        namespace: NAMESPACE,
        image: state.public.show_image(&spec.image),
        runtime: RUNTIME,
        system_prompt: spec.config.system_prompt,
        identity_provider: spec.config.identity_provider.map(Into::into).unwrap_or_default(),
        llm_configs,
        model_usage: Vec::new(),
        required_tools: spec.tools.into_iter().map(|tool| tool.name.into()).collect(),
        policies: Vec::new(),
        warnings,
    })
}
