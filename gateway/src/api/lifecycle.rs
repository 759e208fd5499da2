//! `POST /api/agents/{name}/stop`, `start` and `restart`, and the lease that these and a deletion wait for.

use super::{
    agents::schema,
    deploy::{self, WaitOptions},
    error::{ApiResult, ErrorBody},
    links::ApiBase,
    query::Segment,
};
use crate::{
    deploy::{
        AgentLease, Urgency,
        kind::{DeploymentKind, Rebuild},
    },
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_kit::telemetry;
use hoistway_model::{
    Code, Error, Name, Operation, Result,
    agent::{Agent, Phase},
};
use http::StatusCode;
use std::{future::Future, sync::Arc};
use tracing::Instrument;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(stop)).routes(routes!(start)).routes(routes!(restart))
}

/// Stop an agent
///
/// Ends the agent's instance: invokes are refused until it is started or deployed again, also after a restart of the
/// platform. What it is just answering gets 30 seconds. A stopped agent stays so. A start that is under way and takes long is
/// cancelled, with its deploy.
#[utoipa::path(post, path = "/agents/{name}/stop", operation_id = "stop_agent", tag = "agents", params(
    ("name" = String, Path, description = "The agent's name"),
), responses(
    (status = 200, body = Value, description = "The agent, which is stopped"),
    (status = 409, body = ErrorBody, description = "It is being deployed, and that takes longer than the answer waits; nothing was changed"),
    (status = 504, body = ErrorBody, description = "What was under way was cancelled for it, and takes longer to end than the answer waits"),
))]
pub async fn stop(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Response> {
    let (agents, reserve, operation) = (state.agents.clone(), state.reserve.clone(), Operation::new());
    let stop =
        |name: Name| async move { reserve.for_freeing(|| agents.stop_agent(operation.clone(), name.clone())).await };
    let name = name.name("agent")?;
    let before = state.agents.get_agent(name.clone()).await;
    let lease = state.deployer.lease(name.clone(), Urgency::EndStarts, state.limits.deploy_wait).await?;
    let was_cancelled = lease.cancelled_others();
    let (status, agent) = match (carry_out(&state, lease, name, stop).await, before) {
        // Its first deploy was cancelled for this, and nothing of it is left.
        (Err(e), Ok(before)) if e.code == Code::NotFound && was_cancelled => {
            let message = "its first deploy was cancelled".to_owned();
            (StatusCode::OK, Agent { phase: Phase::Stopped, message, ..before })
        }
        (done, _) => done?,
    };
    Ok(shown(&state, status, &agent))
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
pub async fn start(State(state): State<Arc<AppState>>, base: ApiBase, name: Segment) -> ApiResult<Response> {
    let (agents, name) = (state.agents.clone(), name.name("agent")?);
    let agent = agents.get_agent(name.clone()).await?;
    if agent.phase == Phase::Stopped && agent.needs_rebuild {
        let rebuild = DeploymentKind::Rebuild(Rebuild { agent: name.clone(), start: true });
        let done =
            deploy::carry_out(&state, rebuild, WaitOptions::up_to(state.limits.deploy_wait, base), Vec::new()).await?;
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

/// Starts the agent under a lease and answers with it, unless another request stops or deletes it meanwhile.
async fn change<F>(state: &Arc<AppState>, name: Name, work: impl FnOnce(Name) -> F) -> ApiResult<Response>
where
    F: Future<Output = Result<Agent>> + Send + 'static,
{
    let lease = state.deployer.lease(name.clone(), Urgency::Patient, state.limits.deploy_wait).await?;
    let (unwanted, work) = (lease.unwanted(), work(name.clone()));
    let work = |_| async move {
        let done = unwanted.run_until_cancelled(work).await;
        done.unwrap_or_else(|| Err(Error::new(Code::Conflict, "the agent was stopped or deleted meanwhile")))
    };
    let (status, agent) = carry_out(state, lease, name, work).await?;
    Ok(shown(state, status, &agent))
}

/// Does `work` under the agent's lease; answers 202 if that takes longer than an answer may.
async fn carry_out<F>(
    state: &Arc<AppState>,
    lease: AgentLease,
    name: Name,
    work: impl FnOnce(Name) -> F,
) -> Result<(StatusCode, Agent)>
where
    F: Future<Output = Result<Agent>> + Send + 'static,
{
    let done = to_its_end(state, lease, work(name.clone()));
    match tokio::time::timeout(state.limits.deploy_wait, done).await {
        Ok(agent) => Ok((StatusCode::OK, agent?)),
        Err(_) => Ok((StatusCode::ACCEPTED, state.agents.get_agent(name).await?)),
    }
}

fn shown(state: &AppState, status: StatusCode, agent: &Agent) -> Response {
    (status, Json(schema::show(agent, &state.public_registry))).into_response()
}

/// Does `work` under the lease, to its end even when the caller disconnects. While the lease is only waited for, a
/// disconnect ends the wait.
pub async fn to_its_end<T: Send + 'static>(
    state: &AppState,
    lease: AgentLease,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let whole = async move {
        let done = work.await;
        drop(lease);
        done
    };
    let request = telemetry::request_id().unwrap_or_default();
    let whole = telemetry::with_request_id(request, whole).in_current_span();
    state.tasks.spawn(whole).await.map_err(|e| Error::internal("changing the agent", e))?
}
