//! The playground: a small deterministic responder in the place of a model, for trying things out with no account and
//! no network. It says what it is, repeats the last message, and calls a tool that the message asks for.

mod chat;
mod embeddings;
mod reply;
mod responses;

use super::{Api, json};
use crate::{
    forward::body::{Out, full},
    forward::refusal::Refusal,
};
use bytes::Bytes;
use hoistway_kit::time::now_ms;
use http::{HeaderValue, Response, header};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fmt::Write;

/// Stands in every answer of the playground, so that nobody takes it for a model.
const FINGERPRINT: &str = "hoistway-playground";
/// The most inputs of one request for embeddings.
const MAX_INPUTS: usize = 256;
/// The most dimensions of an embedding.
const MAX_DIMENSIONS: usize = 4096;

/// The parts of an answer.
enum Answer {
    Json(Value),
    Events(String),
}

/// The members that every answer has.
struct Envelope {
    /// The model that was requested.
    model: String,
    /// The same for the same request.
    id: String,
    /// Seconds since the epoch.
    created: i64,
}

impl Envelope {
    /// A deterministic identifier with a prefix, such as `chatcmpl`.
    fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.id)
    }
}

/// Answers a request for a model.
pub(super) async fn answer(api: Api, model: String, body: Bytes) -> Result<Response<Out>, Refusal> {
    let answering = tokio::task::spawn_blocking(move || respond(api, model, &body)).await;
    let answer = answering.unwrap_or_else(|e| {
        tracing::error!("the playground failed: {e}");
        Err(Refusal::overloaded("the playground cannot answer this request"))
    })?;
    Ok(match answer {
        Answer::Json(value) => json(&value),
        Answer::Events(text) => {
            let mut response = Response::new(full(Bytes::from(text)));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
    })
}

fn respond(api: Api, model: String, body: &[u8]) -> Result<Answer, Refusal> {
    let request: Value = serde_json::from_slice(body)
        .map_err(|e| Refusal::bad_request(format!("the request's body cannot be read as JSON: {e}")))?;
    let envelope = Envelope { model, id: hash(body), created: now_ms() / 1000 };
    match api {
        Api::ChatCompletions => chat::chat(&envelope, &request),
        Api::Completions => chat::legacy(&envelope, &request),
        Api::Responses => responses::respond(&envelope, &request),
        Api::Embeddings => embeddings::embed(&envelope, &request).map(Answer::Json),
        Api::Messages | Api::CountTokens => Err(super::not_spoken(api, &envelope.model, "the playground")),
    }
}

/// 16 hexadecimal digits.
fn hash(body: &[u8]) -> String {
    let digest = digest(&SHA256, body);
    digest.as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Server-Sent Events with a JSON document each.
fn events(values: impl IntoIterator<Item = Value>) -> String {
    values.into_iter().map(|value| format!("data: {value}\n\n")).collect()
}

fn is_streamed(request: &Value) -> bool {
    request["stream"] == true
}

/// Refuses a request for several answers, since all would be the same.
fn one_choice(request: &Value) -> Result<(), Refusal> {
    match &request["n"] {
        Value::Null => Ok(()),
        n if *n == 1 => Ok(()),
        _ => Err(Refusal::bad_request("the playground gives one answer to a request: \"n\" must be 1").param("n")),
    }
}

/// Words stand for tokens.
fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// A text in pieces that make up the text: words with the space after them.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

/// The text of a message's content: a string, or the text parts of a list.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join(" ")
        }
        _ => String::new(),
    }
}

fn chat_usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

#[cfg(test)]
mod tests;
