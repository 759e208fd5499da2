//! Calls of models: the OpenAI API and that of Anthropic, as agents' clients speak them, in front of whichever provider
//! serves the model.

mod anthropic;
mod api;
mod bedrock;
mod buffering;
mod chat_completions;
mod genai_messages;
mod listing;
mod metering;
mod playground;
pub(crate) mod provider;
mod request;
mod retry;
mod sse;

pub(crate) use buffering::{WORK, bodies};

use crate::{
    Egress,
    calls::call_entry::CallEntry,
    forward::Answer,
    forward::refusal::{Refusal, Shape},
    policy::{
        AgentPolicy, ModelBackend, ModelKey, ModelPolicy, ModelServer, ModelUnavailable, ModelUnavailableReason,
        Protocol,
    },
};
use anthropic::Anthropic;
use api::Api;
use bedrock::Bedrock;
use hoistway_model::{agent::LlmRole, public_model_apis::PLACEHOLDER_KEY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use request::ModelRequest;
use retry::Attempts;

/// The path below which clients of models call.
const PREFIX: &str = "/v1/";
/// The longest model identifier that a refusal repeats, in characters.
const SHOWN_MODEL: usize = 128;

/// A call of a model that the agent may make.
struct ModelCall<'a> {
    api: Api,
    model: &'a ModelPolicy,
    parts: Parts,
    query: &'a str,
    request: ModelRequest,
}

/// Whether a path of egress is one of models.
pub(crate) fn is_model_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Whose errors a client reads that calls this path, if it is one of models.
pub(crate) fn error_shape(path: &str, headers: &HeaderMap) -> Option<Shape> {
    let path = path.strip_prefix(PREFIX)?;
    let is_anthropics = match Api::of_path(path) {
        Some(api) => api.protocol() == Protocol::Anthropic,
        None => path.starts_with("messages/") || anthropic::is_client(headers),
    };
    Some(if is_anthropics { Shape::Anthropic } else { Shape::OpenAi })
}

/// Whether a client shows the placeholder of the platform's own key.
pub(crate) fn has_placeholder_key(headers: &HeaderMap) -> bool {
    let is_placeholder = |key: &str| key.trim() == PLACEHOLDER_KEY;
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    text(&anthropic::KEY).is_some_and(is_placeholder)
        || text(&header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .is_some_and(|(_, key)| is_placeholder(key))
}

/// Answers a call of a model, or passes it on to the provider of the model that it names.
pub(crate) async fn call(
    egress: &Egress,
    policy: &AgentPolicy,
    request: Request<Incoming>,
    path_and_query: &str,
    entry: &mut CallEntry,
) -> Result<Answer, Refusal> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    let Some(api) = Api::of_path(path) else {
        return match (path, path.strip_prefix("models/")) {
            ("models", _) => get(request.method()).map(|()| listing::all(policy, request.headers())),
            (_, Some(model)) => get(request.method()).and_then(|()| listing::one(policy, request.headers(), model)),
            _ => Err(Refusal::not_found(
                "egress has chat/completions, completions, embeddings, responses and models of the OpenAI API below \
                 /v1/, and messages and messages/count_tokens of that of Anthropic",
            )),
        };
    };
    if *request.method() != Method::POST {
        return Err(Refusal::method_not_allowed(format!("/v1/{path} is called with POST")));
    }
    entry.hold(egress.agents.call(&policy.agent)?);
    let (parts, body) = request.into_parts();
    let mut request = ModelRequest::read(egress, &policy.agent, &parts.headers, body).await?;
    let model = choose(policy, api, request.model.as_deref())?;
    if request.model.is_none() {
        request.set_model(&model.model);
    }
    entry.span().model(api.operation(), model.backend.kind(), &model.model);
    if egress.config.trace_prompts {
        entry.span().prompt(|| genai_messages::input_messages(&request.body));
    }
    // Calls that its budget stops are those of a provider too.
    if let Some(provider) = model.backend.provider() {
        entry.model_provider(provider);
    }
    let mut call = ModelCall { api, model, parts, query, request };
    let meter = metering::begin(egress, policy, &mut call, entry).await?;
    let answer = answer(egress, policy, call, entry).await;
    match meter {
        Some(meter) => meter.measure(answer).await,
        None => answer,
    }
}

/// Gets the answer from whoever serves the model. Every answer of a model comes from here.
async fn answer(
    egress: &Egress,
    policy: &AgentPolicy,
    call: ModelCall<'_>,
    entry: &mut CallEntry,
) -> Result<Answer, Refusal> {
    match &call.model.backend {
        ModelBackend::Server(server) => {
            entry.model_provider(&server.name);
            entry.to(server.origin.to_string());
            match (server.protocol, call.api) {
                (protocol, api) if api.protocol() == protocol => pass_on(egress, policy, server, call, entry).await,
                (Protocol::Anthropic, Api::ChatCompletions) => {
                    chat_completions::complete::<Anthropic>(egress, policy, server, call, entry).await
                }
                (Protocol::Bedrock, Api::ChatCompletions) => {
                    chat_completions::complete::<Bedrock>(egress, policy, server, call, entry).await
                }
                (_, api) => Err(not_spoken(api, &call.model.model, &format!("the provider \"{}\"", server.name))),
            }
        }
        ModelBackend::Playground(name) => {
            let ModelCall { api, model, request, .. } = call;
            entry.model_provider(name);
            entry.progress().sent(request.body.len() as u64);
            playground::answer(api, model.model.clone(), request.body).await.map(Answer::Own)
        }
        ModelBackend::Unavailable(why) => {
            if let Some(name) = &why.provider {
                entry.model_provider(name);
            }
            Err(refusal(why))
        }
    }
}

/// Passes a call on to a server that speaks its API.
async fn pass_on(
    egress: &Egress,
    policy: &AgentPolicy,
    server: &ModelServer,
    call: ModelCall<'_>,
    entry: &mut CallEntry,
) -> Result<Answer, Refusal> {
    let ModelCall { api, mut parts, query, request, .. } = call;
    let mut path_and_query = format!("{}/{}", server.prefix, api.path());
    entry.path(&path_and_query);
    if !query.is_empty() {
        path_and_query.extend(["?", query]);
    }
    // The body may have become another one.
    parts.headers.remove(header::CONTENT_LENGTH);
    let attempts = Attempts { path_and_query, parts, body: request.body, memory: request.memory };
    attempts.make(egress, policy, server, entry, |headers, _| Ok(headers.clone())).await
}

/// The refusal of a call in an API that `whom`, who serves the model, does not speak.
fn not_spoken(api: Api, model: &str, whom: &str) -> Refusal {
    let text = match api.protocol() {
        Protocol::Anthropic => format!(
            "\"{model}\" is served by {whom}, which does not speak the API of Anthropic: call it with the OpenAI API, \
             /v1/chat/completions"
        ),
        Protocol::OpenAi | Protocol::Bedrock => {
            format!("\"{model}\" is served by {whom}, which has no {}: call it with /v1/chat/completions", api.path())
        }
    };
    Refusal::bad_request(text).param("model").permanent()
}

/// Puts the server's key in the place of the one that the agent sent, and what its API insists on beside it.
pub(crate) fn apply_key(server: &ModelServer, headers: &mut HeaderMap) -> Result<(), Refusal> {
    if matches!(server.key, Some(ModelKey::Aws(_))) {
        // The request was made and signed by egress.
        return Ok(());
    }
    anthropic::remove_keys(headers);
    if server.protocol == Protocol::Anthropic {
        anthropic::add_version(headers);
    }
    let Some(ModelKey::ApiKey(key)) = &server.key else { return Ok(()) };
    let (name, prefix) = match server.protocol {
        Protocol::OpenAi | Protocol::Bedrock => (header::AUTHORIZATION, "Bearer "),
        Protocol::Anthropic => (anthropic::KEY, ""),
    };
    let mut value = HeaderValue::try_from([prefix, key.expose()].concat()).map_err(|_| {
        let text = format!("the key of the model provider \"{}\" cannot be sent: set it again", server.name);
        Refusal::bad_gateway("credential_unusable", text).permanent()
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// The header of a request that egress makes itself.
pub(crate) fn own_request(server: &ModelServer) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    apply_key(server, &mut headers)?;
    Ok(headers)
}

fn get(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::GET => Ok(()),
        _ => Err(Refusal::method_not_allowed("models are listed with GET")),
    }
}

/// Chooses the agent's model that a request names. Without a name it is the one for this kind of call, or the chat
/// model. Where two roles have the same model, that of this kind of call is preferred.
fn choose<'a>(policy: &'a AgentPolicy, api: Api, name: Option<&str>) -> Result<&'a ModelPolicy, Refusal> {
    let of_role = |role| move |model: &&ModelPolicy| model.role == role;
    let mut models: Vec<&ModelPolicy> = policy.models.iter().collect();
    models.sort_by_key(|model| model.role != api.role());
    match name {
        Some(name) => models.into_iter().find(|model| model.model == name).ok_or_else(|| not_allowed(policy, name)),
        None => {
            let chat = policy.models.iter().find(of_role(LlmRole::Chat));
            models.into_iter().find(of_role(api.role())).or(chat).ok_or_else(|| {
                Refusal::bad_request("the request names no model, and this agent has none for chat").param("model")
            })
        }
    }
}

fn not_allowed(policy: &AgentPolicy, name: &str) -> Refusal {
    let name: String = name.chars().take(SHOWN_MODEL).collect();
    let mut models: Vec<String> = policy.models.iter().map(|model| format!("\"{}\"", model.model)).collect();
    models.dedup();
    let text = match models.is_empty() {
        true => "this agent has no models: name them in llm_configs".to_owned(),
        false => format!(
            "this agent may not call the model \"{}\", only {}: llm_configs name its models",
            name.escape_debug(),
            models.join(", ")
        ),
    };
    Refusal::denied("model_not_allowed", text).param("model")
}

fn refusal(why: &ModelUnavailable) -> Refusal {
    let word = match why.reason {
        ModelUnavailableReason::NoProvider => "provider_missing",
        ModelUnavailableReason::NoKey => "credential_missing",
        ModelUnavailableReason::BadEndpoint => "provider_unusable",
    };
    Refusal::bad_gateway(word, &why.text).permanent()
}

/// An answer of egress itself as JSON.
fn json(value: &serde_json::Value) -> http::Response<crate::forward::body::Out> {
    let mut response = http::Response::new(crate::forward::body::full(bytes::Bytes::from(format!("{value}\n"))));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod translation_tests;
