//! Calls of models: the OpenAI API, as agents' clients speak it, in front of whichever provider serves the model.

mod listing;
mod metering;
mod playground;
pub(crate) mod provider;
mod request;

pub(crate) use request::MEMORY;

use crate::{
    Egress,
    body::Upload,
    call::{self, Answer, Destination, Host},
    entry::Entry,
    headers::remove_all_spellings,
    origin::Origin,
    policy::{AgentPolicy, ModelBackend, ModelPolicy, ModelServer, ModelUnavailable, ModelUnavailableReason},
    refuse::Refusal,
    usage::UsageKey,
};
use hoistway_model::{
    agent::LlmRole,
    model_api::{MODEL_APIS, PLACEHOLDER_KEY},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use metering::{Meter, Prepared};
use request::ModelRequest;

/// The path below which clients of models call.
const PREFIX: &str = "/v1/";
/// The header in which clients of Anthropic show their key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The longest model identifier that a refusal repeats, in characters.
const SHOWN_MODEL: usize = 128;

/// An operation of the OpenAI API that goes to the model which the request's body names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
}

impl Api {
    fn of_path(path: &str) -> Option<Self> {
        let all = [Self::ChatCompletions, Self::Completions, Self::Embeddings, Self::Responses];
        all.into_iter().find(|api| path == api.path())
    }

    /// The path below that of the base URL.
    const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
        }
    }

    /// Whether its streams say what was used when they are asked for it with `stream_options`.
    const fn has_stream_options(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }

    const fn role(self) -> LlmRole {
        match self {
            Self::Embeddings => LlmRole::Embedding,
            Self::ChatCompletions | Self::Completions | Self::Responses => LlmRole::Chat,
        }
    }
}

/// Whether a path of egress is one of models.
pub(crate) fn is_model_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Whether clients of models call there without being told an address.
pub(crate) fn is_public_api(origin: &Origin) -> bool {
    let origin = origin.to_string();
    MODEL_APIS.iter().any(|api| api.origin == origin)
}

/// Whether a client shows the key that stands for the platform's own.
pub(crate) fn has_placeholder_key(headers: &HeaderMap) -> bool {
    let is_placeholder = |key: &str| key.trim() == PLACEHOLDER_KEY;
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    text(&X_API_KEY).is_some_and(is_placeholder)
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
    entry: &mut Entry,
) -> Result<Answer, Refusal> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    let Some(api) = Api::of_path(path) else {
        return match (path, path.strip_prefix("models/")) {
            ("models", _) => get(request.method()).map(|()| listing::all(policy)),
            (_, Some(model)) => get(request.method()).and_then(|()| listing::one(policy, model)),
            ("messages" | "messages/count_tokens" | "complete", _) => {
                Err(Refusal::unsupported("the API of Anthropic is not supported yet, the OpenAI API is"))
            }
            _ => Err(Refusal::not_found(
                "egress has chat/completions, completions, embeddings, responses and models of the OpenAI API below /v1/",
            )),
        };
    };
    if *request.method() != Method::POST {
        return Err(Refusal::method_not_allowed(format!("/v1/{path} is called with POST")));
    }
    entry.hold(egress.agents.call(&policy.agent)?);
    let (mut parts, body) = request.into_parts();
    let mut request = ModelRequest::read(egress, &parts.headers, body).await?;
    let model = choose(policy, api, request.model.as_deref())?;
    if request.model.is_none() {
        request.set_model(&model.model);
    }
    let Some(meter) = meter(egress, policy, model, &parts.headers, &mut request, api).await else {
        return answer(egress, policy, model, api, (parts, request), query, entry).await;
    };
    // What is compressed cannot be counted.
    parts.headers.remove(header::ACCEPT_ENCODING);
    let answer = answer(egress, policy, model, api, (parts, request), query, entry).await;
    meter.measure(answer).await
}

/// Makes the request ready for being counted; nothing where nobody answers it.
async fn meter(
    egress: &Egress,
    policy: &AgentPolicy,
    model: &ModelPolicy,
    headers: &HeaderMap,
    request: &mut ModelRequest,
    api: Api,
) -> Option<Meter> {
    let provider = model.backend.provider()?.clone();
    let user = call::end_user(egress, policy, headers).and_then(|user| String::from_utf8(user.as_bytes().into()).ok());
    let (agent, model) = (policy.agent.clone(), model.model.clone());
    let key = UsageKey { agent, provider, model, user: user.unwrap_or_default() };
    let prepared = Prepared::new(request.body.clone(), api.has_stream_options()).await;
    let meter = Meter::new(egress.usage.clone(), key, &prepared);
    request.body = prepared.body;
    Some(meter)
}

/// Has the request answered by whoever serves the model.
async fn answer(
    egress: &Egress,
    policy: &AgentPolicy,
    model: &ModelPolicy,
    api: Api,
    (mut parts, request): (Parts, ModelRequest),
    query: &str,
    entry: &mut Entry,
) -> Result<Answer, Refusal> {
    match &model.backend {
        ModelBackend::Server(server) => {
            entry.model_provider(&server.name);
            entry.to(server.origin.to_string());
            let mut path_and_query = format!("{}/{}", server.prefix, api.path());
            entry.path(&path_and_query);
            if !query.is_empty() {
                path_and_query.extend(["?", query]);
            }
            // The body may have become another one.
            parts.headers.remove(header::CONTENT_LENGTH);
            let upload = Upload::buffered(request.body, request.memory, entry.progress());
            let destination = Destination { host: Host::Model(server), path_and_query };
            call::call(egress, policy, destination, Request::from_parts(parts, upload), entry).await
        }
        ModelBackend::Playground(name) => {
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

/// Puts the server's key in the place of the one that the agent sent.
pub(crate) fn apply_key(server: &ModelServer, headers: &mut HeaderMap) -> Result<(), Refusal> {
    remove_all_spellings(headers, &header::AUTHORIZATION);
    let Some(key) = &server.key else { return Ok(()) };
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose())).map_err(|_| {
        let text = format!("the key of the model provider \"{}\" cannot be sent: set it again", server.name);
        Refusal::bad_gateway("credential_unusable", text).permanent()
    })?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    Ok(())
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
        ModelUnavailableReason::Unsupported => return Refusal::unsupported(&why.text),
        ModelUnavailableReason::NoProvider => "provider_missing",
        ModelUnavailableReason::NoKey => "credential_missing",
        ModelUnavailableReason::BadEndpoint => "provider_unusable",
    };
    Refusal::bad_gateway(word, &why.text).permanent()
}

/// An answer of egress itself as JSON.
fn json(value: &serde_json::Value) -> http::Response<crate::body::Out> {
    let mut response = http::Response::new(crate::body::full(bytes::Bytes::from(format!("{value}\n"))));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
