//! `/api/tools`.

pub mod body;

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
pub struct ToolOut {
    /// Unique name; agents require the tool by it.
    #[schema(example = "stripe-api")]
    name: String,
    #[schema(example = "agent-system")]
    namespace: &'static str,
    labels: BTreeMap<String, String>,
    spec: ToolSpec,
    status: ToolStatus,
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

/// What a tool is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolSpec {
    /// For people and models; may be empty.
    #[schema(example = "Stripe payments API")]
    description: String,
    /// `Internal` for a host of this machine or a private network, else `External`.
    #[schema(example = "External")]
    topology: &'static str,
    /// `Open`: every agent that requires the tool may use it.
    #[schema(example = "Open")]
    access_mode: &'static str,
    connection: ToolConnection,
}

/// Where a tool is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolConnection {
    #[schema(example = "https://api.stripe.com")]
    base_url: String,
    #[schema(example = 443)]
    port: u16,
    /// `HTTP` or `HTTPS`.
    #[schema(example = "HTTPS")]
    scheme: &'static str,
    authentication: Authentication,
}

/// How one authenticates to a tool.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// `None`, `APIKey` or `OAuth2`.
    #[serde(rename = "type")]
    #[schema(example = "APIKey")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_config: Option<ApiKeyConfig>,
    #[serde(rename = "oauth2Config", skip_serializing_if = "Option::is_none")]
    oauth2_config: Option<OAuth2Config>,
}

/// Where an API key goes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyConfig {
    /// `Header` or `Query`.
    #[serde(rename = "in")]
    #[schema(example = "Header")]
    location: String,
    /// The header's or parameter's name.
    #[schema(example = "Authorization")]
    name: String,
    /// What stands before the key in the value.
    #[schema(example = "Bearer ")]
    value_prefix: String,
}

/// Where tokens of OAuth 2.0 client credentials come from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2Config {
    #[schema(example = "https://login.example.com/oauth/token")]
    token_url: String,
    scopes: Vec<String>,
}

/// How a tool is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolStatus {
    /// `Ready`, or `Pending` while something is missing.
    #[schema(example = "Ready")]
    phase: &'static str,
    /// What is missing.
    message: String,
    credentials: CredentialStatus,
}

/// Whether credentials are stored; they themselves are shown nowhere.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    stored: bool,
    /// When; absent when there are none.
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
    #[schema(example = "deleted")]
    status: &'static str,
}

/// It is gone.
pub const DELETED: Deleted = Deleted { status: "deleted" };

/// All tools, by name.
#[utoipa::path(
    get, path = "/tools", tag = "tools",
    params(("limit" = Option<u32>, Query, description = "How many, 1 to 1000; a Link header leads to more"),
           ("after" = Option<String>, Query, description = "Those whose names come after this one")),
    responses((status = 200, body = Vec<ToolOut>))
)]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<ByName<ToolOut>> {
    Ok(ByName::of(&query, state.tools.list_tools().await?, |tool| &tool.name, shape)?)
}

/// One tool.
#[utoipa::path(
    get, path = "/tools/{name}", tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses((status = 200, body = ToolOut))
)]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<ToolOut>> {
    Ok(Json(shape(state.tools.get_tool(name.name("tool")?).await?)))
}

/// Registers a tool: 201 for a new one, 200 for one that is registered just so. Agents that were waiting for it get
/// it.
#[utoipa::path(
    post, path = "/tools", tag = "tools",
    responses((status = 201, body = ToolOut), (status = 200, body = ToolOut))
)]
pub async fn create(State(state): State<Arc<AppState>>, body: WholeBody) -> ApiResult<(StatusCode, Json<ToolOut>)> {
    let (tool, warnings) = ToolBody::read(&body.bytes)?.named()?;
    let known = exists(state.tools.get_tool(tool.name.clone()).await)?;
    let tool = state.tools.create_tool(Operation::new(), tool).await?;
    bindings::spread(&state, tool.name.clone(), None);
    Ok((created(!known), Json(ToolOut { warnings, ..shape(tool) })))
}

/// Replaces a tool's description, connection and labels. Its credentials stay if none are given; a change that would
/// send them to another host is 409. Agents that use the tool get its new URL.
#[utoipa::path(
    put, path = "/tools/{name}", tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses((status = 200, body = ToolOut))
)]
pub async fn replace(State(state): State<Arc<AppState>>, name: Segment, body: WholeBody) -> ApiResult<Json<ToolOut>> {
    update(&state, name, |tool| ToolBody::read(&body.bytes)?.replacing(&tool.name)).await
}

/// Changes what the body names of a tool and keeps the rest; else as PUT.
#[utoipa::path(
    patch, path = "/tools/{name}", tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses((status = 200, body = ToolOut))
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

/// Stores a tool's credentials in the place of others: `api_key`, or `client_id` and `client_secret`. They are
/// encrypted, and no answer shows them.
#[utoipa::path(
    put, path = "/tools/{name}/credentials", tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses((status = 200, body = ToolOut))
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

/// Takes a tool's credentials away.
#[utoipa::path(
    delete, path = "/tools/{name}/credentials", tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses((status = 200, body = Deleted))
)]
pub async fn delete_credentials(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    state.tools.set_tool_credentials(Operation::new(), name.name("tool")?, BTreeMap::new()).await?;
    Ok(Json(DELETED))
}

/// Deletes a tool that no agent uses.
#[utoipa::path(
    delete, path = "/tools/{name}", tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    responses((status = 200, body = Deleted))
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
