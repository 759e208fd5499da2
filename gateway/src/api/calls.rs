//! `/api/agents/{name}/calls`.

use super::{
    error::ApiResult,
    paging::{Asked, Page},
    query::{Query, Segment},
};
use crate::state::AppState;
use axum::{Extension, extract::State, response::Response};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Code, Name, Result, RevisionId,
    egress::{Call, CallQuery, CallTarget},
};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// An outbound call of an agent, carried out or refused. Never a body, a header or a query.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Call)]
pub struct CallOut {
    /// Its id; later records have greater numbers.
    #[schema(examples("1042"))]
    id: String,
    /// When it began.
    #[schema(format = DateTime)]
    time: String,
    /// The agent; null where none could be recognised.
    #[schema(value_type = Option<String>, examples("hello"))]
    agent: Option<Name>,
    /// The agent's revision.
    #[schema(value_type = Option<String>)]
    revision: Option<RevisionId>,
    /// The tool; null for what is no tool, and where the call was refused before that was known.
    #[schema(value_type = Option<String>, examples("stripe-api"))]
    tool: Option<Name>,
    /// The model provider.
    #[schema(value_type = Option<String>)]
    model_provider: Option<Name>,
    /// The method.
    #[schema(examples("GET"))]
    method: String,
    /// `http` or `https`; null where the address was not understood.
    #[schema(examples("https"))]
    scheme: Option<String>,
    /// The host, with the port where the scheme does not mean it.
    #[schema(examples("api.stripe.com"))]
    host: Option<String>,
    /// The path, without a query.
    #[schema(examples("/v1/charges"))]
    path: String,
    /// The status that the agent got.
    #[schema(examples(200))]
    status: Option<u16>,
    /// Milliseconds until the head of the answer.
    #[schema(examples(84))]
    latency_ms: Option<u64>,
    /// Milliseconds until the end.
    #[schema(examples(91))]
    duration_ms: u64,
    /// Bytes of the request's body.
    bytes_sent: u64,
    /// Bytes of the answer's body.
    bytes_received: u64,
    /// Why egress refused the call or could not carry it out, in one word; null when the host answered.
    #[schema(examples("host_not_allowed"))]
    refused: Option<String>,
    /// The same in words, as the agent was told.
    error: Option<String>,
    /// Why it ended early after the answer had begun, in one word.
    broken: Option<String>,
}

impl From<Call> for CallOut {
    fn from(call: Call) -> Self {
        let (tool, model_provider) = match call.target {
            Some(CallTarget::Tool(name)) => (Some(name), None),
            Some(CallTarget::ModelProvider(name)) => (None, Some(name)),
            None => (None, None),
        };
        let (scheme, host) = call.origin.split_once("://").unzip();
        Self {
            id: call.id.to_string(),
            time: rfc3339(call.at),
            agent: call.agent,
            revision: call.revision,
            tool,
            model_provider,
            scheme: scheme.map(str::to_owned),
            host: host.map(str::to_owned),
            method: call.method,
            path: call.path,
            latency_ms: call.status.map(|_| call.first_byte_ms),
            status: call.status,
            duration_ms: call.duration_ms,
            bytes_sent: call.bytes_up,
            bytes_received: call.bytes_down,
            refused: call.refused,
            error: call.error,
            broken: call.broken,
        }
    }
}

/// List an agent's outbound calls
///
/// What the agent called through egress and what came of it, newest first, page by page: calls of its tools, refused ones
/// among them, and of other hosts where its network is open. A call is recorded when it has ended. Records outlive their
/// agent, and are listed for as long as they are kept.
#[utoipa::path(
    get, path = "/agents/{name}/calls", tag = "agents", operation_id = "list_agent_calls",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("tool" = Option<String>, Query, description = "Only calls of this tool"),
        ("refused" = Option<bool>, Query, description = "Only calls that egress refused or could not carry out"),
        ("limit" = Option<u32>, Query, description = "The length of a page, 100 unless given", minimum = 1, maximum = 1_000),
        ("before" = Option<String>, Query, description = "Only calls recorded before this one; the Link header of the page before has it"),
    ),
    responses(
        (status = 200, description = "A page of calls; the header Link names the next one, if there is one", body = [CallOut]),
    )
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(asked): Extension<Asked>,
    name: Segment,
    query: Query,
) -> ApiResult<Response> {
    let (agent, page) = (name.name("agent")?, Page::parse(&query)?);
    let wanted = CallQuery {
        agent: Some(agent.clone()),
        tool: query.name("tool")?,
        refused: query.flag("refused")?,
        before: query.id("before")?,
        limit: page.look_up(),
    };
    let calls = state.egress.calls(wanted).await?;
    if calls.is_empty() {
        check_known(&state, agent).await?;
    }
    Ok(page.answer(&asked, calls.into_iter().map(CallOut::from).collect(), |call| &call.id))
}

/// Fails for an agent that neither exists nor has left records.
async fn check_known(state: &AppState, agent: Name) -> Result<()> {
    match state.agents.get_agent(agent.clone()).await {
        Err(e) if e.code == Code::NotFound => {
            let any = CallQuery { agent: Some(agent), limit: 1, ..CallQuery::default() };
            if state.egress.calls(any).await?.is_empty() { Err(e) } else { Ok(()) }
        }
        found => found.map(drop),
    }
}
