//! What stands for egress in an agent's own network until connections are handed on to it: it answers every call with a
//! clear "not yet" in the shape that model clients read, so that a call says why it fails.

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use hoistway_kit::{egress::NO_MODELS, ports::Listeners, web};
use hoistway_model::Result;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// The routes of the stand-in.
pub fn router() -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(not_yet)
}

async fn not_yet() -> Response {
    let body = json!({"error": {
        "message": NO_MODELS,
        "type": "service_unavailable",
        "param": null,
        "code": "unavailable",
    }});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// Serves until `shutdown`.
pub async fn serve(listeners: Listeners, shutdown: CancellationToken) -> Result<()> {
    web::serve(listeners, router(), shutdown).await
}
