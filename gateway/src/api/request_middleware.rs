//! The handling of every request, known or not: an id, a span, a line in the log, and an answer even after a panic.

use super::{
    error::{ApiError, UnauthenticatedResponse},
    request_body::Drained,
};
use crate::{metrics::known_method, state::AppState};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use hoistway_kit::telemetry::{self, REQUEST_ID};
use hoistway_model::{Code, Error, error::excerpt};
use http::{HeaderMap, HeaderValue, Method, header::USER_AGENT};
use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Instant};
use tracing::{Instrument, Span};
use uuid::Uuid;

/// The route of a request that matches none.
const NO_ROUTE: &str = "unknown path";
/// The routes that probes and scrapers request all the time.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The outermost layer.
pub async fn handle(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let sent = telemetry::request_id_of(request.headers());
    let id: Arc<str> = sent.map_or_else(|| Uuid::now_v7().to_string().into(), Arc::from);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    let span = span(&request, &method, &route, &id);
    let answered = answer(request, next, id.clone()).instrument(span.clone());
    let mut response = telemetry::with_request_id(id.clone(), answered).await;
    state.metrics.request_answered(&method, &route, response.status(), began.elapsed());
    let status = response.status();
    telemetry::set_attribute(&span, "http.response.status_code", i64::from(status.as_u16()));
    let code = response.extensions().get::<Code>().map(|code| code.as_str());
    match (status.is_server_error(), code) {
        (true, code) => telemetry::set_error(&span, code.unwrap_or("internal")),
        // By the conventions a server has not failed where its client was wrong.
        (false, Some(code)) => telemetry::set_attribute(&span, "error.type", code),
        (false, None) => {}
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Returns the span of a request, by OpenTelemetry's conventions for HTTP servers: the child of the client's. Probes and
/// scrapes, which come without an end, are traced only for a client that traces them itself.
fn span(request: &Request, method: &Method, route: &str, id: &str) -> Span {
    let parent = telemetry::remote_parent(request.headers());
    if !parent.is_some() && PROBES.contains(&route) {
        return tracing::info_span!(target: telemetry::UNTRACED, "request", request_id = %id);
    }
    let route = Some(route).filter(|route| *route != NO_ROUTE);
    let method = known_method(method);
    let name = [Some(method.unwrap_or("HTTP")), route].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let span = tracing::info_span!(
        "request",
        otel.name = name,
        otel.kind = "server",
        http.request.method = method.unwrap_or("_OTHER"),
        http.route = route,
        url.path = excerpt(request.uri().path()),
        request_id = %id,
    );
    parent.adopt(&span);
    span
}

async fn answer(request: Request, next: Next, id: Arc<str>) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), excerpt(request.uri().path()));
    let own_read = method == Method::GET && is_own_client(request.headers());
    let inner = AssertUnwindSafe(next.run(Drained::wrap(request))).catch_unwind();
    let response = inner.await.unwrap_or_else(|panic| {
        ApiError::from(Error::internal("answering the request", said(panic.as_ref()))).into_response()
    });
    let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis());
    // Successful reads of the command line are not logged as news; failures are, except each of very many wrong keys.
    let is_news = !(own_read && response.status().is_success())
        && response.extensions().get::<UnauthenticatedResponse>().is_none();
    if path.starts_with("/api") && is_news {
        tracing::info!(target: "hoistway::access", request_id = %id, "{method} {path} {status} {ms}ms");
    } else {
        tracing::debug!(target: "hoistway::access", request_id = %id, "{method} {path} {status} {ms}ms");
    }
    response
}

/// Whether the client is Hoistway's own command line, in any version.
fn is_own_client(headers: &HeaderMap) -> bool {
    headers.get(USER_AGENT).is_some_and(|value| value.as_bytes().starts_with(b"hoistway/"))
}

/// Returns the message of a panic, for the log.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_default())
}
