//! `/api/tools`.

pub mod body;
mod schema;

use super::{
    body::WholeBody,
    error::{ApiError, ApiResult},
    page::ByName,
    query::{Query, Segment},
};
use crate::{bindings, state::AppState};
use axum::{Json, extract::State};
use body::{ToolBody, only_credentials};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Code, NAMESPACE, Operation, Result,
    tool::{AuthType, NewTool, Tool, ToolUpdate},
};
use http::StatusCode;
use schema::{ToolCredentials, ToolIn};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use url::{Host, Url};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// How often an update is made anew from what somebody else has made of the tool meanwhile.
const UPDATE_TRIES: u32 = 5;

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, replace, change, delete))
        .routes(routes!(set_credentials, delete_credentials))
}

/// A registered tool.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tool)]
pub struct ToolOut {
    /// Unique name; agents require the tool by it.
    #[schema(examples("stripe-api"))]
    name: String,
    /// Where it is.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// Its labels.
    labels: BTreeMap<String, String>,
    /// What it is.
    spec: ToolSpec,
    /// How it is.
    status: ToolStatus,
    /// When it was registered.
    #[schema(examples("2026-11-23T10:00:00.000Z"))]
    created_at: String,
    /// When it was changed last.
    #[schema(examples("2026-11-23T10:00:00.000Z"))]
    updated_at: String,
    /// What the caller should know; absent when there is nothing.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What a tool is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolSpec {
    /// For people and models; may be empty.
    #[schema(examples("Stripe payments API"))]
    description: String,
    /// `Internal` for a host of this machine or a private network, else `External`.
    #[schema(examples("External"))]
    topology: &'static str,
    /// `Open`: every agent that requires the tool may use it.
    #[schema(examples("Open"))]
    access_mode: &'static str,
    /// Where it is.
    connection: ToolConnection,
}

/// Where a tool is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolConnection {
    /// Its URL, as it was given.
    #[schema(examples("https://api.stripe.com"))]
    base_url: String,
    /// TCP port.
    #[schema(examples(443))]
    port: u16,
    /// `HTTP` or `HTTPS`.
    #[schema(examples("HTTPS"))]
    scheme: &'static str,
    /// How one authenticates to it.
    authentication: Authentication,
}

/// How one authenticates to a tool.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// `None`, `APIKey` or `OAuth2`.
    #[serde(rename = "type")]
    #[schema(examples("APIKey"))]
    kind: &'static str,
    /// Where the API key goes, if that was said.
    #[schema(value_type = ApiKeyConfig, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_config: Option<ApiKeyConfig>,
    /// Where tokens come from, if that was said.
    #[schema(value_type = OAuth2Config, required = false)]
    #[serde(rename = "oauth2Config", skip_serializing_if = "Option::is_none")]
    oauth2_config: Option<OAuth2Config>,
}

/// Where an API key goes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyConfig {
    /// `Header` or `Query`.
    #[serde(rename = "in")]
    #[schema(examples("Header"))]
    location: String,
    /// The header's or parameter's name.
    #[schema(examples("Authorization"))]
    name: String,
    /// What stands before the key in the value.
    #[schema(examples("Bearer "))]
    value_prefix: String,
}

/// Where tokens of OAuth 2.0 client credentials come from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2Config {
    /// The token endpoint.
    #[schema(examples("https://login.example.com/oauth/token"))]
    token_url: String,
    /// What is asked for.
    scopes: Vec<String>,
}

/// How a tool is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolStatus {
    /// `Ready`, or `Pending` while something is missing.
    #[schema(examples("Ready"))]
    phase: &'static str,
    /// What is missing.
    message: String,
    /// Whether there are credentials.
    credentials: CredentialStatus,
}

/// Whether credentials are stored; they themselves are shown nowhere.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// Whether there are any.
    stored: bool,
    /// When they were stored; absent when there are none.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    set_at: Option<String>,
}

impl CredentialStatus {
    /// Of credentials that were stored then, if they were.
    pub fn of(set_at: Option<i64>) -> Self {
        Self { stored: set_at.is_some(), set_at: set_at.map(rfc3339) }
    }
}

/// The answer to every successful deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// `deleted`.
    #[schema(examples("deleted"))]
    status: &'static str,
}

/// It is gone.
pub const DELETED: Deleted = Deleted { status: "deleted" };

/// List tools
///
/// All tools, by name.
#[utoipa::path(
    get,
    path = "/tools",
    tag = "tools",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries of the answer, 1 to 1000"),
        ("after" = Option<String>, Query, description = "Only entries whose names come after this one"),
    ),
    responses(
        (
            status = 200, description = "The tools", body = Vec<ToolOut>,
            headers(("Link" = String, description = "Where the next part is, as `<?…>; rel=\"next\"`, if there is more"))
        ),
    ),
)]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<ByName<ToolOut>> {
    Ok(ByName::of(&query, state.tools.list_tools().await?, |tool| &tool.name, shape)?)
}

/// Get a tool
///
/// What one tool is, and whether it has what it needs.
#[utoipa::path(
    get,
    path = "/tools/{name}",
    tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses(
        (status = 200, description = "The tool", body = ToolOut),
    ),
)]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<ToolOut>> {
    Ok(Json(shape(state.tools.get_tool(name.name("tool")?).await?)))
}

/// Register a tool
///
/// Agents that were waiting for the tool get it. The same tool again is no change, and may add credentials.
#[utoipa::path(
    post,
    path = "/tools",
    tag = "tools",
    request_body(content = ToolIn, description = "The tool", example = json!({"name": "stripe-api", "description": "Stripe payments API", "base_url": "https://api.stripe.com", "auth_type": "APIKey", "credentials": {"api_key": "sk_live_1"}})),
    responses(
        (status = 201, description = "The tool is registered", body = ToolOut),
        (status = 200, description = "It is registered just so", body = ToolOut),
        (status = 409, description = "Another tool has this name"),
    ),
)]
pub async fn create(State(state): State<Arc<AppState>>, body: WholeBody) -> ApiResult<(StatusCode, Json<ToolOut>)> {
    let (tool, warnings) = ToolBody::read(&body.bytes)?.named()?;
    let known = exists(state.tools.get_tool(tool.name.clone()).await)?;
    let tool = state.tools.create_tool(Operation::new(), tool).await?;
    bindings::spread(&state, tool.name.clone(), None);
    Ok((created(!known), Json(ToolOut { warnings, ..shape(tool) })))
}

/// Replace a tool
///
/// Replaces a tool's description, connection and labels. Its credentials stay if none are given; a change that would
/// send them to another host is refused. Agents that use the tool get its new URL.
#[utoipa::path(
    put,
    path = "/tools/{name}",
    tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    request_body(content = ToolIn, description = "The tool as it shall be", example = json!({"description": "Payments", "base_url": "https://api.stripe.com/v1", "auth_type": "APIKey"})),
    responses(
        (status = 200, description = "The tool as it is now", body = ToolOut),
        (status = 409, description = "Stored credentials would go to another host"),
    ),
)]
pub async fn replace(State(state): State<Arc<AppState>>, name: Segment, body: WholeBody) -> ApiResult<Json<ToolOut>> {
    update(&state, name, |tool| ToolBody::read(&body.bytes)?.replacing(&tool.name)).await
}

/// Change a tool
///
/// Changes what the body names and keeps the rest; else as `PUT`.
#[utoipa::path(
    patch,
    path = "/tools/{name}",
    tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    request_body(content = ToolIn, description = "What shall be different", example = json!({"description": "Payments"})),
    responses(
        (status = 200, description = "The tool as it is now", body = ToolOut),
        (status = 409, description = "Stored credentials would go to another host"),
    ),
)]
pub async fn change(State(state): State<Arc<AppState>>, name: Segment, body: WholeBody) -> ApiResult<Json<ToolOut>> {
    update(&state, name, |tool| ToolBody::read(&body.bytes)?.merged(tool)).await
}

async fn update(
    state: &Arc<AppState>,
    name: Segment,
    make: impl Fn(&Tool) -> Result<(NewTool, Vec<String>)>,
) -> ApiResult<Json<ToolOut>> {
    let name = name.name("tool")?;
    for tries in 1.. {
        let before = state.tools.get_tool(name.clone()).await?;
        let (tool, warnings) = make(&before)?;
        let update = ToolUpdate { tool, version: Some(before.version) };
        match state.tools.update_tool(Operation::new(), update).await {
            Err(e) if e.code == Code::Aborted && tries < UPDATE_TRIES => {}
            Err(e) => return Err(e.into()),
            Ok(tool) => {
                if tool.internal_url != before.internal_url {
                    bindings::spread(state, name, Some(before.internal_url));
                }
                return Ok(Json(ToolOut { warnings, ..shape(tool) }));
            }
        }
    }
    Err(ApiError::from(hoistway_model::Error::new(Code::Aborted, "the tool changes all the time; try again")))
}

/// Store a tool's credentials
///
/// They take the place of others, are kept encrypted, and no answer shows them.
#[utoipa::path(
    put,
    path = "/tools/{name}/credentials",
    tag = "tools",
    operation_id = "set_tool_credentials",
    params(("name" = String, Path, description = "The tool's name")),
    request_body(content = ToolCredentials, description = "The credentials", example = json!({"api_key": "sk_live_1"})),
    responses(
        (status = 200, description = "The tool", body = ToolOut),
    ),
)]
pub async fn set_credentials(
    State(state): State<Arc<AppState>>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<Json<ToolOut>> {
    let name = name.name("tool")?;
    let tool = state.tools.get_tool(name.clone()).await?;
    let (credentials, warnings) = only_credentials(&body.bytes, tool.connection.auth_type)?;
    let tool = state.tools.set_tool_credentials(Operation::new(), name, credentials).await?;
    Ok(Json(ToolOut { warnings, ..shape(tool) }))
}

/// Delete a tool's credentials
///
/// Takes away what is stored; the tool stays.
#[utoipa::path(
    delete,
    path = "/tools/{name}/credentials",
    tag = "tools",
    operation_id = "delete_tool_credentials",
    params(("name" = String, Path, description = "The tool's name")),
    responses(
        (status = 200, description = "They are gone", body = Deleted),
    ),
)]
pub async fn delete_credentials(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    state.tools.set_tool_credentials(Operation::new(), name.name("tool")?, BTreeMap::new()).await?;
    Ok(Json(DELETED))
}

/// Delete a tool
///
/// Deletes a tool that no agent uses, with its credentials.
#[utoipa::path(
    delete,
    path = "/tools/{name}",
    tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 409, description = "Agents use it; `error` names them"),
    ),
)]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    state.tools.delete_tool(Operation::new(), name.name("tool")?).await?;
    Ok(Json(DELETED))
}

/// Whether a look-up found something.
pub fn exists<T>(found: Result<T>) -> Result<bool> {
    match found {
        Ok(_) => Ok(true),
        Err(e) if e.code == Code::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// 201 for what is new, else 200.
pub fn created(new: bool) -> StatusCode {
    if new { StatusCode::CREATED } else { StatusCode::OK }
}

fn shape(tool: Tool) -> ToolOut {
    let at = tool.connection;
    let missing = match at.auth_type {
        AuthType::None => None,
        kind if !tool.has_credentials => Some(format!("no credential is stored for {}", kind.as_str())),
        AuthType::OAuth2 if at.oauth2.is_none() => Some("no token URL is known for OAuth2".to_owned()),
        _ => None,
    };
    ToolOut {
        name: tool.name.into(),
        namespace: NAMESPACE,
        labels: tool.labels,
        status: ToolStatus {
            phase: if missing.is_some() { "Pending" } else { "Ready" },
            message: missing.unwrap_or_default(),
            credentials: CredentialStatus::of(tool.credentials_set_at),
        },
        spec: ToolSpec {
            description: tool.description,
            topology: if is_internal(&at.base_url) { "Internal" } else { "External" },
            access_mode: "Open",
            connection: ToolConnection {
                base_url: at.base_url,
                port: at.port,
                scheme: at.scheme.as_str(),
                authentication: Authentication {
                    kind: at.auth_type.as_str(),
                    api_key_config: at.api_key.map(|key| ApiKeyConfig {
                        location: key.location,
                        name: key.name,
                        value_prefix: key.value_prefix,
                    }),
                    oauth2_config: at
                        .oauth2
                        .map(|oauth2| OAuth2Config { token_url: oauth2.token_url, scopes: oauth2.scopes }),
                },
            },
        },
        created_at: rfc3339(tool.created_at),
        updated_at: rfc3339(tool.updated_at),
        warnings: Vec::new(),
    }
}

/// Whether a URL's host is of this machine or a private network, as far as its name tells.
fn is_internal(url: &str) -> bool {
    const PRIVATE: [&str; 5] = [".local", ".localhost", ".internal", ".svc", ".svc.cluster.local"];
    let Ok(url) = Url::parse(url) else { return false };
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Some(Host::Domain(name)) => !name.contains('.') || PRIVATE.iter().any(|suffix| name.ends_with(suffix)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_hosts_are_internal() {
        for url in ["http://localhost:1", "http://10.0.0.1", "http://[fd00::1]", "http://db", "http://a.b.svc:80/x"] {
            assert!(is_internal(url), "{url}");
        }
        for url in ["https://api.stripe.com", "http://8.8.8.8", "http://svc.example"] {
            assert!(!is_internal(url), "{url}");
        }
    }
}
