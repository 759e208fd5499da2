//! `/api/model-providers`.

#[cfg(test)]
mod tests;

use super::{
    check,
    error::ApiResult,
    in_use,
    json::{Object, has_value},
    pagination::NamePage,
    query::{Query, Segment},
    request_body::WholeBody,
    tool_connection::http_url,
    tools::{
        CredentialStatus, DELETED, Deleted,
        body::{credentials_object, labels, named, pass_over_answered, secrets},
        created, exists, may_store,
    },
};
use crate::{
    budget_amount::Amount,
    deploy::providers::{depends_on, works_without_key},
    keys::{Caller, Scope},
    state::AppState,
};
use axum::{Extension, Json, extract::State};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Code, Error, ModelPrice, ModelPrices, NAMESPACE, Name, Operation, Result, Secret,
    agent::Agent,
    error::excerpt,
    limits::{MAX_MEMBERS, MAX_MODEL},
    tool::{MODEL_PROVIDERS, ModelProvider, NewModelProvider, provider_credentials},
};
use http::StatusCode;
use serde::Serialize;
use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The most prices of a provider.
const MAX_PRICES: usize = 1_000;
/// The longest permitted time for a provider to begin its answer, in seconds.
const MAX_TIMEOUT_SECONDS: u32 = 3_600;
/// The most retries of a call.
const MAX_RETRIES: u32 = 5;

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, put, delete))
        .routes(routes!(set_credentials, delete_credentials))
        .routes(routes!(check::model_provider))
}

/// A registered source of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelProvider)]
pub struct ModelProviderOut {
    /// Unique name; `llm_configs` name the provider by it.
    #[schema(examples("my-openai"))]
    name: String,
    /// Where it is.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// Its labels.
    labels: BTreeMap<String, String>,
    /// Its specification.
    spec: ModelProviderSpec,
    /// Its status.
    status: ModelProviderStatus,
    /// When it was registered.
    #[schema(examples("2026-11-23T10:00:00.000Z"))]
    created_at: String,
    /// When it was changed last.
    #[schema(examples("2026-11-23T10:00:00.000Z"))]
    updated_at: String,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A model provider, flat or with a `spec` as it is answered.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct ModelProviderIn {
    /// Unique name: at most 63 lower-case letters, digits and `-`. The path may say it instead.
    #[schema(examples("my-openai"))]
    name: Option<String>,
    /// The protocol that it speaks: `openai`, `anthropic`, `bedrock` or `ollama`; needed, here or in `spec`.
    #[schema(examples("openai"))]
    provider: Option<String>,
    /// Base URL; absent: the provider's own.
    #[schema(max_length = 2_048)]
    endpoint: Option<String>,
    /// Model identifiers served.
    #[schema(max_items = 256)]
    models: Option<Vec<String>>,
    /// The prices of models, by their identifiers, in whatever currency the operator counts.
    #[schema(examples(json!({"gpt-4o-mini": {"input": 0.15, "cached_input": 0.075, "output": 0.6}})))]
    prices: Option<BTreeMap<String, PriceIn>>,
    /// The longest time in seconds until the provider begins its answer; absent: egress' own limit, `first_byte_ms`.
    #[schema(minimum = 1, maximum = 3_600, examples(60))]
    timeout_seconds: Option<u32>,
    /// The number of retries of a failed call; absent: 0, since clients of models try again themselves.
    #[schema(maximum = 5, examples(2))]
    retries: Option<u32>,
    /// In the place of those before: an object with them.
    #[schema(value_type = Option<Object>)]
    spec: Option<()>,
    /// Labels, at most 256 bytes each.
    labels: Option<BTreeMap<String, String>>,
    /// The same as `credentials` with this member alone.
    #[schema(max_length = 65_536)]
    api_key: Option<String>,
    /// Kept encrypted, and shown in no answer.
    credentials: Option<ModelCredentials>,
}

/// The price of a million tokens of a model: numbers, or exact text, with at most six decimal places.
#[derive(ToSchema)]
#[schema(as = ModelPrice)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct PriceIn {
    /// Of requests.
    input: Amount,
    /// Of requests, from a cache of the provider; as `input` unless given.
    cached_input: Option<Amount>,
    /// Of answers.
    output: Amount,
}

/// The exact price of a million tokens of a model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelPriceShown)]
pub struct PriceOut {
    /// Of requests.
    #[schema(examples("0.15"))]
    input: String,
    /// Of requests, from a cache of the provider.
    #[schema(examples("0.075"))]
    cached_input: String,
    /// Of answers.
    #[schema(examples("0.6"))]
    output: String,
}

/// A model provider's credentials: `api_key`, or for `bedrock` also the others.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct ModelCredentials {
    /// The API key.
    #[schema(max_length = 65_536)]
    api_key: Option<String>,
    /// The id of an AWS access key.
    #[schema(max_length = 65_536)]
    access_key_id: Option<String>,
    /// Its secret.
    #[schema(max_length = 65_536)]
    secret_access_key: Option<String>,
    /// The token of temporary credentials.
    #[schema(max_length = 65_536)]
    session_token: Option<String>,
    /// The AWS region, such as `us-east-1`; needed unless the endpoint has it.
    #[schema(max_length = 65_536)]
    region: Option<String>,
}

/// The specification of a model provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelProviderSpec {
    /// The protocol it speaks: `openai`, `anthropic`, `bedrock` or `ollama`.
    #[schema(examples("openai"))]
    provider: String,
    /// Base URL; empty means the provider's own.
    #[schema(examples("https://api.openai.com/v1"))]
    endpoint: String,
    /// Model identifiers served.
    #[schema(examples(json!(["gpt-4o-mini"])))]
    models: Vec<String>,
    /// The prices of models; calls of others are counted without a cost.
    prices: BTreeMap<String, PriceOut>,
    /// The longest time in seconds until the provider begins its answer; absent: egress' own limit.
    #[schema(examples(60))]
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<u32>,
    /// The number of retries of a failed call.
    #[schema(examples(2))]
    retries: u32,
}

/// The status of a model provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelProviderStatus {
    /// `Ready`, or `Pending` while something is missing.
    #[schema(examples("Ready"))]
    phase: &'static str,
    /// The missing part.
    message: &'static str,
    /// Whether there are credentials.
    credentials: CredentialStatus,
}

/// List model providers
///
/// All model providers, by name.
#[utoipa::path(
    get,
    path = "/model-providers",
    tag = "model providers",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries of the answer"),
        ("after" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "The model providers", body = Vec<ModelProviderOut>),
    ),
)]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<NamePage> {
    Ok(NamePage::of(&query, state.tools.list_model_providers().await?, |p| &p.name, shape)?)
}

/// Get a model provider
///
/// The specification and the status of one model provider.
#[utoipa::path(
    get,
    path = "/model-providers/{name}",
    tag = "model providers",
    params(("name" = String, Path, description = "The model provider's name")),
    responses(
        (status = 200, description = "The model provider", body = ModelProviderOut),
    ),
)]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<ModelProviderOut>> {
    Ok(Json(shape(state.tools.get_model_provider(name.name("model provider")?).await?)))
}

/// Register a model provider
///
/// The same one again is no change, and may add credentials.
#[utoipa::path(
    post,
    path = "/model-providers",
    tag = "model providers",
    request_body(content = ModelProviderIn, description = "The model provider", example = json!({"name": "my-openai", "provider": "openai", "models": ["gpt-4o-mini"], "api_key": "sk-1"})),
    responses(
        (status = 201, description = "It is registered", body = ModelProviderOut),
        (status = 200, description = "It is registered just so", body = ModelProviderOut),
        (status = 409, description = "Another one has this name"),
    ),
)]
pub async fn create(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<ModelProviderOut>)> {
    let (provider, warnings) = parse(&body.bytes, None)?;
    may_store(&caller, &provider.credentials)?;
    let known = exists(state.tools.get_model_provider(provider.name.clone()).await)?;
    let provider = state.tools.create_model_provider(Operation::new(), provider).await?;
    Ok((created(!known), Json(ModelProviderOut { warnings, ..shape(provider) })))
}

/// Register or replace a model provider
///
/// A member that the body leaves out is removed; of `prices`, `timeout_seconds` and `retries` the answer's `warnings`
/// say so. A stored key stays if none is given; a change that would send it to another host or base path is refused.
/// Changing `prices`, which budgets count by, takes `admin`.
#[utoipa::path(
    put,
    path = "/model-providers/{name}",
    tag = "model providers",
    params(("name" = String, Path, description = "The model provider's name")),
    request_body(content = ModelProviderIn, description = "The model provider as it shall be", example = json!({"provider": "openai", "models": ["gpt-4o-mini", "gpt-4o"]})),
    responses(
        (status = 201, description = "It is registered", body = ModelProviderOut),
        (status = 200, description = "It is changed", body = ModelProviderOut),
        (status = 409, description = "A stored key would go to another host or path"),
    ),
)]
pub async fn put(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<ModelProviderOut>)> {
    let name = name.valid()?;
    let (provider, mut warnings) = parse(&body.bytes, Some(name))?;
    may_store(&caller, &provider.credentials)?;
    let before = match state.tools.get_model_provider(provider.name.clone()).await {
        Ok(before) => Some(before),
        Err(e) if e.code == Code::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    // Prices determine when a budget stops an agent.
    if before.as_ref().is_some_and(|before| before.prices != provider.prices) {
        caller.must_have(Scope::Admin, "changing the prices of a model provider")?;
    }
    let put = state.tools.put_model_provider(Operation::new(), provider).await?;
    if let Some(before) = before {
        warnings.extend(dropped(&before, &put.value, &body.bytes)?);
    }
    Ok((created(put.created), Json(ModelProviderOut { warnings, ..shape(put.value) })))
}

/// Store a model provider's credentials
///
/// They take the place of others, are kept encrypted, and no answer shows them.
#[utoipa::path(
    put,
    path = "/model-providers/{name}/credentials",
    tag = "model providers",
    operation_id = "set_model_provider_credentials",
    params(("name" = String, Path, description = "The model provider's name")),
    request_body(content = ModelCredentials, description = "The credentials", example = json!({"api_key": "sk-1"})),
    responses(
        (status = 200, description = "The model provider", body = ModelProviderOut),
    ),
)]
pub async fn set_credentials(
    State(state): State<Arc<AppState>>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<Json<ModelProviderOut>> {
    let name = name.name("model provider")?;
    let provider = state.tools.get_model_provider(name.clone()).await?;
    let mut warnings = Vec::new();
    let credentials = read_secrets(credentials_object(&body.bytes)?, &provider.provider, &mut warnings)?;
    let provider = state.tools.set_model_provider_credentials(Operation::new(), name, credentials).await?;
    Ok(Json(ModelProviderOut { warnings, ..shape(provider) }))
}

/// Delete a model provider's credentials
///
/// Takes away what is stored; the model provider stays.
#[utoipa::path(
    delete,
    path = "/model-providers/{name}/credentials",
    tag = "model providers",
    operation_id = "delete_model_provider_credentials",
    params(("name" = String, Path, description = "The model provider's name")),
    responses(
        (status = 200, description = "They are gone", body = Deleted),
    ),
)]
pub async fn delete_credentials(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    let name = name.name("model provider")?;
    state.tools.set_model_provider_credentials(Operation::new(), name, BTreeMap::new()).await?;
    Ok(Json(DELETED))
}

/// Delete a model provider
///
/// Deletes a model provider that no agent uses, with its credentials. An agent whose `llm_configs` name its protocol uses
/// it unless another registered provider serves the model as well.
#[utoipa::path(
    delete,
    path = "/model-providers/{name}",
    tag = "model providers",
    params(("name" = String, Path, description = "The model provider's name")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 409, description = "Agents use it; `error` names them"),
    ),
)]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    let name = name.name("model provider")?;
    let registered = state.tools.list_model_providers().await?;
    let uses = |agent: &Agent| agent.spec.config.llm.iter().any(|config| depends_on(config, &name, &registered));
    in_use::refuse_while_used(&state, "model provider", &name, uses).await?;
    state.tools.delete_model_provider(Operation::new(), name).await?;
    Ok(Json(DELETED))
}

fn shown(price: ModelPrice) -> PriceOut {
    let ModelPrice { input, cached_input, output } = price;
    let [input, cached_input, output] = [input, cached_input, output].map(|amount| amount.to_string());
    PriceOut { input, cached_input, output }
}

fn shape(provider: ModelProvider) -> ModelProviderOut {
    let ready = works_without_key(&provider) || provider.credentials_set_at.is_some();
    ModelProviderOut {
        name: provider.name.into(),
        namespace: NAMESPACE,
        labels: provider.labels,
        spec: ModelProviderSpec {
            provider: provider.provider,
            endpoint: provider.endpoint,
            models: provider.models,
            prices: provider.prices.into_iter().map(|(model, price)| (model, shown(price))).collect(),
            timeout_seconds: provider.timeout_seconds,
            retries: provider.retries,
        },
        status: ModelProviderStatus {
            phase: if ready { "Ready" } else { "Pending" },
            message: if ready { "" } else { "no credential is stored" },
            credentials: CredentialStatus::of(provider.credentials_set_at),
        },
        created_at: rfc3339(provider.created_at),
        updated_at: rfc3339(provider.updated_at),
        warnings: Vec::new(),
    }
}

/// Reads `{name, provider, endpoint, models}`, or the same in a `spec` as in answers. The path may contain the name
/// too.
fn parse(body: &[u8], path: Option<Name>) -> Result<(NewModelProvider, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;
    let name = named(&mut root, path)?;
    let labels = labels(&mut root)?;
    no_budget(&mut root)?;
    let spec = root.object("spec")?;
    let nested = spec.is_some();
    let mut spec = match spec {
        Some(spec) => spec,
        None => std::mem::take(&mut root),
    };
    no_budget(&mut spec)?;
    let (provider, endpoint, models) = read(&mut spec)?;
    let prices = prices(&mut spec)?;
    let timeout_seconds = number(&mut spec, "timeout_seconds", 1..=MAX_TIMEOUT_SECONDS)?;
    let retries = number(&mut spec, "retries", 0..=MAX_RETRIES)?.unwrap_or(0);
    let mut given = Vec::new();
    for object in [&mut spec, &mut root] {
        given.extend(credentials(object, &provider, &mut warnings)?);
    }
    let credentials = match (given.pop(), given.pop()) {
        (credentials, None) => credentials.unwrap_or_default(),
        (_, Some(_)) => return Err(Error::field("credentials", "are given twice")),
    };
    pass_over_answered(if nested { &mut root } else { &mut spec });
    spec.finish(&mut warnings);
    root.finish(&mut warnings);
    let provider =
        NewModelProvider { name, provider, endpoint, models, prices, timeout_seconds, retries, labels, credentials };
    Ok((provider, warnings))
}

/// Returns warnings about earlier settings that are removed because the body does not contain them.
fn dropped(before: &ModelProvider, now: &ModelProvider, body: &[u8]) -> Result<Vec<String>> {
    let mut root = Object::parse(body)?;
    let spec = root.object("spec")?.unwrap_or(root);
    let mut dropped = Vec::new();
    if !before.prices.is_empty() && now.prices.is_empty() {
        let text = "calls are counted without a cost from now on, and limits of cost do not stop them";
        dropped.push(("prices", text.to_owned()));
    }
    if let (Some(seconds), None) = (before.timeout_seconds, now.timeout_seconds) {
        dropped.push(("timeout_seconds", format!("it was {seconds}, and egress' own limit counts from now on")));
    }
    if before.retries > 0 && now.retries == 0 {
        let text = format!("it was {}, and calls that fail are not made again from now on", before.retries);
        dropped.push(("retries", text));
    }
    dropped.retain(|(key, _)| !spec.has(key));
    let warning = |(key, meaning)| {
        format!("{key} is dropped, because PUT replaces the provider and the body has none: {meaning}")
    };
    Ok(dropped.into_iter().map(warning).collect())
}

fn number(spec: &mut Object, key: &'static str, allowed: RangeInclusive<u32>) -> Result<Option<u32>> {
    let Some(given) = spec.integer(key)? else { return Ok(None) };
    match u32::try_from(given) {
        Ok(number) if allowed.contains(&number) => Ok(Some(number)),
        _ => {
            let text = format!("must be {} to {}, not {given}", allowed.start(), allowed.end());
            Err(Error::field(spec.path_of(key), text))
        }
    }
}

/// Reads the prices of models. A misspelt member would make a model free of charge, so it is refused.
fn prices(spec: &mut Object) -> Result<ModelPrices> {
    let Some(given) = spec.object("prices")? else { return Ok(ModelPrices::new()) };
    let price = |(model, mut price): (String, Object)| {
        if model.trim().is_empty() || model.len() > MAX_MODEL || model.contains(char::is_control) {
            return Err(Error::field(price.path(), "is not a model identifier"));
        }
        let missing = |price: &Object, key| Error::field(price.path_of(key), "is required");
        let input = price.money("input")?.ok_or_else(|| missing(&price, "input"))?;
        let cached_input = price.money("cached_input")?.unwrap_or(input);
        let output = price.money("output")?.ok_or_else(|| missing(&price, "output"))?;
        price.refuse_unknown()?;
        Ok((model, ModelPrice { input, cached_input, output }))
    };
    given.into_objects(MAX_PRICES)?.into_iter().map(price).collect()
}

fn no_budget(object: &mut Object) -> Result<()> {
    match object.take("monthly_budget_usd") {
        Some(value) if has_value(&value) => {
            let text = "is not supported: set budgets of agents instead, with PUT /api/agents/NAME/budget";
            Err(Error::field(object.path_of("monthly_budget_usd"), text))
        }
        _ => Ok(()),
    }
}

/// Reads `credentials`, or `api_key` alone.
fn credentials(
    object: &mut Object,
    provider: &str,
    warnings: &mut Vec<String>,
) -> Result<Option<BTreeMap<String, Secret>>> {
    let whole = object.object("credentials")?.filter(|given| !given.is_empty());
    let alone = object.only("api_key");
    match (whole, alone) {
        (Some(_), Some(_)) => Err(Error::field(object.path_of("credentials"), "are given twice")),
        (Some(given), None) | (None, Some(given)) => read_secrets(given, provider, warnings).map(Some),
        (None, None) => Ok(None),
    }
}

fn read_secrets(given: Object, provider: &str, warnings: &mut Vec<String>) -> Result<BTreeMap<String, Secret>> {
    let sets = provider_credentials(provider);
    // The set of which the body has a required member; else one of which it has an optional member; else the first, for
    // which the missing members are then reported.
    let begins = |set: &[&str], optional| {
        set.iter().any(|key| key.ends_with('?') == optional && given.has(key.trim_end_matches('?')))
    };
    let begun = sets.iter().find(|set| begins(set, false)).or_else(|| sets.iter().find(|set| begins(set, true)));
    secrets(given, begun.or(sets.first()).copied().unwrap_or_default(), warnings)
}

fn read(spec: &mut Object) -> Result<(String, String, Vec<String>)> {
    let provider = spec.required("provider")?;
    let known = MODEL_PROVIDERS.into_iter().find(|known| known.eq_ignore_ascii_case(provider.trim()));
    let provider = known.ok_or_else(|| {
        let known = MODEL_PROVIDERS.join(", ");
        Error::field(spec.path_of("provider"), format!("\"{}\" is not one of {known}", excerpt(&provider)))
    })?;
    let endpoint = spec.text("endpoint")?.unwrap_or_default();
    if !endpoint.is_empty() {
        http_url(&spec.path_of("endpoint"), &endpoint)?;
    }
    let models = spec.strings("models", MAX_MEMBERS)?.unwrap_or_default();
    let wrong = |model: &String| model.trim().is_empty() || model.len() > MAX_MODEL || model.contains(char::is_control);
    if let Some(i) = models.iter().position(wrong) {
        let path = format!("{}[{i}]", spec.path_of("models"));
        return Err(Error::field(path, "is not a model identifier"));
    }
    Ok((provider.to_owned(), endpoint, models))
}
