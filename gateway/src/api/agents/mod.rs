//! `/api/agents`.

pub mod schema;

use super::{
    error::{ApiResult, ErrorBody},
    lifecycle::to_its_end,
    pagination::NamePage,
    query::{Query, Segment},
    tools::Deleted,
};
use crate::{deploy::Urgency, state::AppState};
use axum::{Json, extract::State};
use hoistway_model::{Code, Name, Operation, Result};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The number of attempts, and the pause between them, to release a deleted agent's bindings while the registry is
/// unavailable.
const RELEASE_TRIES: u32 = 5;
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, delete))
}

/// List agents
///
/// All agents, in the order of their names.
#[utoipa::path(
    get,
    path = "/agents",
    tag = "agents",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries of the answer; one of 32 MiB has fewer"),
        ("after" = Option<String>, Query),
    ),
    responses((status = 200, description = "The agents", body = [schema::AgentSchema]))
)]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<NamePage> {
    let _place = state.lists.place().await?;
    let show = |agent| schema::show(&agent, &state.public_registry);
    Ok(NamePage::fetch(&query, |part| state.agents.list_agents(part), |agent| &agent.name, show).await?)
}

/// Get an agent
///
/// The specification and the status of one agent.
#[utoipa::path(
    get,
    path = "/agents/{name}",
    tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses((status = 200, description = "The agent", body = schema::AgentSchema))
)]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Value>> {
    let agent = state.agents.get_agent(name.name("agent")?).await?;
    Ok(Json(schema::show(&agent, &state.public_registry)))
}

/// Delete an agent
///
/// Stops the agent and removes it with its revisions. Its tools stay and no longer count it as a user. Deploys of it that are
/// under way and take long are cancelled.
#[utoipa::path(
    delete,
    path = "/agents/{name}",
    tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "It is deleted", body = Deleted, example = json!({"status": "deleted"})),
        (status = 409, description = "It is being deployed, and nothing was changed", body = ErrorBody),
        (status = 504, description = "What was under way was cancelled for it, and takes longer to end than the answer waits", body = ErrorBody),
    )
)]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Value>> {
    let name = name.name("agent")?;
    // An earlier accepted deploy ends first, by itself or cancelled. The work goes on when the caller hangs up, so that
    // it is not left half done.
    let lease = state.deployer.lease(name.clone(), Urgency::Cancel, state.limits.deploy_wait).await?;
    let was_there = lease.cancelled_others();
    match to_its_end(&state, lease, delete_whole(state.clone(), name)).await {
        // Its first deploy was cancelled for the deletion, and nothing of it is left.
        Err(e) if e.code == Code::NotFound && was_there => {}
        done => done?,
    }
    Ok(Json(deleted()))
}

async fn delete_whole(state: Arc<AppState>, name: Name) -> Result<()> {
    // An agent that does not exist may be left of an interrupted deletion: the rest is done all the same.
    let (delete, reserve) = (Operation::new(), &state.reserve);
    let deleted = reserve.for_freeing(|| state.agents.delete_agent(delete.clone(), name.clone())).await;
    if deleted.as_ref().is_err_and(|e| e.code != Code::NotFound) {
        return deleted;
    }
    state.routes.forget(&name);
    let release = Operation::new();
    for tries in 1.. {
        match reserve.for_freeing(|| state.tools.release_agent(release.clone(), name.clone())).await {
            Err(e) if e.code.is_transient() && tries < RELEASE_TRIES => tokio::time::sleep(RELEASE_PAUSE * tries).await,
            // There is nothing to release.
            Err(e) if e.code == Code::NotFound => break,
            Err(e) => {
                return Err(
                    e.prefixed(&format!("agent \"{name}\" is deleted, but its tools still count it as a user: "))
                );
            }
            Ok(()) => break,
        }
    }
    deleted
}

/// The answer to every successful DELETE.
pub fn deleted() -> Value {
    json!({"status": "deleted"})
}
