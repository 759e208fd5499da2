//! Providers of kind bedrock: the Converse API of Amazon Bedrock, for chat completions of the OpenAI API.

mod endpoint;
mod request;
mod response;
mod sign;
mod stream;

pub(super) use endpoint::{Endpoint, endpoint};

use super::chat_completions::{ChatRequest, Completion, Invalid, Provider};
use crate::{forward::refusal::Refusal, policy::ModelServer};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use stream::ConverseStream;

/// Characters that stay as they are in a segment of a path (RFC 3986, unreserved): signatures are made of exactly this
/// spelling.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The header in which an error says its kind.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// The Converse API.
pub(super) struct Bedrock;

impl Provider for Bedrock {
    type Stream = ConverseStream;
    const STREAM: &'static str = "application/vnd.amazon.eventstream";
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

    fn request(_: &str, chat: ChatRequest) -> Result<Value, Invalid> {
        request::converse_request(chat)
    }

    fn path(model: &str, is_streamed: bool) -> String {
        let operation = if is_streamed { "converse-stream" } else { "converse" };
        format!("model/{}/{operation}", utf8_percent_encode(model, SEGMENT))
    }

    fn headers(server: &ModelServer, path: &str, sent: &HeaderMap, body: &Bytes) -> Result<HeaderMap, Refusal> {
        let mut headers = HeaderMap::new();
        headers.extend(sent.get(header::USER_AGENT).map(|value| (header::USER_AGENT, value.clone())));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        sign::sign(server, path, &mut headers, body)?;
        Ok(headers)
    }

    fn completion(answer: &Value, created: i64) -> Option<Completion> {
        response::completion(answer, created)
    }

    /// An error's kind is in a header, with more after a colon.
    fn error(headers: &HeaderMap, body: &Value) -> Option<(String, String)> {
        let kind = headers.get(ERROR_TYPE)?.to_str().ok()?.split([':', ',']).next()?;
        let message = body.get("message").or_else(|| body.get("Message"))?.as_str()?;
        Some((kind.to_owned(), message.to_owned()))
    }
}

#[cfg(test)]
mod tests;
