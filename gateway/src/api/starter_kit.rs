//! `POST /api/starter-kit`.

use super::{error::ApiResult, tools};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_model::{Name, Operation};
use serde_json::{Value, json};
use std::sync::Arc;

/// Makes sure of the demo resources and gives the tool to agents that were deployed before. Needs no body.
pub async fn seed(State(state): State<Arc<AppState>>) -> ApiResult<Json<Value>> {
    state.tools.seed_starter_kit(Operation::new()).await?;
    let echo = state.tools.get_tool(Name::parse("name", "echo-tool")?).await?;
    tools::bind(&state, &echo);
    Ok(Json(json!({"status": "ok", "message": "Starter kit resources created"})))
}
