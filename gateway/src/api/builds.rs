//! `/api/builds`.

use super::{
    agents::{MAX_TAIL, lines},
    error::ApiResult,
    query::{Query, Segment},
};
use crate::{public::PublicAddresses, state::AppState};
use axum::{Json, extract::State};
use hoistway_kit::time::rfc3339;
use hoistway_model::build::Build;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// How many entries a list has when nobody says, and at most.
pub const DEFAULT_LIMIT: u32 = 100;
/// See [`DEFAULT_LIMIT`].
pub const MAX_LIMIT: u32 = 1_000;

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(logs))
}

/// `GET /builds?limit=N`, newest first.
#[utoipa::path(get, path = "/builds", tag = "builds")]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<Json<Vec<Value>>> {
    let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let builds = state.builds.list_builds(limit).await?;
    Ok(Json(builds.iter().map(|build| shape(build, &state.public)).collect()))
}

/// `GET /builds/{id}`.
#[utoipa::path(get, path = "/builds/{id}", tag = "builds", params(("id" = String, Path, description = "The build's id")))]
pub async fn get(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Json<Value>> {
    let build = state.builds.get_build(id.into_text()).await?;
    Ok(Json(shape(&build, &state.public)))
}

/// `GET /builds/{id}/logs?tail=N`.
#[utoipa::path(get, path = "/builds/{id}/logs", tag = "builds", params(("id" = String, Path, description = "The build's id")))]
pub async fn logs(State(state): State<Arc<AppState>>, id: Segment, query: Query) -> ApiResult<String> {
    let tail = query.number("tail", 0..=MAX_TAIL)?;
    Ok(lines(state.builds.build_logs(id.into_text(), tail).await?))
}

fn shape(build: &Build, public: &PublicAddresses) -> Value {
    json!({
        "id": build.id,
        "agent": build.agent,
        "status": build.status.as_str(),
        "image": build.image.as_ref().map(|image| public.image_uri(image)),
        "error": build.error,
        "created_at": rfc3339(build.created_at),
        "completed_at": build.completed_at.map(rfc3339),
    })
}
