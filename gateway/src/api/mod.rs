//! The HTTP edge: the public API, the same under `/api` and `/api/v1`.

mod agents;
mod auth;
pub mod body;
mod builds;
mod connection;
mod deploy;
pub mod deploy_request;
mod deployments;
mod edge;
pub mod error;
mod health;
mod invoke;
pub mod json;
mod model_providers;
mod query;
mod starter_kit;
mod tools;

use crate::state::AppState;
use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use error::ApiError;
use hoistway_model::{Code, Error};
use std::sync::Arc;

/// Every path of the public API and the two probes.
pub fn router(state: Arc<AppState>) -> Router {
    let mut router = Router::new().route("/healthz", get(health::alive)).route("/readyz", get(health::ready));
    for base in ["/api", "/api/v1"] {
        let at = |path: &str| format!("{base}{path}");
        router = router
            .route(&at("/deploy"), post(deploy::deploy))
            .route(&at("/starter-kit"), post(starter_kit::seed))
            .route(&at("/agents"), get(agents::list))
            .route(&at("/agents/{name}"), get(agents::get).delete(agents::delete))
            .route(&at("/agents/{name}/logs"), get(agents::logs))
            .route(&at("/agents/{name}/invoke"), post(invoke::invoke))
            .route(&at("/agents/{name}/invoke/stream"), post(invoke::stream))
            .route(&at("/tools"), get(tools::list).post(tools::create))
            .route(&at("/tools/{name}"), get(tools::get).delete(tools::delete))
            .route(&at("/model-providers"), get(model_providers::list).post(model_providers::create))
            .route(&at("/model-providers/{name}"), get(model_providers::get).delete(model_providers::delete))
            .route(&at("/builds"), get(builds::list))
            .route(&at("/builds/{id}"), get(builds::get))
            .route(&at("/builds/{id}/logs"), get(builds::logs))
            .route(&at("/deployments"), get(deployments::list))
            .route(&at("/deployments/{id}"), get(deployments::get));
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), auth::require_key))
        .layer(from_fn(edge::edge))
        .with_state(state)
}

async fn not_found(request: Request) -> ApiError {
    let path = json::short(request.uri().path());
    Error::new(Code::NotFound, format!("there is nothing at {path}")).into()
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (request.method(), json::short(request.uri().path()));
    Error::new(Code::MethodNotAllowed, format!("{method} does not exist at {path}; see the Allow header")).into()
}
