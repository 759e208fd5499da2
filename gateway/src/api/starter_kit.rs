//! `POST /api/starter-kit`.

use super::error::ApiResult;
use crate::{state::AppState, tool_url_updates};
use axum::{Json, extract::State};
use hoistway_model::{Name, Operation};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(seed))
}

/// The result of the request for the starter kit.
#[derive(Debug, Serialize, ToSchema)]
pub struct StarterKitOut {
    /// `ok`.
    #[schema(examples("ok"))]
    status: &'static str,
    /// The same for people.
    #[schema(examples("Starter kit resources created"))]
    message: &'static str,
}

/// Seed the starter kit
///
/// Makes sure of the demo resources, the tool `echo-tool` and the model provider `playground-llm`, and gives the tool
/// to agents that were deployed before. What exists is left as it is. Needs no body.
#[utoipa::path(
    post,
    path = "/starter-kit",
    tag = "starter kit",
    operation_id = "seed_starter_kit",
    responses((status = 200, description = "The resources are there", body = StarterKitOut))
)]
pub async fn seed(State(state): State<Arc<AppState>>) -> ApiResult<Json<StarterKitOut>> {
    state.tools.seed_starter_kit(Operation::new()).await?;
    tool_url_updates::propagate(&state, Name::parse("name", "echo-tool")?, None);
    Ok(Json(StarterKitOut { status: "ok", message: "Starter kit resources created" }))
}
