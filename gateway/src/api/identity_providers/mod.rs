//! `/api/identity-providers`.

#[cfg(test)]
mod tests;

use super::{
    error::ApiResult,
    in_use,
    json::Object,
    pagination::NamePage,
    query::{Query, Segment},
    request_body::WholeBody,
    tool_connection::http_url,
    tools::{
        DELETED, Deleted,
        body::{labels, named, pass_over_answered},
        created,
    },
};
use crate::{
    keys::{Caller, Scope},
    oidc::{Callers, cache::KeySetStatus, fetch::PlainHosts},
    state::AppState,
};
use axum::{Extension, Json, extract::State};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Error, NAMESPACE, Name, Operation, Result, agent::Agent, error::excerpt, limits::MAX_MEMBERS,
    tool::IdentityProvider,
};
use http::StatusCode;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use url::Url;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The longest audience and the longest claim.
const MAX_AUDIENCE: usize = 2_048;
const MAX_CLAIM: usize = 256;
/// The longest name of a host or domain.
const MAX_HOST: usize = 253;
/// The warning about a provider without audiences.
const ANY_AUDIENCE: &str = "spec.identityProvider.audiences: without any, a token that this issuer made for any other \
    application opens the agents too";
/// Replaces the cause for keys that may not see it.
const WHY_ELSEWHERE: &str = "the gateway's log says why, and so does this for an admin key";

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list, apply)).routes(routes!(get, put, delete))
}

/// A registered identity provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IdentityProvider)]
pub struct IdentityProviderOut {
    /// Unique name; agents name the provider by it.
    #[schema(examples("company-sso"))]
    name: String,
    /// Where it is.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// Its labels.
    labels: BTreeMap<String, String>,
    /// Its specification.
    spec: IdentityProviderSpec,
    /// Its status.
    status: IdentityProviderStatus,
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

/// An identity provider to be registered.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct IdentityProviderIn {
    /// Unique name: at most 63 lower-case letters, digits and `-`. The path may say it instead.
    #[schema(examples("company-sso"))]
    name: Option<String>,
    /// Labels, at most 256 bytes each.
    labels: Option<BTreeMap<String, String>>,
    /// Its specification.
    spec: IdentityProviderSpecIn,
}

/// The specification of an identity provider in a request.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct IdentityProviderSpecIn {
    /// The host that callers use, `HOST` or `HOST:PORT`.
    #[schema(examples("agents.example.com"))]
    host: String,
    /// Who issues tokens.
    identity_provider: IssuerIn,
    /// The claim that names the user; its value is what the agent gets in `X-End-User-ID`.
    #[schema(rename = "userIDClaim", max_length = 256, examples("email"))]
    user_id_claim: String,
    /// Mail domains of users who are let in, by the claim `email`, which must be verified; absent: all.
    #[schema(max_items = 256)]
    allowed_domains: Option<Vec<String>>,
}

/// Who issues tokens. Both addresses begin with `https://`, unless they are of this machine or of a host in the setting
/// `identity_provider_http_hosts`.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct IssuerIn {
    /// The claim `iss` of its tokens.
    #[schema(max_length = 2_048, examples("https://accounts.example.com"))]
    issuer: String,
    /// Where its keys are; absent: where its OpenID configuration says.
    #[schema(max_length = 2_048, examples("https://accounts.example.com/keys"))]
    jwks_uri: Option<String>,
    /// Of which a token's `aud` must name one; absent: any.
    #[schema(max_items = 256)]
    audiences: Option<Vec<String>>,
}

/// The specification of an identity provider.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderSpec {
    /// The host that callers use, with a port if it is not the usual one.
    #[schema(examples("agents.example.com"))]
    host: String,
    /// Who issues tokens.
    identity_provider: Issuer,
    /// The claim that names the caller.
    #[serde(rename = "userIDClaim")]
    #[schema(examples("email"))]
    user_id_claim: String,
    /// Mail domains of callers who are let in; none: all.
    #[schema(examples(json!(["example.com"])))]
    allowed_domains: Vec<String>,
}

/// Who issues tokens.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// The claim `iss` of its tokens.
    #[schema(examples("https://accounts.example.com"))]
    issuer: String,
    /// Where its keys are; empty: where its OpenID configuration says.
    #[schema(examples("https://accounts.example.com/.well-known/jwks.json"))]
    jwks_uri: String,
    /// Of which a token's `aud` must name one; none: any.
    #[schema(examples(json!(["agents"])))]
    audiences: Vec<String>,
}

/// The status of an identity provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct IdentityProviderStatus {
    /// `Ready`: its keys are there. `Pending`: nobody has needed them yet. `Failed`: they cannot be fetched. As far as
    /// the gateway that answers knows.
    #[schema(examples("Ready", "Pending", "Failed"))]
    phase: &'static str,
    /// More of it.
    #[schema(examples("2 keys"))]
    message: String,
}

/// List identity providers
///
/// All identity providers, by name.
#[utoipa::path(
    get,
    path = "/identity-providers",
    tag = "identity providers",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries of the answer"),
        ("after" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "The identity providers", body = Vec<IdentityProviderOut>),
    ),
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    query: Query,
) -> ApiResult<NamePage> {
    let shape = |provider| shape(&state.callers, &caller, provider);
    Ok(NamePage::of(&query, state.tools.list_identity_providers().await?, |p| &p.name, shape)?)
}

/// Get an identity provider
///
/// The specification and the status of one identity provider.
#[utoipa::path(
    get,
    path = "/identity-providers/{name}",
    tag = "identity providers",
    params(("name" = String, Path, description = "The identity provider's name")),
    responses(
        (status = 200, description = "The identity provider", body = IdentityProviderOut),
    ),
)]
pub async fn get(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    name: Segment,
) -> ApiResult<Json<IdentityProviderOut>> {
    let found = state.tools.get_identity_provider(name.name("identity provider")?).await?;
    Ok(Json(shape(&state.callers, &caller, found)))
}

/// Register or replace an identity provider
///
/// Registers an identity provider in the place of what has its name.
#[utoipa::path(
    post,
    path = "/identity-providers",
    tag = "identity providers",
    request_body(content = IdentityProviderIn, description = "The identity provider", example = json!({"name": "company-sso", "spec": {"host": "agents.example.com", "userIDClaim": "email", "identityProvider": {"issuer": "https://accounts.example.com", "jwksUri": "https://accounts.example.com/keys", "audiences": ["agents"]}, "allowedDomains": ["example.com"]}})),
    responses(
        (status = 201, description = "It is registered", body = IdentityProviderOut),
        (status = 200, description = "It is changed", body = IdentityProviderOut),
    ),
)]
pub async fn apply(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<IdentityProviderOut>)> {
    store(&state, &caller, &body.bytes, None).await
}

/// Put an identity provider
///
/// Registers an identity provider in the place of what has the name in the path.
#[utoipa::path(
    put,
    path = "/identity-providers/{name}",
    tag = "identity providers",
    params(("name" = String, Path, description = "The identity provider's name")),
    request_body(content = IdentityProviderIn, description = "The identity provider", example = json!({"name": "company-sso", "spec": {"host": "agents.example.com", "userIDClaim": "email", "identityProvider": {"issuer": "https://accounts.example.com", "jwksUri": "https://accounts.example.com/keys", "audiences": ["agents"]}, "allowedDomains": ["example.com"]}})),
    responses(
        (status = 201, description = "It is registered", body = IdentityProviderOut),
        (status = 200, description = "It is changed", body = IdentityProviderOut),
    ),
)]
pub async fn put(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<IdentityProviderOut>)> {
    store(&state, &caller, &body.bytes, Some(name.valid()?)).await
}

async fn store(
    state: &Arc<AppState>,
    caller: &Caller,
    body: &[u8],
    name: Option<Name>,
) -> ApiResult<(StatusCode, Json<IdentityProviderOut>)> {
    let (provider, warnings) = parse(body, name, state.callers.plain_hosts())?;
    let put = state.tools.put_identity_provider(Operation::new(), provider).await?;
    let (registered, provider) = (state.clone(), put.value.clone());
    // The caller waits for the record only, not for the issuer's keys.
    state.tasks.spawn(async move { registered.callers.registered(&provider).await });
    Ok((created(put.created), Json(IdentityProviderOut { warnings, ..shape(&state.callers, caller, put.value) })))
}

/// Delete an identity provider
///
/// Deletes an identity provider that no agent uses.
#[utoipa::path(
    delete,
    path = "/identity-providers/{name}",
    tag = "identity providers",
    params(("name" = String, Path, description = "The identity provider's name")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 409, description = "Agents use it; `error` names them"),
    ),
)]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    let name = name.name("identity provider")?;
    let uses = |agent: &Agent| agent.spec.config.identity_provider.as_ref() == Some(&name);
    in_use::refuse_while_used(&state, "identity provider", &name, uses).await?;
    state.tools.delete_identity_provider(Operation::new(), name.clone()).await?;
    state.callers.deleted(&name);
    Ok(Json(DELETED))
}

fn shape(callers: &Callers, caller: &Caller, provider: IdentityProvider) -> IdentityProviderOut {
    let status = status(callers.condition(&provider), caller.scopes.allow(Scope::Admin));
    IdentityProviderOut {
        name: provider.name.into(),
        namespace: NAMESPACE,
        labels: provider.labels,
        spec: IdentityProviderSpec {
            host: provider.host,
            identity_provider: Issuer {
                issuer: provider.issuer,
                jwks_uri: provider.jwks_uri,
                audiences: provider.audiences,
            },
            user_id_claim: provider.user_id_claim,
            allowed_domains: provider.allowed_domains,
        },
        status,
        created_at: rfc3339(provider.created_at),
        updated_at: rfc3339(provider.updated_at),
        warnings: Vec::new(),
    }
}

/// Returns the status. The cause of an unavailable provider is for callers that may register providers only: it reveals
/// which ports of a network are open.
fn status(condition: KeySetStatus, tell: bool) -> IdentityProviderStatus {
    let because = |why: String| if tell { why } else { WHY_ELSEWHERE.to_owned() };
    let (phase, message) = match condition {
        KeySetStatus::Unknown => ("Pending", "its keys are fetched when they are needed".to_owned()),
        KeySetStatus::Ready(1) => ("Ready", "1 key".to_owned()),
        KeySetStatus::Ready(keys) => ("Ready", format!("{keys} keys")),
        KeySetStatus::Failed(why, false) => ("Failed", format!("its keys cannot be fetched: {}", because(why))),
        KeySetStatus::Failed(why, true) => {
            ("Failed", format!("newer keys cannot be fetched, and those from before are used: {}", because(why)))
        }
    };
    IdentityProviderStatus { phase, message }
}

/// Reads `{name, spec: {…}}`, the document that public clients apply.
fn parse(body: &[u8], path: Option<Name>, plain: &PlainHosts) -> Result<(IdentityProvider, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;
    let name = named(&mut root, path)?;
    let labels = labels(&mut root)?;
    let Some(mut spec) = root.object("spec")? else { return Err(Error::field("spec", "is required")) };
    let host = spec.required("host")?;
    let host = host_name(&spec.path_of("host"), host.trim())?;
    let Some(mut from) = spec.object("identityProvider")? else {
        return Err(Error::field(spec.path_of("identityProvider"), "is required"));
    };
    let issuer = from.required("issuer")?;
    safe_url(&from.path_of("issuer"), &issuer, plain)?;
    let jwks_uri = from.text("jwksUri")?.unwrap_or_default();
    if !jwks_uri.is_empty() {
        safe_url(&from.path_of("jwksUri"), &jwks_uri, plain)?;
    }
    let audiences = from.strings("audiences", MAX_MEMBERS)?.unwrap_or_default();
    for (i, audience) in audiences.iter().enumerate() {
        if audience.trim().is_empty() || audience.len() > MAX_AUDIENCE || audience.contains(char::is_control) {
            return Err(Error::field(format!("{}[{i}]", from.path_of("audiences")), "is not an audience"));
        }
    }
    from.finish(&mut warnings);
    if audiences.is_empty() {
        warnings.push(ANY_AUDIENCE.to_owned());
    }
    let user_id_claim = spec.required("userIDClaim")?;
    if user_id_claim.len() > MAX_CLAIM || user_id_claim.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Error::field(spec.path_of("userIDClaim"), "is not the name of a claim"));
    }
    let domains = spec.strings("allowedDomains", MAX_MEMBERS)?.unwrap_or_default();
    let domain = |(i, text): (usize, &String)| domain(&format!("{}[{i}]", spec.path_of("allowedDomains")), text);
    let allowed_domains = domains.iter().enumerate().map(domain).collect::<Result<_>>()?;
    spec.finish(&mut warnings);
    pass_over_answered(&mut root);
    root.finish(&mut warnings);
    let provider = IdentityProvider {
        name,
        host,
        issuer,
        jwks_uri,
        audiences,
        user_id_claim,
        allowed_domains,
        labels,
        created_at: 0,
        updated_at: 0,
    };
    Ok((provider, warnings))
}

/// Checks an address of the issuer. Keys that are fetched over unencrypted HTTP could be forged, except on this
/// machine.
fn safe_url(path: &str, text: &str, plain: &PlainHosts) -> Result<()> {
    if plain.allow(&http_url(path, text)?) {
        return Ok(());
    }
    let text = format!("\"{}\" must begin with https:// (setting identity_provider_http_hosts)", excerpt(text));
    Err(Error::field(path, text))
}

/// Checks `HOST` or `HOST:PORT`.
fn host_name(path: &str, text: &str) -> Result<String> {
    let wrong = || Error::field(path, format!("\"{}\" is not a host, or a host and a port", excerpt(text)));
    let plain = text.len() <= MAX_HOST + 6 && !text.contains(|c: char| "/?#@\\ ".contains(c) || c.is_control());
    let url = Url::parse(&format!("https://{text}")).ok().filter(|_| plain);
    match url {
        Some(url) if url.has_host() => Ok(text.to_ascii_lowercase()),
        _ => Err(wrong()),
    }
}

/// Checks a mail domain.
fn domain(path: &str, text: &str) -> Result<String> {
    let text = text.trim();
    let label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= MAX_HOST && text.split('.').all(label) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Error::field(path, format!("\"{}\" is not a domain such as example.com", excerpt(text))))
}
