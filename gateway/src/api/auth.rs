//! Who may call. Asked before anything else of a request for what is guarded is looked at, its path and method included.

use super::error::{ApiError, ApiResult};
use crate::state::AppState;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use hoistway_model::{Code, Error};
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;

/// The other header that public clients send their key in.
const KEY_HEADER: &str = "x-runagents-api-key";

/// Whether what is at `path` needs a key.
pub fn is_guarded(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/") || path == "/metrics"
}

/// Answers 401 to whoever shows no valid key.
pub async fn require_key(State(state): State<Arc<AppState>>, request: Request, next: Next) -> ApiResult<Response> {
    if is_guarded(request.uri().path()) {
        check(&state, request.headers())?;
    }
    Ok(next.run(request).await)
}

fn check(state: &AppState, headers: &HeaderMap) -> ApiResult<()> {
    let presented = [bearer(headers), text(headers, KEY_HEADER)];
    let mut presented = presented.into_iter().flatten().peekable();
    let message = if presented.peek().is_none() {
        "an API key is needed, as \"Authorization: Bearer KEY\" or \"X-RunAgents-API-Key: KEY\""
    } else if presented.any(|key| state.keys.verify(key)) {
        return Ok(());
    } else {
        "the API key is not valid"
    };
    let refusal = ApiError::from(Error::new(Code::Unauthenticated, message));
    Err(refusal.with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = text(headers, header::AUTHORIZATION.as_str())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}
