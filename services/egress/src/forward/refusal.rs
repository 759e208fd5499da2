//! Answers of egress itself: refusals, and calls that could not be carried out. Every one has a text for people, a
//! code for programs and one word for the record.

use crate::forward::{
    body::{self, Out},
    headers::ANSWERED_BY_EGRESS,
};
use bytes::Bytes;
use hoistway_model::Code;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use serde_json::json;
use std::{borrow::Cow, time::Duration};

/// The code of everything that the policy forbids.
const DENIED: &str = "egress_denied";
/// The word of a call that an agent's budget does not allow.
const BUDGET_EXCEEDED: &str = "budget_exceeded";
/// The longest reason in a status line, in bytes.
const MAX_PHRASE: usize = 200;

/// Whose errors a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Those of egress.
    Egress,
    /// Those of the OpenAI API.
    OpenAi,
    /// Those of the API of Anthropic.
    Anthropic,
}

/// Why a call goes no further.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    code: &'static str,
    /// One word for the record.
    pub(crate) word: &'static str,
    /// The text for people.
    pub(crate) message: String,
    retry_after: Option<Duration>,
    shape: Shape,
    /// The member of the request that is wrong, for clients of models.
    pub(crate) param: Option<Cow<'static, str>>,
    /// Whether the same call fails again until somebody changes something, so that clients need not try.
    permanent: bool,
    /// Whether it was for a connection that had been used before and was closed on this request without any answer.
    pub(crate) stale: bool,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, word: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let (retry_after, shape, param) = (None, Shape::Egress, None);
        Self { status, code, word, message, retry_after, shape, param, permanent: false, stale: false }
    }

    /// Forbidden by the policy.
    pub(crate) fn denied(word: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, DENIED, word, message)
    }

    /// Nobody that egress knows; `proxy` says in which of HTTP's two ways the client can show a token.
    pub(crate) fn unidentified(proxy: bool, word: &'static str) -> Self {
        let status = if proxy { StatusCode::PROXY_AUTHENTICATION_REQUIRED } else { StatusCode::UNAUTHORIZED };
        let text = match word {
            "identity_missing" => {
                "egress does not know who calls: use the proxy variables of the environment as they are"
            }
            _ => "this token is not, or no longer, that of a running agent",
        };
        Self::new(status, Code::Unauthenticated.as_str(), word, text)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidArgument.as_str(), "bad_request", message)
    }

    /// A request for another host than the connection was made for.
    pub(crate) fn misdirected(message: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, DENIED, "misdirected", message)
    }

    pub(crate) fn method_not_allowed(message: impl Into<String>) -> Self {
        let code = Code::MethodNotAllowed.as_str();
        Self::new(StatusCode::METHOD_NOT_ALLOWED, code, "method", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound.as_str(), "not_found", message)
    }

    pub(crate) fn rate_limited(wait: Duration, message: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted.as_str());
        Self { retry_after: Some(wait), ..Self::new(status, code, "rate_limited", message) }
    }

    /// The agent has used up what it may use of models, which waiting for less than `wait` does not change.
    pub(crate) fn budget_exceeded(wait: Duration, message: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted.as_str());
        Self { retry_after: Some(wait), ..Self::new(status, code, BUDGET_EXCEEDED, message).permanent() }
    }

    pub(crate) fn too_large(limit: u64) -> Self {
        let text = format!("the request's body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::PayloadTooLarge.as_str(), "request_too_large", text)
    }

    /// The platform cannot say now what the agent may do.
    pub(crate) fn no_policy() -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable.as_str());
        let text = "what this agent may call cannot be looked up now";
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(status, code, "policy_unavailable", text) }
    }

    /// The platform has no room for the request now.
    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable.as_str());
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(status, code, "overloaded", message) }
    }

    /// The same as the client of an API reads errors.
    pub(crate) fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The same, naming the member of the request that is wrong.
    pub(crate) fn param(self, param: impl Into<Cow<'static, str>>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// The same, telling clients not to try again.
    pub(crate) fn permanent(self) -> Self {
        Self { permanent: true, ..self }
    }

    /// The type of the error in the OpenAI API.
    fn model_error_type(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS if self.word == BUDGET_EXCEEDED => "insufficient_quota",
            StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// The type of the error in the API of Anthropic, which tells a few more apart.
    fn anthropic_error_type(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            _ => self.model_error_type(),
        }
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded.as_str(), "timeout", message)
    }

    /// The tool, or what gives its tokens, does not answer as it should.
    pub(crate) fn bad_gateway(word: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, Code::Unavailable.as_str(), word, message)
    }

    /// The answer. The body of an answer to CONNECT is shown by no client, so its text goes into the status line too.
    pub(crate) fn answer(&self, to_connect: bool) -> Response<Out> {
        let body = match self.shape {
            Shape::Egress => json!({"error": self.message, "code": self.code, "reason": self.word}),
            Shape::Anthropic => {
                let error = json!({"type": self.anthropic_error_type(), "message": self.message});
                json!({"type": "error", "error": error, "reason": self.word})
            }
            Shape::OpenAi => {
                let error = json!({
                    "message": self.message,
                    "type": self.model_error_type(),
                    "param": self.param,
                    "code": self.word,
                });
                json!({"error": error, "reason": self.word})
            }
        };
        let mut response = Response::new(body::full(Bytes::from(format!("{body}\n"))));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ANSWERED_BY_EGRESS, HeaderValue::from_static(self.word));
        if self.shape != Shape::Egress && self.permanent {
            // Clients of both APIs try again after every 5xx that does not say this.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            headers.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"hoistway\""));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"hoistway\""));
        }
        if to_connect && let Some(phrase) = phrase(&self.message) {
            response.extensions_mut().insert(phrase);
        }
        response
    }
}

fn phrase(message: &str) -> Option<ReasonPhrase> {
    let text: String = message.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_PHRASE).collect();
    ReasonPhrase::try_from(text.into_bytes()).ok()
}
