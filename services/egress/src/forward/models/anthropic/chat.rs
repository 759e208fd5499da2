//! Chat completions of the OpenAI API at a server that speaks the API of Anthropic.

use super::{VERSION, request::message_request, response, stream::MessageStream};
use crate::{
    forward::models::chat_completions::{ChatRequest, Completion, Invalid, Provider},
    forward::refusal::Refusal,
    policy::ModelServer,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

/// The API of Anthropic.
pub(in crate::forward::models) struct Anthropic;

/// The agent's headers that are passed on: the others are about the request that the agent has sent.
const KEPT: [HeaderName; 3] = [header::USER_AGENT, VERSION, HeaderName::from_static("anthropic-beta")];

impl Provider for Anthropic {
    type Stream = MessageStream;
    const STREAM: &'static str = "text/event-stream";
    const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

    fn request(model: &str, chat: ChatRequest) -> Result<Value, Invalid> {
        Ok(message_request(model, chat))
    }

    fn path(_: &str, _: bool) -> String {
        "messages".to_owned()
    }

    fn headers(_: &ModelServer, _: &str, sent: &HeaderMap, _: &Bytes) -> Result<HeaderMap, Refusal> {
        let mut headers = HeaderMap::new();
        for name in &KEPT {
            headers.extend(sent.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(headers)
    }

    fn completion(answer: &Value, created: i64) -> Option<Completion> {
        response::completion(answer, created)
    }

    fn error(_: &HeaderMap, body: &Value) -> Option<(String, String)> {
        response::error(body).map(|(kind, message)| (kind.to_owned(), message.to_owned()))
    }
}
