//! `/api/deployments`.

use super::{
    builds::{DEFAULT_LIMIT, MAX_LIMIT},
    error::ApiResult,
    query::{Query, Segment},
};
use crate::{deploy::Deployment, public::PublicAddresses, state::AppState};
use axum::{Json, extract::State};
use hoistway_kit::time::rfc3339;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// `GET /deployments?agent=NAME&limit=N`, newest first.
#[utoipa::path(get, path = "/deployments", tag = "deployments")]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<Json<Vec<Value>>> {
    let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let deployments = state.deployer.list(query.name("agent")?, limit).await?;
    Ok(Json(deployments.iter().map(|deployment| shape(deployment, &state.public)).collect()))
}

/// `GET /deployments/{id}`.
#[utoipa::path(get, path = "/deployments/{id}", tag = "deployments", params(("id" = String, Path, description = "The deployment's id")))]
pub async fn get(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Json<Value>> {
    let deployment = state.deployer.get(id.id("deployment")?).await?;
    Ok(Json(shape(&deployment, &state.public)))
}

fn shape(deployment: &Deployment, public: &PublicAddresses) -> Value {
    let error = deployment
        .error
        .as_ref()
        .map(|failure| json!({"error": failure.message, "code": failure.code.as_str(), "details": failure.details}));
    json!({
        "id": deployment.id,
        "agent": deployment.agent,
        "kind": deployment.kind.as_str(),
        "revision": deployment.revision,
        "status": deployment.status.as_str(),
        "step": deployment.step,
        "tools_created": deployment.tools_created,
        "build_id": deployment.image.as_ref().map(|image| &image.build_id),
        "image_uri": deployment.image.as_ref().map(|image| public.image_uri(image)),
        "error": error,
        "created_at": rfc3339(deployment.created_at),
        "updated_at": rfc3339(deployment.updated_at),
        "completed_at": deployment.completed_at.map(rfc3339),
    })
}
