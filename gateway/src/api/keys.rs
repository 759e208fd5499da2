//! `/api/keys`.

use super::{
    error::{ApiResult, ErrorBody},
    json::Object,
    links::ApiBase,
    pagination::{OriginalUri, RecordPage},
    query::{Query, Segment},
    request_body::WholeBody,
};
use crate::{
    audit,
    keys::{Caller, Key, NewKey, Scope, Scopes},
    state::AppState,
};
use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_kit::time::{now_ms, parse_rfc3339, rfc3339};
use hoistway_model::{Error, Result, error::excerpt, limits::MAX_MEMBERS};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, revoke))
}

/// An API key, without the key.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    /// Its id; `installation` is the key in the installation's file.
    id: String,
    /// The name that its creator gave it.
    name: String,
    /// The key's first characters.
    prefix: String,
    /// Any of `read`, `deploy`, `invoke`, `admin`.
    scopes: Vec<&'static str>,
    /// When it was made; null for the installation's.
    created_at: Option<String>,
    /// The id of the key that made it; null for the installation's.
    created_by: Option<String>,
    /// When it was used last, to the minute; null if it was not.
    last_used_at: Option<String>,
    /// When it ends to be valid; null if never.
    expires_at: Option<String>,
    /// When it was revoked; null if it was not.
    revoked_at: Option<String>,
}

/// A key that is to be made.
#[derive(ToSchema)]
#[schema(as = NewKey)]
#[expect(dead_code, reason = "it describes the body, which the strict reader reads")]
pub struct NewKeyBody {
    /// The name for the key.
    #[schema(examples("ci"))]
    name: String,
    /// Any of `read` (look), `deploy` (change and look), `invoke` (invoke agents), `admin` (everything).
    #[schema(max_items = 256)]
    scopes: Vec<String>,
    /// When it ends to be valid, in RFC 3339; absent: never.
    expires_at: Option<String>,
}

/// A new key, the only time that it is shown.
#[derive(Serialize, ToSchema)]
pub struct CreatedKey {
    /// The stored data of the key.
    #[serde(flatten)]
    view: KeyView,
    /// The key itself.
    #[schema(examples("hw_3q2-7wEBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs"))]
    key: String,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A key that was revoked.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedKey)]
pub struct Revoked {
    /// `deleted`.
    #[schema(value_type = String, examples("deleted"))]
    status: &'static str,
}

/// List API keys
///
/// Newest first, those that are revoked or expired too, until the audit log's time is over. The last entry of the last
/// page is the key in the installation's file. No entry has the key itself. Needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/keys",
    tag = "keys",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries of the answer; 100 when absent"),
        ("before" = Option<String>, Query, description = "Only keys that were made before the one with this id"),
    ),
    responses((status = 200, description = "The keys, newest first", body = Vec<KeyView>))
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(uri): Extension<OriginalUri>,
    query: Query,
) -> ApiResult<Response> {
    let page = RecordPage::parse(&query)?;
    let keys = state.access.keys.list(query.text("before"), page.look_up()).await?;
    Ok(page.answer(&uri, keys.into_iter().map(KeyView::from).collect(), |key: &KeyView| &key.id))
}

/// Get an API key
///
/// The stored data of the key; never the key itself. Needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/keys/{id}",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id; `installation` is the one in the installation's file")),
    responses((status = 200, description = "The key", body = KeyView))
)]
pub async fn get(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Json<KeyView>> {
    Ok(Json(state.access.keys.get(&id.into_text()).await?.into()))
}

/// Create an API key
///
/// The answer has the key. It cannot be seen again: what is kept is a hash of it. Needs the scope `admin`.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "keys",
    request_body(
        content = NewKeyBody,
        description = "What the key is for",
        example = json!({"name": "ci", "scopes": ["deploy", "invoke"], "expires_at": "2999-01-01T00:00:00Z"})
    ),
    responses(
        (
            status = 201,
            description = "The key, shown this once",
            body = CreatedKey,
            headers(("Location" = String, description = "The key's record: `/api/keys/{id}`, or the same under `/api/v1` if the request was"))
        ),
        (status = 409, description = "There are as many valid keys as the operator allows", body = ErrorBody),
    )
)]
pub async fn create(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    base: ApiBase,
    body: WholeBody,
) -> ApiResult<Response> {
    let (new, warnings) = parse(&body.bytes)?;
    let (key, secret) = state.access.keys.create(new, &caller).await?;
    if let Some(pending_entry) = audit::current() {
        pending_entry.set_target(&key.id);
    }
    let location = base.address(format_args!("/keys/{}", key.id))?;
    // Caches on the way must not store the key.
    let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let created = CreatedKey { view: key.into(), key: secret.expose().to_owned(), warnings };
    Ok((StatusCode::CREATED, headers, Json(created)).into_response())
}

/// Revoke an API key
///
/// It opens nothing from the next request on. Its record stays, and so does what the audit log says of it. Revoking it
/// again changes nothing. Needs the scope `admin`.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id")),
    responses(
        (status = 200, description = "The key is revoked", body = Revoked),
        (
            status = 409,
            description = "It is the key in the installation's file; `error` says how that is replaced",
            body = ErrorBody
        ),
    )
)]
pub async fn revoke(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Json<Revoked>> {
    let id = id.into_text();
    state.reserve.for_freeing(|| state.access.keys.revoke(&id)).await?;
    Ok(Json(Revoked { status: "deleted" }))
}

fn parse(body: &[u8]) -> Result<(NewKey, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;
    let name = root.required("name")?.trim().to_owned();
    if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::field("name", format!("must be at most {MAX_NAME} characters on one line")));
    }
    let scopes = root.strings("scopes", MAX_MEMBERS)?.unwrap_or_default().into_iter().enumerate();
    let scope = |(i, text): (usize, String)| text.parse::<Scope>().map_err(|e| Error::field(format!("scopes[{i}]"), e));
    let scopes = scopes.map(scope).collect::<Result<Scopes>>()?;
    if scopes.is_empty() {
        return Err(Error::field("scopes", "is required: any of read, deploy, invoke, admin"));
    }
    let expires_at = root.text("expires_at")?.map(|text| expiry(&text)).transpose()?;
    root.finish(&mut warnings);
    Ok((NewKey { name, scopes, expires_at }, warnings))
}

fn expiry(text: &str) -> Result<i64> {
    let wrong = |why: &str| Error::field("expires_at", format!("\"{}\" {why}", excerpt(text)));
    let at = parse_rfc3339(text.trim()).ok_or_else(|| wrong("is not a time such as \"2031-01-01T00:00:00Z\""))?;
    if at > now_ms() { Ok(at) } else { Err(wrong("has passed")) }
}

impl From<Key> for KeyView {
    fn from(key: Key) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes.iter().map(Scope::as_str).collect(),
            created_at: key.created_at.map(rfc3339),
            created_by: key.created_by,
            last_used_at: key.last_used_at.map(rfc3339),
            expires_at: key.expires_at.map(rfc3339),
            revoked_at: key.revoked_at.map(rfc3339),
        }
    }
}
