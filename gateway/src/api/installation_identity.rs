//! `GET /identity`: proves to a client which installation this is, before the client sends its key.

use super::{
    error::{ApiResult, ErrorBody},
    query::Query,
};
use crate::state::AppState;
use axum::{Extension, Json, extract::State};
use hoistway_kit::{connection_limits::Connection, installation_identity};
use hoistway_model::{Code, Error};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The answer to a client's number.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Identity)]
pub struct InstallationProof {
    /// An HMAC-SHA256 in base64url, under a key that is derived from the installation's API key.
    #[schema(examples("7t0p3rsmsYn9dYl2WbK0vJw4cVQ0m1zI2cO2aQF1u2k"))]
    proof: String,
}

/// Returns the paths of this module, outside `/api`.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Ask which installation this is
///
/// Answers a number of the client's own with a proof that can be checked by whoever has the installation's API key (the
/// file `api-key`), so that a client on the same machine sees whom it speaks with before it sends that key. The proof is
/// for the address at which this server was dialled too: one that is passed on does not fit. It needs no API key.
#[utoipa::path(
    get,
    path = "/identity",
    tag = "platform",
    operation_id = "get_identity",
    params(("nonce" = String, Query, description = "A number that was not asked with before: 16 to 64 letters, digits, - and _",
        min_length = 16, max_length = 64, pattern = "^[A-Za-z0-9_-]+$", example = "mJ0f1b7wTq2kXr8s")),
    responses(
        (status = 200, description = "The proof", body = InstallationProof),
        (status = 400, description = "There is no such number in the query", body = ErrorBody),
    )
)]
async fn show(
    State(state): State<Arc<AppState>>,
    connection: Option<Extension<Connection>>,
    query: Query,
) -> ApiResult<Json<InstallationProof>> {
    query.only(&["nonce"])?;
    let nonce = query.text("nonce").filter(|text| installation_identity::is_nonce(text)).ok_or_else(|| {
        let (min, max) = (installation_identity::NONCE.start(), installation_identity::NONCE.end());
        Error::field("nonce", format!("must be {min} to {max} letters, digits, - and _"))
    })?;
    let at = connection.and_then(|Extension(connection)| connection.local());
    let at = at.ok_or_else(|| Error::new(Code::Unavailable, "it is not known at which address this was asked"))?;
    Ok(Json(InstallationProof { proof: state.access.installation.proof(nonce, at) }))
}
