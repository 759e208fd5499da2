//! The HTTP API: the same routes under `/api` and `/api/v1`.

mod agent_app;
mod agent_config;
mod agents;
mod audit;
mod auth;
mod bearer;
pub mod budgets;
mod builds;
mod calls;
mod check;
pub mod config_fields;
mod cors;
mod deploy;
pub mod deploy_request;
mod deployments;
mod end_user;
pub mod error;
mod events;
mod health;
mod identity_providers;
mod in_use;
mod installation_identity;
mod invoke;
pub mod json;
mod keys;
mod lifecycle;
mod links;
mod logs;
mod metrics;
pub mod model_providers;
mod openapi;
mod pagination;
mod permissions;
mod query;
pub mod request_body;
mod request_middleware;
mod response_body;
mod revisions;
mod starter_kit;
mod status;
mod streaming;
mod tool_connection;
mod tools;
mod unsupported;
mod usage;

use crate::state::AppState;
use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
};
use error::ApiError;
use hoistway_model::{Code, Error, Result, error::excerpt};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;

/// Returns every route of the public API and those beside it, for web pages of `allowed_origins` too.
pub fn router(state: Arc<AppState>, allowed_origins: &[String]) -> Result<Router> {
    let api = || Router::from(routes());
    let guarded = Router::new()
        .merge(Router::from(root_routes()))
        .nest("/api", api())
        .nest("/api/v1", api())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), auth::guard));
    // Before the authentication: a preflight has no key.
    let shared = match cors::layer(allowed_origins)? {
        Some(cors) => guarded.layer(cors).layer(from_fn(cors::no_content)),
        None => guarded,
    };
    Ok(shared.layer(from_fn_with_state(state.clone(), request_middleware::handle)).with_state(state))
}

/// Returns the routes at the root, with their description.
fn root_routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new()
        .merge(health::routes())
        .merge(installation_identity::routes())
        .merge(openapi::routes())
        .merge(metrics::routes())
}

/// Returns the routes under `/api` and `/api/v1`, with their description.
fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new()
        .merge(deploy::routes())
        .merge(agents::routes())
        .merge(lifecycle::routes())
        .merge(agent_config::routes())
        .merge(revisions::routes())
        .merge(invoke::routes())
        .merge(agent_app::routes())
        .merge(tools::routes())
        .merge(model_providers::routes())
        .merge(identity_providers::routes())
        .merge(builds::routes())
        .merge(deployments::routes())
        .merge(logs::routes())
        .merge(calls::routes())
        .merge(usage::routes())
        .merge(budgets::routes())
        .merge(events::routes())
        .merge(starter_kit::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(status::routes())
}

async fn not_found(request: Request) -> ApiError {
    let path = excerpt(request.uri().path());
    let text = unsupported::about(&path).unwrap_or_else(|| format!("there is nothing at {path}"));
    Error::new(Code::NotFound, text).into()
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (request.method(), excerpt(request.uri().path()));
    Error::new(Code::MethodNotAllowed, format!("{method} does not exist at {path}; see the Allow header")).into()
}
