//! `/api/agents/{name}/calls`.

use super::{
    error::ApiResult,
    pagination::{OriginalUri, RecordPage},
    query::{Query, Segment},
};
use crate::{call_view::CallOut, state::AppState};
use axum::{Extension, extract::State, response::Response};
use hoistway_model::{Code, Name, Result, egress::CallQuery};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// List an agent's outbound calls
///
/// The agent's calls through egress and their outcomes, newest first, page by page: calls of its tools, refused ones
/// among them, and of other hosts where its network is open. A call is recorded when it has ended. Records outlive
/// their agent, and are listed for as long as they are kept.
#[utoipa::path(
    get, path = "/agents/{name}/calls", tag = "agents", operation_id = "list_agent_calls",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("tool" = Option<String>, Query, description = "Only calls of this tool"),
        ("refused" = Option<bool>, Query, description = "Only calls that egress refused or could not carry out"),
        ("limit" = Option<u32>, Query, description = "The length of a page, 100 unless given"),
        ("before" = Option<String>, Query, description = "Only calls recorded before this one; the Link header of the page before has it"),
    ),
    responses(
        (status = 200, description = "A page of calls; the header Link names the next one, if there is one", body = [CallOut]),
    )
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(uri): Extension<OriginalUri>,
    name: Segment,
    query: Query,
) -> ApiResult<Response> {
    let (agent, page) = (name.name("agent")?, RecordPage::parse(&query)?);
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
    Ok(page.answer(&uri, calls.into_iter().map(CallOut::from).collect(), CallOut::id))
}

/// Fails for an agent that neither exists nor has records.
async fn check_known(state: &AppState, agent: Name) -> Result<()> {
    match state.agents.get_agent(agent.clone()).await {
        Err(e) if e.code == Code::NotFound => {
            let any = CallQuery { agent: Some(agent), limit: 1, ..CallQuery::default() };
            if state.egress.calls(any).await?.is_empty() { Err(e) } else { Ok(()) }
        }
        found => found.map(drop),
    }
}
