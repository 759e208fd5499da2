//! `POST /api/agents/{name}/stop`, `start` and `restart`, and the turn that these and a deletion wait for.

use super::{
    agents,
    deploy::{self, Asked},
    error::{ApiResult, ErrorBody},
    query::Segment,
};
use crate::{
    deploy::Turn,
    state::AppState,
    work::{Rebuild, Work},
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_kit::telemetry;
use hoistway_model::{
    Error, Name, Operation, Result,
    agent::{Agent, Phase},
};
use http::StatusCode;
use std::{future::Future, sync::Arc};
use tracing::Instrument;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(stop)).routes(routes!(start)).routes(routes!(restart))
}

/// Stop an agent
///
/// Ends the agent's instance: invokes are refused until it is started or deployed again, also after a restart of the
/// platform. What it is just answering gets 30 seconds. A stopped agent stays so.
#[utoipa::path(post, path = "/agents/{name}/stop", operation_id = "stop_agent", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
), responses(
    (status = 200, body = Value, description = "The agent, which is stopped"),
    (status = 409, body = ErrorBody, description = "It is being deployed, and that takes longer than the answer waits"),
))]
pub async fn stop(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Response> {
    let (agents, reserve, operation) = (state.agents.clone(), state.reserve.clone(), Operation::new());
    let stop =
        |name: Name| async move { reserve.for_freeing(|| agents.stop_agent(operation.clone(), name.clone())).await };
    change(&state, name.name("agent")?, stop).await
}

/// Start a stopped agent
///
/// Starts a stopped agent and answers when it is up. One that runs is left as it is. An image for another Python than is
/// there now, or of an older Hoistway, is built again first.
#[utoipa::path(post, path = "/agents/{name}/start", operation_id = "start_agent", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
), responses(
    (status = 200, body = Value, description = "The agent"),
    (status = 202, body = Value, description = "The agent, which goes on starting"),
    (status = 409, body = ErrorBody, description = "It is being deployed, and that takes longer than the answer waits"),
))]
pub async fn start(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Response> {
    let (agents, name) = (state.agents.clone(), name.name("agent")?);
    let agent = agents.get_agent(name.clone()).await?;
    if agent.phase == Phase::Stopped && agent.needs_rebuild {
        let rebuild = Work::Rebuild(Rebuild { agent: name.clone(), start: true });
        let done = deploy::carry_out(&state, rebuild, Asked::up_to(state.limits.deploy_wait), Vec::new()).await?;
        let status = if done.is_ok() { StatusCode::OK } else { StatusCode::ACCEPTED };
        let agent = agents.get_agent(name).await?;
        return Ok(shown(&state, status, &agent));
    }
    change(&state, name, |name| async move { agents.start_agent(Operation::new(), name).await }).await
}

/// Restart an agent
///
/// Replaces the agent's instance by a new one of the same revision without losing an invoke. The old one stays when
/// the new one does not start.
#[utoipa::path(post, path = "/agents/{name}/restart", operation_id = "restart_agent", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
), responses(
    (status = 200, body = Value, description = "The agent"),
    (status = 202, body = Value, description = "The agent, which goes on restarting"),
    (status = 409, body = ErrorBody, description = "It is being deployed, and that takes longer than the answer waits"),
    (status = 500, body = ErrorBody, description = "The new instance did not start, and the old one goes on serving"),
))]
pub async fn restart(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Response> {
    let agents = state.agents.clone();
    change(&state, name.name("agent")?, |name| async move { agents.restart_agent(Operation::new(), name).await }).await
}

/// Does `work` in the agent's turn and answers with the agent; 202 when the work takes longer than an answer may.
async fn change<F>(state: &Arc<AppState>, name: Name, work: impl FnOnce(Name) -> F) -> ApiResult<Response>
where
    F: Future<Output = Result<Agent>> + Send + 'static,
{
    let turn = state.deployer.turn(name.clone(), state.limits.deploy_wait).await?;
    let done = to_its_end(state, turn, work(name.clone()));
    let (status, agent) = match tokio::time::timeout(state.limits.deploy_wait, done).await {
        Ok(agent) => (StatusCode::OK, agent?),
        Err(_) => (StatusCode::ACCEPTED, state.agents.get_agent(name).await?),
    };
    Ok(shown(state, status, &agent))
}

fn shown(state: &AppState, status: StatusCode, agent: &Agent) -> Response {
    (status, Json(agents::shape(agent, &state.public))).into_response()
}

/// Does `work` in its turn, to its end even when the caller goes away. What only waits for its turn is given up with
/// its caller.
pub async fn to_its_end<T: Send + 'static>(
    state: &AppState,
    turn: Turn,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let whole = async move {
        let done = work.await;
        drop(turn);
        done
    };
    let request = telemetry::request_id().unwrap_or_default();
    let whole = telemetry::with_request_id(request, whole).in_current_span();
    state.tasks.spawn(whole).await.map_err(|e| Error::internal("changing the agent", e))?
}
