//! The page that shows the OpenAPI document: three own files and nothing external, so that it works without a network
//! and under a policy that lets a browser load nothing else.

use crate::state::AppState;
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, header};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns the page, which is described, and its parts, which are not.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    let parts = Router::new()
        .route("/docs/docs.css", get(|| async { file("text/css; charset=utf-8", include_str!("docs.css")) }))
        .route("/docs/docs.js", get(|| async { file("text/javascript; charset=utf-8", include_str!("docs.js")) }))
        .route("/docs/icon.svg", get(|| async { file("image/svg+xml", include_str!("icon.svg")) }));
    OpenApiRouter::new().routes(routes!(docs)).merge(OpenApiRouter::from(parts))
}

/// Read the documentation
///
/// A page for browsers that shows this document, with samples to copy. It needs no API key, and no network but this
/// installation.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "platform",
    operation_id = "get_docs",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
async fn docs() -> Response {
    file("text/html; charset=utf-8", include_str!("docs.html"))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}
