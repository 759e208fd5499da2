//! `POST /api/starter-kit`.

use super::{error::ApiResult, tools};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_model::{Name, Operation};
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(seed))
}

/// Makes sure of the demo resources and gives the tool to agents that were deployed before. Needs no body.
#[utoipa::path(post, path = "/starter-kit", tag = "starter kit")]
pub async fn seed(State(state): State<Arc<AppState>>) -> ApiResult<Json<Value>> {
    state.tools.seed_starter_kit(Operation::new()).await?;
    let echo = state.tools.get_tool(Name::parse("name", "echo-tool")?).await?;
    tools::bind(&state, &echo);
    Ok(Json(json!({"status": "ok", "message": "Starter kit resources created"})))
}
