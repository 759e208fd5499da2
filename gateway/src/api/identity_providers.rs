//! `/api/identity-providers`.

use super::{
    body::WholeBody,
    connection::http_url,
    error::ApiResult,
    json::{self, Object, short},
    page::ByName,
    query::{Query, Segment},
    tools::{
        DELETED, Deleted,
        body::{labels, named_as_in_path},
        created,
    },
    users,
};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_kit::time::rfc3339;
use hoistway_model::{Error, NAMESPACE, Name, Operation, Result, tool::IdentityProvider};
use http::StatusCode;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use url::{Host, Url};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The longest audience and the longest claim.
const MAX_AUDIENCE: usize = 2_048;
const MAX_CLAIM: usize = 256;
/// The longest name of a host or domain.
const MAX_HOST: usize = 253;
/// As long as nobody verifies tokens.
const NOT_VERIFIED: &str = "callers' tokens are not verified yet: agents with this provider refuse every invoke";

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list, apply)).routes(routes!(get, put, delete))
}

/// A registered identity provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct IdentityProviderOut {
    /// Unique name; agents name the provider by it.
    #[schema(example = "company-sso")]
    name: String,
    #[schema(example = "agent-system")]
    namespace: &'static str,
    labels: BTreeMap<String, String>,
    spec: IdentityProviderSpec,
    status: IdentityProviderStatus,
    /// RFC 3339.
    #[schema(example = "2026-11-23T10:00:00Z")]
    created_at: String,
    /// RFC 3339.
    #[schema(example = "2026-11-23T10:00:00Z")]
    updated_at: String,
    /// What should be looked at in the request; absent when there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What an identity provider is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderSpec {
    /// The host that callers use, with a port if it is not the usual one.
    #[schema(example = "agents.example.com")]
    host: String,
    identity_provider: Issuer,
    /// The claim that names the caller.
    #[serde(rename = "userIDClaim")]
    #[schema(example = "email")]
    user_id_claim: String,
    /// Mail domains of callers who are let in; none: all.
    #[schema(example = json!(["example.com"]))]
    allowed_domains: Vec<String>,
}

/// Who issues tokens.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// The claim `iss` of its tokens.
    #[schema(example = "https://accounts.example.com")]
    issuer: String,
    /// Where its keys are.
    #[schema(example = "https://accounts.example.com/.well-known/jwks.json")]
    jwks_uri: String,
    /// Of which a token's `aud` must name one; none: any.
    #[schema(example = json!(["agents"]))]
    audiences: Vec<String>,
}

/// How an identity provider is.
#[derive(Debug, Serialize, ToSchema)]
pub struct IdentityProviderStatus {
    /// `Pending`: tokens are not verified yet.
    #[schema(example = "Pending")]
    phase: &'static str,
    /// Why.
    message: &'static str,
}

/// All identity providers, by name.
#[utoipa::path(
    get, path = "/identity-providers", tag = "identity providers",
    params(("limit" = Option<u32>, Query, description = "How many, 1 to 1000; a Link header leads to more"),
           ("after" = Option<String>, Query, description = "Those whose names come after this one")),
    responses((status = 200, body = Vec<IdentityProviderOut>))
)]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<ByName<IdentityProviderOut>> {
    Ok(ByName::of(&query, state.tools.list_identity_providers().await?, |p| &p.name, shape)?)
}

/// One identity provider.
#[utoipa::path(
    get, path = "/identity-providers/{name}", tag = "identity providers",
    params(("name" = String, Path, description = "The identity provider's name")),
    responses((status = 200, body = IdentityProviderOut))
)]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<IdentityProviderOut>> {
    Ok(Json(shape(state.tools.get_identity_provider(name.name("identity provider")?).await?)))
}

/// Registers an identity provider, in the place of what has its name: 201 for a new one.
#[utoipa::path(
    post, path = "/identity-providers", tag = "identity providers",
    responses((status = 201, body = IdentityProviderOut), (status = 200, body = IdentityProviderOut))
)]
pub async fn apply(
    State(state): State<Arc<AppState>>,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<IdentityProviderOut>)> {
    store(&state, &body.bytes, None).await
}

/// The same by its path.
#[utoipa::path(
    put, path = "/identity-providers/{name}", tag = "identity providers",
    params(("name" = String, Path, description = "The identity provider's name")),
    responses((status = 201, body = IdentityProviderOut), (status = 200, body = IdentityProviderOut))
)]
pub async fn put(
    State(state): State<Arc<AppState>>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<IdentityProviderOut>)> {
    store(&state, &body.bytes, Some(name.valid()?)).await
}

async fn store(
    state: &AppState,
    body: &[u8],
    name: Option<Name>,
) -> ApiResult<(StatusCode, Json<IdentityProviderOut>)> {
    let (provider, warnings) = parse(body, name)?;
    let put = state.tools.put_identity_provider(Operation::new(), provider).await?;
    Ok((created(put.created), Json(IdentityProviderOut { warnings, ..shape(put.value) })))
}

/// Deletes an identity provider that no agent uses.
#[utoipa::path(
    delete, path = "/identity-providers/{name}", tag = "identity providers",
    params(("name" = String, Path, description = "The identity provider's name")),
    responses((status = 200, body = Deleted))
)]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    let name = name.name("identity provider")?;
    let agents = state.agents.list_agents().await?;
    let users = agents.iter().filter(|agent| agent.spec.identity_provider.as_ref() == Some(&name));
    users::none("identity provider", &name, users)?;
    state.tools.delete_identity_provider(Operation::new(), name).await?;
    Ok(Json(DELETED))
}

fn shape(provider: IdentityProvider) -> IdentityProviderOut {
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
        status: IdentityProviderStatus { phase: "Pending", message: NOT_VERIFIED },
        created_at: rfc3339(provider.created_at),
        updated_at: rfc3339(provider.updated_at),
        warnings: Vec::new(),
    }
}

/// Reads `{name, spec: {…}}`, the document that public clients apply.
fn parse(body: &[u8], path: Option<Name>) -> Result<(IdentityProvider, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;
    let name = match path {
        None => json::name("name", &root.required("name")?)?,
        Some(name) => {
            named_as_in_path(root.text("name")?.as_deref(), &name)?;
            name
        }
    };
    let labels = labels(&mut root)?;
    let Some(mut spec) = root.object("spec")? else { return Err(Error::field("spec", "is required")) };
    let host = spec.required("host")?;
    let host = host_name(&spec.path_of("host"), host.trim())?;
    let Some(mut from) = spec.object("identityProvider")? else {
        return Err(Error::field(spec.path_of("identityProvider"), "is required"));
    };
    let issuer = from.required("issuer")?;
    safe_url(&from.path_of("issuer"), &issuer)?;
    let jwks_uri = from.required("jwksUri")?;
    safe_url(&from.path_of("jwksUri"), &jwks_uri)?;
    let audiences = from.strings("audiences")?.unwrap_or_default();
    for (i, audience) in audiences.iter().enumerate() {
        if audience.trim().is_empty() || audience.len() > MAX_AUDIENCE || audience.contains(char::is_control) {
            return Err(Error::field(format!("{}[{i}]", from.path_of("audiences")), "is not an audience"));
        }
    }
    from.finish(&mut warnings);
    let user_id_claim = spec.required("userIDClaim")?;
    if user_id_claim.len() > MAX_CLAIM || user_id_claim.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Error::field(spec.path_of("userIDClaim"), "is not the name of a claim"));
    }
    let domains = spec.strings("allowedDomains")?.unwrap_or_default();
    let domain = |(i, text): (usize, &String)| domain(&format!("{}[{i}]", spec.path_of("allowedDomains")), text);
    let allowed_domains = domains.iter().enumerate().map(domain).collect::<Result<_>>()?;
    spec.finish(&mut warnings);
    for key in ["namespace", "status", "created_at", "updated_at", "warnings"] {
        root.take(key);
    }
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

/// Keys that came over an open line could be anybody's; on this machine there is no line.
fn safe_url(path: &str, text: &str) -> Result<()> {
    let url = http_url(path, text)?;
    if url.scheme() == "https" || is_loopback(&url) {
        return Ok(());
    }
    Err(Error::field(path, format!("\"{}\" must begin with https://", short(text))))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// `HOST` or `HOST:PORT`.
fn host_name(path: &str, text: &str) -> Result<String> {
    let wrong = || Error::field(path, format!("\"{}\" is not a host, or a host and a port", short(text)));
    let plain = text.len() <= MAX_HOST + 6 && !text.contains(|c: char| "/?#@\\ ".contains(c) || c.is_control());
    let url = Url::parse(&format!("https://{text}")).ok().filter(|_| plain);
    match url {
        Some(url) if url.has_host() => Ok(text.to_ascii_lowercase()),
        _ => Err(wrong()),
    }
}

/// A mail domain.
fn domain(path: &str, text: &str) -> Result<String> {
    let text = text.trim();
    let label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= MAX_HOST && text.split('.').all(label) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Error::field(path, format!("\"{}\" is not a domain such as example.com", short(text))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({"name": "sso", "spec": {
            "host": "agents.example.com:8443", "userIDClaim": "email", "allowedDomains": ["Example.com"],
            "identityProvider": {
                "issuer": "https://id.example.com", "jwksUri": "http://127.0.0.1:9/jwks", "audiences": ["agents"]}}})
    }

    fn parsed(body: &Value) -> Result<(IdentityProvider, Vec<String>), String> {
        parse(body.to_string().as_bytes(), None).map_err(|e| e.message)
    }

    #[test]
    fn the_document_of_public_clients_is_read() {
        let (provider, warnings) = parsed(&document()).unwrap();
        assert_eq!((provider.host.as_str(), warnings.len()), ("agents.example.com:8443", 0));
        assert_eq!(
            (provider.allowed_domains, provider.audiences),
            (vec!["example.com".to_owned()], vec!["agents".to_owned()])
        );
    }

    #[test]
    fn wrong_members_are_named() {
        for (at, value, want) in [
            ("/spec/host", json!("https://x"), "spec.host: \"https://x\" is not a host, or a host and a port"),
            ("/spec/host", json!("x:99999"), "spec.host: \"x:99999\" is not a host, or a host and a port"),
            (
                "/spec/identityProvider/issuer",
                json!("http://id.example.com"),
                "spec.identityProvider.issuer: \"http://id.example.com\" must begin with https://",
            ),
            ("/spec/identityProvider/jwksUri", json!(""), "spec.identityProvider.jwksUri: is required"),
            (
                "/spec/identityProvider/audiences",
                json!(["a", " "]),
                "spec.identityProvider.audiences[1]: is not an audience",
            ),
            ("/spec/userIDClaim", json!("a b"), "spec.userIDClaim: is not the name of a claim"),
            (
                "/spec/allowedDomains",
                json!(["@example.com"]),
                "spec.allowedDomains[0]: \"@example.com\" is not a domain such as example.com",
            ),
            ("/spec/identityProvider", Value::Null, "spec.identityProvider: is required"),
            ("/spec", Value::Null, "spec: is required"),
        ] {
            let mut body = document();
            *body.pointer_mut(at).unwrap() = value;
            assert_eq!(parsed(&body).unwrap_err(), want);
        }
    }
}
