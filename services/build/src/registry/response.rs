//! The parts that answers of several calls have in common.

use super::{
    error::{ErrorCode, Refusal},
    store::Deletion,
};
use axum::response::{IntoResponse, Response};
use hoistway_kit::db::db_error;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sea_orm::DatabaseTransaction;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A header value that cannot fail: digests, paths and numbers are visible ASCII.
pub(super) fn header_value(text: impl ToString) -> HeaderValue {
    HeaderValue::try_from(text.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Whether the client says that it has what it asks for.
pub(super) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else { return false };
    let said = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|list| list.split(',')).map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag)
}

/// The answer to such a client. Digests never change their meaning, so there is nothing to check.
pub(super) fn not_modified(etag: HeaderValue) -> Response {
    (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response()
}

/// Commits a deletion, or says why there is none.
pub(super) async fn deleted(
    txn: DatabaseTransaction,
    deletion: Deletion,
    unknown: Refusal,
    allowed: &'static str,
) -> Result<Response, Refusal> {
    match deletion {
        Deletion::Done => {
            txn.commit().await.map_err(db_error("deleting from the registry"))?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        Deletion::Unknown => Err(unknown),
        // Of the statuses that clients take for "this stays", the one that the specification names.
        Deletion::Kept(why) => Err(Refusal::new(ErrorCode::Denied, format!("it cannot be deleted: {why}"))
            .status(405)
            .header(header::ALLOW, HeaderValue::from_static(allowed))),
    }
}
