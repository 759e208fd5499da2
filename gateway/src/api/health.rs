//! The two probes. They need no key, so they reveal little.

use super::error::{ApiResult, ErrorBody};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_kit::probes;
use hoistway_model::{Code, Error};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The answer of a probe.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `ready`.
    #[schema(examples("ok"))]
    status: &'static str,
}

/// Returns the paths of this module, outside `/api`.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(alive)).routes(routes!(ready))
}

/// Ask whether the process is alive
///
/// A liveness probe: it says that the process answers, and nothing of the services behind it.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "platform",
    operation_id = "get_health",
    responses((status = 200, description = "The process answers", body = Health, example = json!({"status": "ok"})))
)]
pub async fn alive() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Ask whether a deploy would work
///
/// A readiness probe: every service behind the API answers, and the routes to the agents are known.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "platform",
    operation_id = "get_readiness",
    responses(
        (status = 200, description = "Everything is up", body = Health, example = json!({"status": "ready"})),
        (status = 503, description = "Something is not up yet; the text says what", body = ErrorBody),
    )
)]
pub async fn ready(State(state): State<Arc<AppState>>) -> ApiResult<Json<Health>> {
    if !state.routes.is_filled() {
        return Err(Error::new(Code::Unavailable, "the routing table is not filled yet").into());
    }
    match probes::in_time(&*state.ready).await {
        Ok(()) => Ok(Json(Health { status: "ready" })),
        // A probe receives 503 for every failure.
        Err(e) => Err(Error::new(Code::Unavailable, format!("not ready: {}", e.message)).with_source(e).into()),
    }
}
