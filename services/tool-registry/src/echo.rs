//! The built-in echo tool: `POST /echo` answers with what it was sent. No key, no state.

use axum::{
    Json, Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hoistway_kit::{connection_limits::Limits, ports::Listeners, web};
use hoistway_model::{Code, Error, Result};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The largest request body.
const MAX_BODY: usize = 1 << 20;
/// The time that a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Connections at the same time; the oldest makes room for one more.
const MAX_CONNECTIONS: usize = 128;

/// The HTTP face of the service: `POST /echo` and `GET /healthz`.
pub fn router() -> Router {
    Router::new()
        .route("/echo", post(echo))
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .fallback(async |request: Request| {
            failure(&Error::new(Code::NotFound, format!("nothing is at {}; try POST /echo", request.uri().path())))
        })
        .method_not_allowed_fallback(async |request: Request| {
            let text = format!("{} is not allowed on {}", request.method(), request.uri().path());
            failure(&Error::new(Code::MethodNotAllowed, text))
        })
        // One request for each connection: idle ones would hold the bounded number of places.
        .layer(axum::middleware::map_response(async |mut response: Response| {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }))
}

/// Serves [`router`] until `shutdown`; then requests in flight have a moment left.
pub async fn serve(listeners: Listeners, shutdown: CancellationToken) -> Result<()> {
    let limits = Limits { strangers: MAX_CONNECTIONS, ..Limits::default() };
    web::serve("echo-tool", listeners, router(), limits, shutdown).await
}

/// The content type is not asked for: people try this by hand.
async fn echo(request: Request) -> Response {
    match message(request.into_body()).await {
        Ok(message) => Json(json!({ "reply": message, "message": message })).into_response(),
        Err(e) => failure(&e),
    }
}

async fn message(body: Body) -> Result<String> {
    let body = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| Error::new(Code::DeadlineExceeded, "the request body did not arrive in time"))?
        .map_err(unreadable)?;
    let request: Value = serde_json::from_slice(&body)
        .map_err(|e| Error::new(Code::InvalidArgument, format!("the body is not JSON: {e}")))?;
    match request {
        Value::Object(mut members) => match members.remove("message") {
            Some(Value::String(message)) => Ok(message),
            None | Some(Value::Null) => Err(Error::field("message", "is required")),
            Some(_) => Err(Error::field("message", "must be a string")),
        },
        _ => Err(Error::new(Code::InvalidArgument, "the body must be an object with the member \"message\"")),
    }
}

fn unreadable(error: axum::Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(e) = cause {
        if e.is::<http_body_util::LengthLimitError>() {
            return Error::new(Code::PayloadTooLarge, format!("the body is larger than {MAX_BODY} bytes"));
        }
        cause = e.source();
    }
    Error::new(Code::InvalidArgument, "the body ended before it was complete")
}

fn failure(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(json!({ "error": error.message, "code": error.code.as_str() }))).into_response()
}
