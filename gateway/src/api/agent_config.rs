//! `/api/agents/{name}/config`: the configuration that can be changed without a build.

use super::{
    config_fields::{self, CHANGEABLE, ConfigChangeBody, ConfigOut, llm::NamedProvider},
    deploy::{self, AcceptedDeploy, WaitOptions},
    deploy_request::tools,
    error::{ApiResult, ErrorBody},
    json::{Object, complaint, has_value},
    links::ApiBase,
    query::{Query, Segment},
    request_body::WholeBody,
};
use crate::{
    deploy::kind::{ConfigChange, DeploymentKind},
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_model::{Code, Error, NAMESPACE, Name, Result, agent::Agent};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
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
    /// The runtime of the agent's code.
    runtime: &'static str,
    #[serde(flatten)]
    config: ConfigOut,
    /// Always empty: spending is not metered.
    model_usage: Vec<String>,
    /// The tools that it uses.
    required_tools: Vec<String>,
    /// Always empty: policies are not supported.
    policies: Vec<String>,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A change of an agent's configuration: what is given replaces what was there, the rest stays.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the strict reader reads it; this describes it")]
#[schema(as = AgentConfigChange)]
pub struct ConfigBody {
    #[serde(flatten)]
    config: ConfigChangeBody,
    /// Every tool of the agent.
    #[schema(max_items = 256)]
    required_tools: Option<Vec<String>>,
}

/// Get an agent's configuration
///
/// The configuration that can be changed without a build, in the words of the public SDK.
#[utoipa::path(get, path = "/agents/{name}/config", operation_id = "get_agent_config", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
), responses((status = 200, body = AgentConfig, description = "The configuration")))]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<AgentConfig>> {
    let agent = state.agents.get_agent(name.name("agent")?).await?;
    Ok(Json(shape(&state, agent, Vec::new()).await?))
}

/// Change an agent's configuration
///
/// Members that are given replace those that were there, the rest stays. A change makes a new revision with the same
/// image, which is swapped in without losing a request; nothing changed makes none.
#[utoipa::path(put, path = "/agents/{name}/config", operation_id = "update_agent_config", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
    ("wait" = Option<String>, Query, description = "`ready` (default) or `none`"),
    ("timeout" = Option<u32>, Query, description = "Seconds that the answer waits at most"),
), request_body(content = ConfigBody, example = json!({"system_prompt": "Be brief."})), responses(
    (status = 200, body = AgentConfig, description = "The configuration as it is now"),
    (status = 202, body = AcceptedDeploy, description = "It goes on; `Location` says where to look"),
    (status = 409, body = ErrorBody, description = "The agent is stopped"),
    (status = 500, body = ErrorBody, description = "It did not start with it, and goes on with its present configuration"),
))]
pub async fn put(
    State(state): State<Arc<AppState>>,
    base: ApiBase,
    name: Segment,
    query: Query,
    body: WholeBody,
) -> ApiResult<Response> {
    let name = name.name("agent")?;
    let asked = WaitOptions::of(&state, base, &query)?;
    let agent = state.agents.get_agent(name.clone()).await?;
    let mut warnings = Vec::new();
    let (change, named) = parse(&body.bytes, &agent, &state, &mut warnings)?;
    for named in named {
        named.check(&state).await?;
    }
    let done = match deploy::carry_out(&state, DeploymentKind::Config(change), asked, warnings).await? {
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
    (status = 202, body = AcceptedDeploy, description = "It goes on; `Location` says where to look"),
    (status = 409, body = ErrorBody, description = "The agent is stopped"),
    (status = 500, body = ErrorBody, description = "It did not start with it, and goes on with its present configuration"),
))]
pub async fn patch(
    state: State<Arc<AppState>>,
    base: ApiBase,
    name: Segment,
    query: Query,
    body: WholeBody,
) -> ApiResult<Response> {
    put(state, base, name, query, body).await
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
    // An unchanged value from a GET answer is ignored silently; a changed one with a warning.
    for (key, present) in [
        ("agent_name", agent.name.to_string()),
        ("image", state.public_registry.show_image(&agent.spec.image)),
        ("namespace", NAMESPACE.to_owned()),
        ("runtime", RUNTIME.to_owned()),
    ] {
        if root.text(key)?.is_some_and(|given| given != present) {
            warnings.push(format!("{key} cannot be changed here and is ignored"));
        }
    }
    let _ = (root.take("model_usage"), root.take("warnings"));

    let (config, named) = config_fields::of_change(&mut root, warnings)?;
    let required_tools = match root.has("required_tools") {
        true => Some(tools::required(&mut root)?.into_iter().map(|(_, name)| name).collect()),
        false => None,
    };
    root.finish(warnings);
    if config.is_empty() && required_tools.is_none() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("nothing to change: give one of {CHANGEABLE}, required_tools"),
        ));
    }
    Ok((ConfigChange { agent: agent.name.clone(), config, required_tools }, named))
}

/// The language of agents.
const RUNTIME: &str = "python";

async fn shape(state: &AppState, agent: Agent, warnings: Vec<String>) -> Result<AgentConfig> {
    let spec = agent.spec;
    Ok(AgentConfig {
        agent_name: agent.name,
        namespace: NAMESPACE,
        image: state.public_registry.show_image(&spec.image),
        runtime: RUNTIME,
        config: ConfigOut::of(state, spec.config).await?,
        model_usage: Vec::new(),
        required_tools: spec.tools.into_iter().map(|tool| tool.name.into()).collect(),
        policies: Vec::new(),
        warnings,
    })
}
