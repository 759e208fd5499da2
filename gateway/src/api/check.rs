//! `/api/tools/{name}/check` and `/api/model-providers/{name}/check`.

use crate::{
    api::{error::ApiResult, query::Segment},
    state::AppState,
};
use axum::{Json, extract::State};
use hoistway_model::egress::{Check, CheckStep};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Whether a tool or a model provider works.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Check)]
pub struct CheckOut {
    /// Whether every check is.
    #[schema(examples(false))]
    ok: bool,
    /// The status that it answered; null when it did not answer.
    #[schema(required, examples(401))]
    status: Option<u16>,
    /// Milliseconds until the head of that answer, an access token's included.
    #[schema(required, examples(120))]
    latency_ms: Option<u64>,
    /// The checks, in order, without those that could not be made.
    checks: Vec<CheckStepOut>,
}

/// The result of a check.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckStep)]
pub struct CheckStepOut {
    /// `address` (the host can be reached), `tls` (its certificate is trusted), `credential` (it is there and accepted) or
    /// `model` (a model provider has a model that it is registered with).
    #[schema(examples("credential"))]
    check: &'static str,
    /// Whether it is as it should be.
    #[schema(examples(false))]
    ok: bool,
    /// The finding, and advice.
    #[schema(examples(
        "the tool answered 401: the credential was not accepted; PUT /api/tools/stripe-api/credentials stores another one"
    ))]
    message: String,
}

impl From<Check> for CheckOut {
    fn from(check: Check) -> Self {
        let ok = check.is_ok();
        let step = |CheckStep { check, ok, message }: CheckStep| CheckStepOut { check: check.as_str(), ok, message };
        let Check { status, latency_ms, steps } = check;
        Self { ok, status, latency_ms, checks: steps.into_iter().map(step).collect() }
    }
}

/// Check whether a tool works
///
/// Sends one `GET` to the tool's base URL as egress sends agents' calls: the same name resolution and address rules, proxy,
/// authorities and credential. It takes ten seconds at most. A tool that does not work is answered with 200 and `ok: false`:
/// 401 and 403 mean that the credential was not accepted, any other status that the tool can be reached.
#[utoipa::path(
    post,
    path = "/tools/{name}/check",
    tag = "tools",
    operation_id = "check_tool",
    params(("name" = String, Path, description = "The tool's name")),
    responses(
        (status = 200, description = "What was found", body = CheckOut),
    ),
)]
pub async fn tool(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<CheckOut>> {
    let name = name.name("tool")?;
    state.tools.get_tool(name.clone()).await?;
    Ok(Json(state.egress.check_tool(name).await?.into()))
}

/// Check whether a model provider works
///
/// Asks the model provider for the list of its models as egress sends agents' calls, with its key, and looks for those that it
/// is registered with. No model is run. It takes ten seconds at most. A model provider that does not work is answered with 200
/// and `ok: false`.
#[utoipa::path(
    post,
    path = "/model-providers/{name}/check",
    tag = "model providers",
    operation_id = "check_model_provider",
    params(("name" = String, Path, description = "The model provider's name")),
    responses(
        (status = 200, description = "What was found", body = CheckOut),
    ),
)]
pub async fn model_provider(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<CheckOut>> {
    let name = name.name("model provider")?;
    state.tools.get_model_provider(name.clone()).await?;
    Ok(Json(state.egress.check_model_provider(name).await?.into()))
}
