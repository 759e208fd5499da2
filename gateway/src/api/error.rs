//! Errors as answers of the gateway: one JSON shape, and the cause logged once.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use hoistway_kit::telemetry;
use hoistway_model::{Code, Error};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

/// The `Retry-After` of 429 and 503 answers for which no other time is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error with the HTTP status that answers it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    error: Arc<Error>,
    headers: Vec<(HeaderName, HeaderValue)>,
    retry_after: Duration,
    logged: bool,
    of_a_stranger: bool,
}

/// Marks an answer to a client that was refused often, in its extensions. Such answers are not logged: the client could
/// fill the log.
#[derive(Debug, Clone, Copy)]
pub struct UnauthenticatedResponse;

/// The result of every handler.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn with_status(status: u16, error: Arc<Error>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, error, headers: Vec::new(), retry_after: RETRY_AFTER, logged: false, of_a_stranger: false }
    }

    /// The error of a deployment after work on it had started: 500 with the cause in `code`, so that clients do not
    /// take a failed build or tool for an unavailable gateway. Errors that the caller can fix or wait out keep their
    /// status.
    ///
    /// The saga has logged it, once for all waiting callers.
    pub fn after_work_started(error: Arc<Error>) -> Self {
        let status = match error.code {
            Code::InvalidArgument | Code::Conflict | Code::ResourceExhausted | Code::InsufficientStorage => {
                error.code.http_status()
            }
            _ => 500,
        };
        Self { logged: true, ..Self::with_status(status, error) }
    }

    /// Returns the error with one more header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Returns the error with the time after which the caller may retry a 429 or 503.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = wait;
        self
    }

    /// Marks the answer as one of many to a client without a credential; it is not logged as others are.
    pub fn of_a_stranger(mut self) -> Self {
        self.of_a_stranger = true;
        self
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the error.
    pub fn error(&self) -> &Error {
        &self.error
    }

    fn log(&self) {
        let chain = self.error.chain();
        let (code, message) = (self.error.code.as_str(), self.error.message.as_str());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            // A service that is not up yet logs that itself; clients that poll must not fill the log.
            tracing::info!(target: "hoistway::error", code, chain, "{message}");
        } else if self.status.is_server_error() {
            tracing::error!(target: "hoistway::error", code, chain, "{message}");
        } else {
            tracing::debug!(target: "hoistway::error", code, chain, "{message}");
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::with_status(error.code.http_status(), Arc::new(error))
    }
}

/// The body of every error, 404 and 405 included.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// The cause and the remedy, for people. It names the field of the request where there is one to blame.
    error: String,
    /// The kind of error, for programs.
    #[schema(value_type = ErrorCode)]
    code: &'static str,
    /// The request, as the header `X-Request-Id` and the log name it.
    #[schema(value_type = String)]
    request_id: Arc<str>,
    /// Lines that prove the text: a traceback, a resolver's answer, the last log lines. Absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
    /// Advice, where the text does not contain it.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

/// The values of `code`, as the OpenAPI document lists them.
#[derive(Debug)]
pub struct ErrorCode;

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let codes = || Code::ALL.into_iter().map(|code| format!("- `{code}` ({})", code.http_status()));
        let known: Vec<_> = codes().collect();
        let text = format!(
            "The kind of an error, with the HTTP status that usually answers it. There may be more with time; judge one \
             that is not known here by its HTTP status.\n\n{}",
            known.join("\n")
        );
        let object = ObjectBuilder::new().schema_type(Type::String).description(Some(text));
        object.enum_values(Some(Code::ALL.map(Code::as_str))).into()
    }
}

impl ToSchema for ErrorCode {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if !self.logged {
            self.log();
        }
        let body = ErrorBody {
            error: self.error.message.clone(),
            code: self.error.code.as_str(),
            request_id: telemetry::request_id().unwrap_or_default(),
            details: self.error.details.clone(),
            remedy: self.error.code.remedy(),
        };
        let mut response = (self.status, Json(body)).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            // Whole seconds, rounded up: a retry before that time fails.
            let seconds = self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.of_a_stranger {
            response.extensions_mut().insert(UnauthenticatedResponse);
        }
        // The code is for the audit log too.
        response.extensions_mut().insert(self.error.code);
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_work_fails_with_500_but_for_what_the_caller_can_act_on() {
        for code in Code::ALL {
            let status = ApiError::after_work_started(Arc::new(Error::new(code, "x"))).status().as_u16();
            let kept = [400, 409, 429, 507].contains(&code.http_status()) && code != Code::Aborted;
            assert_eq!(status, if kept { code.http_status() } else { 500 }, "{code}");
        }
    }
}
