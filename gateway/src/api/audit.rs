//! `/api/audit`.

use super::{
    error::ApiResult,
    pagination::{OriginalUri, RecordPage},
    query::Query,
};
use crate::{
    audit::{Entry, Filter},
    state::AppState,
};
use axum::{Extension, extract::State, response::Response};
use hoistway_kit::time::rfc3339;
use hoistway_model::Error;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// One change, or one attempt at it.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct EntryView {
    /// Its id; ids sort by time.
    id: String,
    /// When its request came.
    created_at: String,
    /// The key that was used.
    key: KeyRef,
    /// The action.
    #[schema(examples("agent.deploy"))]
    action: String,
    /// The name or id of the action's target.
    target: Option<String>,
    /// The deployment, if it is one.
    deployment: Option<String>,
    /// `success`, `failure`, `pending` (under way), `interrupted` (the caller hung up) or `unknown` (the process ended);
    /// of a deploy, the deployment's.
    outcome: &'static str,
    /// The status that was answered; null for a deploy that was accepted.
    status: Option<u16>,
    /// The error's code.
    code: Option<String>,
    /// Where the request came from.
    address: Option<String>,
    /// The client's user agent.
    user_agent: Option<String>,
    /// The request's id.
    request_id: String,
}

/// A key that was used.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditKey)]
pub struct KeyRef {
    /// Its id.
    id: String,
    /// Its name at that time.
    name: String,
}

/// List changes
///
/// Who changed what, when, from where, and how it ended, newest first. Attempts that were refused are there too, except
/// those without a valid key and those over a rate. No content of a request is ever in it. Needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/audit",
    tag = "audit",
    params(
        ("agent" = Option<String>, Query, description = "Only actions on the agent of this name"),
        ("target" = Option<String>, Query, description = "Only actions on what has this name or id"),
        ("action" = Option<String>, Query, description = "Only this action, such as `agent.deploy`; `agent.` is every action that begins so"),
        ("key" = Option<String>, Query, description = "Only actions of the key with this id"),
        ("limit" = Option<u32>, Query, description = "The most entries of the answer; 100 when absent"),
        ("before" = Option<String>, Query, description = "Only entries older than the one with this id"),
    ),
    responses((status = 200, description = "The entries, newest first", body = Vec<EntryView>))
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(uri): Extension<OriginalUri>,
    query: Query,
) -> ApiResult<Response> {
    let page = RecordPage::parse(&query)?;
    let agent = query.name("agent")?.map(|name| name.as_str().to_owned());
    let before = query.text("before").map(|id| id.parse().map_err(|_| Error::field("before", "is not an entry's id")));
    let filter = Filter {
        agents_only: agent.is_some(),
        target: agent.or_else(|| query.text("target").map(str::to_owned)),
        action: query.text("action").map(str::to_owned),
        key: query.text("key").map(str::to_owned),
        before: before.transpose()?,
    };
    let entries = state.access.audit.list(filter, page.look_up()).await?;
    Ok(page.answer(&uri, entries.into_iter().map(EntryView::from).collect(), |entry: &EntryView| &entry.id))
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id.to_string(),
            created_at: rfc3339(entry.at),
            key: KeyRef { id: entry.key_id, name: entry.key_name },
            action: entry.action,
            target: entry.target,
            deployment: entry.deployment,
            outcome: entry.outcome.as_str(),
            status: entry.status,
            code: entry.code,
            address: entry.address,
            user_agent: entry.user_agent,
            request_id: entry.request_id,
        }
    }
}
