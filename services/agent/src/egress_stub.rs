//! What stands where egress will be: it answers every call with a clear "not yet" in the shape that model clients
//! read, so that `openai.OpenAI()` at import works and a call says why it fails.

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use hoistway_model::{Error, Result};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The routes of the stand-in.
pub fn router() -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(not_yet)
}

async fn not_yet() -> Response {
    let body = json!({"error": {
        "message": "no egress yet: this installation cannot reach model providers for agents",
        "type": "service_unavailable",
        "param": null,
        "code": "no_egress_yet",
    }});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, stop: CancellationToken) -> Result<()> {
    axum::serve(listener, router())
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
        .map_err(|e| Error::internal("serving egress", e))
}
