//! The two probes. They are open, so they say little.

use super::error::ApiResult;
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_model::{Code, Error};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /healthz`: the process answers.
pub async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: a deploy would work.
pub async fn ready(State(state): State<Arc<AppState>>) -> ApiResult<Json<Value>> {
    if !state.routes.is_filled() {
        return Err(Error::new(Code::Unavailable, "the routing table is not filled yet").into());
    }
    match state.ready.check().await {
        Ok(()) => Ok(Json(json!({"status": "ready"}))),
        // Whatever it is that fails, a probe is told 503.
        Err(e) => Err(Error::new(Code::Unavailable, format!("not ready: {}", e.message)).with_source(e).into()),
    }
}
