//! `/api/tools`.

pub mod body;
mod credential_config;
mod response;
mod schema;

use super::{
    check,
    error::{ApiError, ApiResult},
    pagination::NamePage,
    query::{Query, Segment},
    request_body::WholeBody,
};
use crate::{
    events::ToolChange,
    keys::{Caller, Scope},
    state::AppState,
    tool_url_updates,
};
use axum::{Extension, Json, extract::State};
use body::{ToolBody, only_credentials};
use hoistway_model::{
    Code, Operation, Result, Secret,
    tool::{NewTool, Tool, ToolUpdate},
};
use http::StatusCode;
pub use response::CredentialStatus;
use response::{ToolOut, shape};
use schema::{ToolCredentials, ToolIn};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The number of attempts at an update while other requests change the tool.
const UPDATE_TRIES: u32 = 5;

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, replace, change, delete))
        .routes(routes!(set_credentials, delete_credentials))
        .routes(routes!(check::tool))
}

/// The answer to every successful deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// `deleted`.
    #[schema(examples("deleted"))]
    status: &'static str,
}

/// The answer to a deletion.
pub const DELETED: Deleted = Deleted { status: "deleted" };

/// List tools
///
/// All tools, in the order of their names.
#[utoipa::path(
    get,
    path = "/tools",
    tag = "tools",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries of the answer; one of 32 MiB has fewer"),
        ("after" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "The tools", body = Vec<ToolOut>),
    ),
)]
pub async fn list(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<NamePage> {
    let _place = state.lists.place().await?;
    Ok(NamePage::fetch(&query, |part| state.tools.list_tools(part), |tool| &tool.name, shape).await?)
}

/// Get a tool
///
/// The specification and the status of one tool.
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
pub async fn create(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    body: WholeBody,
) -> ApiResult<(StatusCode, Json<ToolOut>)> {
    let (tool, warnings) = ToolBody::read(&body.bytes)?.named()?;
    may_store(&caller, &tool.credentials)?;
    let known = exists(state.tools.get_tool(tool.name.clone()).await)?;
    let tool = state.tools.create_tool(Operation::new(), tool).await?;
    if !known {
        state.events.tool_changed(ToolChange::Created, &tool.name);
    }
    tool_url_updates::propagate(&state, tool.name.clone(), None);
    Ok((created(!known), Json(shape(tool).warned(warnings))))
}

/// Replace a tool
///
/// Replaces a tool's description, connection and labels. Its credentials stay if none are given; a change that would
/// send them to another host or base path is refused. Agents that use the tool get its new URL.
#[utoipa::path(
    put,
    path = "/tools/{name}",
    tag = "tools",
    params(("name" = String, Path, description = "The tool's name")),
    request_body(content = ToolIn, description = "The tool as it shall be", example = json!({"description": "Payments", "base_url": "https://api.stripe.com/v1", "auth_type": "APIKey"})),
    responses(
        (status = 200, description = "The tool as it is now", body = ToolOut),
        (status = 409, description = "Stored credentials would go to another host or path"),
    ),
)]
pub async fn replace(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<Json<ToolOut>> {
    update(&state, &caller, name, |tool| ToolBody::read(&body.bytes)?.replacing(&tool.name)).await
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
        (status = 409, description = "Stored credentials would go to another host or path"),
    ),
)]
pub async fn change(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<Json<ToolOut>> {
    update(&state, &caller, name, |tool| ToolBody::read(&body.bytes)?.merged(tool)).await
}

/// Checks that the caller may store credentials, which takes the scope `admin` in every request: with a stored
/// credential the calls of other users' agents could be directed to the caller's own account.
pub fn may_store(caller: &Caller, credentials: &BTreeMap<String, Secret>) -> Result<()> {
    if credentials.is_empty() { Ok(()) } else { caller.must_have(Scope::Admin, "storing credentials") }
}

async fn update(
    state: &Arc<AppState>,
    caller: &Caller,
    name: Segment,
    make: impl Fn(&Tool) -> Result<(NewTool, Vec<String>)>,
) -> ApiResult<Json<ToolOut>> {
    let name = name.name("tool")?;
    for tries in 1.. {
        let before = state.tools.get_tool(name.clone()).await?;
        let (tool, warnings) = make(&before)?;
        may_store(caller, &tool.credentials)?;
        let update = ToolUpdate { tool, version: Some(before.version) };
        match state.tools.update_tool(Operation::new(), update).await {
            Err(e) if e.code == Code::Aborted && tries < UPDATE_TRIES => {}
            Err(e) => return Err(e.into()),
            Ok(tool) => {
                if tool.version != before.version {
                    state.events.tool_changed(ToolChange::Updated, &tool.name);
                }
                if tool.internal_url != before.internal_url {
                    tool_url_updates::propagate(state, name, Some(before.internal_url));
                }
                return Ok(Json(shape(tool).warned(warnings)));
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
    Ok(Json(shape(tool).warned(warnings)))
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
    let name = name.name("tool")?;
    state.tools.delete_tool(Operation::new(), name.clone()).await?;
    state.events.tool_changed(ToolChange::Deleted, &name);
    Ok(Json(DELETED))
}

/// Returns whether a look-up found something.
pub fn exists<T>(found: Result<T>) -> Result<bool> {
    match found {
        Ok(_) => Ok(true),
        Err(e) if e.code == Code::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Returns 201 for a new resource, else 200.
pub fn created(new: bool) -> StatusCode {
    if new { StatusCode::CREATED } else { StatusCode::OK }
}
