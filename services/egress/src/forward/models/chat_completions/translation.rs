//! One chat completion at a provider that speaks another API: its request, its answer, and what both mean.

use super::{ChatRequest, Chunks, Completion, Invalid, Translate, Translated, error, parse};
use crate::{
    Egress,
    calls::call_entry::CallEntry,
    forward::Answer,
    forward::models::{
        ModelCall,
        buffering::{self, Unread},
        json,
        retry::Attempts,
    },
    forward::refusal::Refusal,
    policy::{AgentPolicy, ModelServer},
};
use bytes::Bytes;
use hoistway_kit::time::now_ms;
use hoistway_model::Name;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

/// The largest answer that is not streamed.
const MAX_ANSWER: u64 = 32 << 20;
/// The header in which clients of OpenAI look for a request's identifier.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that describe the provider's body, and not the translated one.
const OF_THE_BODY: [HeaderName; 4] =
    [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::TRAILER];

/// An API that chat completions are translated for.
pub(in crate::forward::models) trait Provider {
    /// A reader of a streamed answer.
    type Stream: Translate + Default;
    /// The content type of a streamed answer.
    const STREAM: &'static str;
    /// The header that has a request's identifier.
    const REQUEST_ID: HeaderName;

    /// The body of the request.
    fn request(model: &str, chat: ChatRequest) -> Result<Value, Invalid>;
    /// The path below the server's base URL.
    fn path(model: &str, is_streamed: bool) -> String;
    /// The request's headers, for this path at the server; `sent` are those of the agent.
    fn headers(server: &ModelServer, path: &str, sent: &HeaderMap, body: &Bytes) -> Result<HeaderMap, Refusal>;
    /// Reads an answer. What it does not say of itself is left empty.
    fn completion(answer: &Value, created: i64) -> Option<Completion>;
    /// The kind and the text of an error.
    fn error(headers: &HeaderMap, body: &Value) -> Option<(String, String)>;
}

/// Makes a chat completion.
pub(in crate::forward::models) async fn complete<P: Provider>(
    egress: &Egress,
    policy: &AgentPolicy,
    server: &ModelServer,
    call: ModelCall<'_>,
    entry: &mut CallEntry,
) -> Result<Answer, Refusal> {
    let ModelCall { model, parts, request, .. } = call;
    let (name, body) = (model.model.clone(), request.body);
    let translation = buffering::translate(egress, body, move |body| {
        let chat = parse(&body)?;
        // Body, parsed form and what becomes of it are never there at once.
        let length = body.len();
        drop(body);
        let (is_streamed, include_usage) = (chat.is_streamed, chat.include_usage);
        let mut made = Vec::with_capacity(length);
        serde_json::to_writer(&mut made, &P::request(&name, chat)?).map_err(Invalid::unwritable)?;
        Ok::<_, Invalid>((is_streamed.then_some(include_usage), Bytes::from(made)))
    });
    let (streamed, body) = translation.await??;
    let path = format!("{}/{}", server.prefix, P::path(&model.model, streamed.is_some()));
    entry.path(&path);
    let headers_of = |sent: &HeaderMap, body: &Bytes| P::headers(server, &path, sent, body);
    let attempts = Attempts { path_and_query: path.clone(), parts, body, memory: request.memory };
    let answer = attempts.make(egress, policy, server, entry, headers_of).await?;
    let Answer::Response(response) = answer else { return Err(bad_answer(server, "switched protocols")) };
    let is_events = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.trim().to_ascii_lowercase().starts_with(P::STREAM)));
    match streamed {
        _ if !response.status().is_success() => failed::<P>(egress, &policy.agent, server, response).await,
        Some(include_usage) if is_events => {
            let (parts, body) = response.into_parts();
            let chunks = Chunks::new(id::<P>(&parts.headers), model.model.clone(), include_usage);
            let mut answer = Response::new(Translated::new(body, P::Stream::default(), chunks).boxed_unsync());
            *answer.headers_mut() = headers::<P>(parts.headers, "text/event-stream; charset=utf-8");
            Ok(Answer::Own(answer))
        }
        Some(_) => Err(bad_answer(server, "did not stream its answer")),
        None => completed::<P>(egress, &policy.agent, server, &model.model, response).await,
    }
}

/// A whole answer.
async fn completed<P: Provider>(
    egress: &Egress,
    agent: &Name,
    server: &ModelServer,
    model: &str,
    response: Response<Incoming>,
) -> Result<Answer, Refusal> {
    let (parts, body) = response.into_parts();
    let (body, _memory) =
        buffering::collect(egress, agent, body, MAX_ANSWER, false).await.map_err(|e| unread(server, &e))?;
    let (model, id) = (model.to_owned(), id::<P>(&parts.headers));
    let reading = buffering::translate(egress, body, move |body| {
        let answer = serde_json::from_slice(&body).ok()?;
        drop(body);
        let mut completion = P::completion(&answer, now_ms() / 1000)?;
        for (said, otherwise) in [(&mut completion.id, id), (&mut completion.model, model)] {
            if said.is_empty() {
                *said = otherwise;
            }
        }
        Some(completion.into_json())
    });
    let value = reading.await?.ok_or_else(|| bad_answer(server, "did not answer with a message"))?;
    let mut answer = json(&value);
    *answer.headers_mut() = headers::<P>(parts.headers, "application/json");
    Ok(Answer::Own(answer))
}

/// The provider's error in the shape of the OpenAI API, with its status and what it says about trying again.
async fn failed<P: Provider>(
    egress: &Egress,
    agent: &Name,
    server: &ModelServer,
    response: Response<Incoming>,
) -> Result<Answer, Refusal> {
    let (parts, body) = response.into_parts();
    let (body, _memory) =
        buffering::collect(egress, agent, body, MAX_ANSWER, false).await.map_err(|e| unread(server, &e))?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let told = P::error(&parts.headers, &body).unwrap_or_else(|| {
        let text = format!("the model provider \"{}\" answered {}", server.name, parts.status.as_u16());
        (kind(parts.status).to_owned(), text)
    });
    let mut answer = json(&error(&told.0, &told.1));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers::<P>(parts.headers, "application/json");
    Ok(Answer::Own(answer))
}

/// The identifier of an answer that has none but its request's.
fn id<P: Provider>(headers: &HeaderMap) -> String {
    let id = headers.get(P::REQUEST_ID).and_then(|id| id.to_str().ok());
    format!("chatcmpl-{}", id.unwrap_or_default())
}

fn kind(status: StatusCode) -> &'static str {
    if status.is_client_error() { "invalid_request_error" } else { "api_error" }
}

/// The headers of the provider's answer as those of a translated one.
fn headers<P: Provider>(mut headers: HeaderMap, content_type: &'static str) -> HeaderMap {
    for name in &OF_THE_BODY {
        headers.remove(name);
    }
    if let Some(id) = headers.get(P::REQUEST_ID).cloned() {
        headers.entry(REQUEST_ID).or_insert(id);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

fn unread(server: &ModelServer, error: &Unread) -> Refusal {
    match error {
        Unread::NoMemory => Refusal::overloaded("too many large answers of models are in progress"),
        Unread::TooLarge => bad_answer(server, "answered with more than can be translated"),
        Unread::Late => Refusal::timed_out(format!("the model provider \"{}\" has stopped sending", server.name)),
        Unread::Broken(_) => {
            let text = format!("the model provider \"{}\" broke its answer off", server.name);
            Refusal::bad_gateway("tool_broke_off", text)
        }
    }
}

fn bad_answer(server: &ModelServer, what: &str) -> Refusal {
    Refusal::bad_gateway("bad_answer", format!("the model provider \"{}\" {what}", server.name))
}
