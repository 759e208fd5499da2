//! `/api/deployments`.

use super::{
    error::{ApiResult, ErrorBody},
    pagination::{OriginalUri, RecordPage},
    query::{Query, Segment},
};
use crate::{
    deploy::{Deployment, DeploymentQuery, DeploymentStatus, DeploymentStep},
    image_host::PublicRegistry,
    state::AppState,
};
use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_kit::time::rfc3339;
use hoistway_model::{Name, RevisionId};
use http::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(cancel))
}

/// A deployment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Deployment)]
pub struct DeploymentOut {
    /// Deployments are in the order of their ids.
    id: String,
    /// The agent.
    #[schema(value_type = String)]
    agent: Name,
    /// PENDING, RUNNING, UNDOING, SUCCEEDED or FAILED.
    status: &'static str,
    /// The step that runs or ran last.
    step: Option<&'static str>,
    /// Its steps in their order, without those that had nothing to do.
    steps: Vec<StepOut>,
    /// `deploy`, `rollback`, `config` or `rebuild`.
    kind: &'static str,
    /// The number of the revision that it made or found, once it is known.
    revision: Option<u64>,
    /// The id of the revision that it made; absent while that is not decided, and if the agent needed no new one.
    #[schema(value_type = Option<String>)]
    revision_id: Option<RevisionId>,
    /// Tools that it created.
    tools_created: Vec<String>,
    /// The build that it asked for.
    build_id: Option<String>,
    /// The image of that build.
    image_uri: Option<String>,
    /// The warnings of its acceptance.
    warnings: Vec<String>,
    /// Why it failed.
    error: Option<FailureOut>,
    /// The HTTP request that it came with.
    request_id: Option<String>,
    /// When it was accepted.
    #[schema(format = DateTime)]
    created_at: String,
    /// When its record changed last.
    #[schema(format = DateTime)]
    updated_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// From its acceptance to its end, in milliseconds.
    duration_ms: Option<i64>,
}

/// A step of a deployment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeploymentStep)]
pub struct StepOut {
    /// `plan`, `tools`, `build`, `start`, `switch` or `bind`.
    step: &'static str,
    /// PENDING (its turn has not come), RUNNING, SUCCEEDED or FAILED.
    status: &'static str,
    /// When it began.
    #[schema(format = DateTime)]
    started_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// From the one to the other, in milliseconds.
    duration_ms: Option<i64>,
}

/// Why a deployment failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeploymentFailure)]
pub struct FailureOut {
    /// For people.
    error: String,
    /// For programs.
    code: &'static str,
    /// Lines that prove it.
    details: Vec<String>,
    /// Advice, where the text does not contain it.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

/// List deployments
///
/// Deployments, newest first, page by page.
#[utoipa::path(
    get, path = "/deployments", tag = "deployments",
    params(
        ("agent" = Option<String>, Query, description = "Only deployments of this agent"),
        ("status" = Option<String>, Query, description = "Only PENDING, RUNNING, UNDOING, SUCCEEDED or FAILED ones"),
        ("limit" = Option<u32>, Query, description = "The length of a page, 100 unless given"),
        ("before" = Option<String>, Query, description = "Only deployments older than this one"),
    ),
    responses(
        (status = 200, description = "A page of deployments; the header Link names the next one, if there is one", body = [DeploymentOut]),
    )
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(uri): Extension<OriginalUri>,
    query: Query,
) -> ApiResult<Response> {
    let page = RecordPage::parse(&query)?;
    let wanted = DeploymentQuery {
        agent: query.name("agent")?,
        status: query.one_of::<DeploymentStatus>("status")?,
        before: query.id("before")?,
        limit: page.look_up(),
    };
    let deployments = state.deployer.list(wanted).await?;
    let shown: Vec<DeploymentOut> = deployments.into_iter().map(|it| shape(it, &state.public_registry)).collect();
    Ok(page.answer(&uri, shown, |deployment| &deployment.id))
}

/// Get a deployment
///
/// One deployment with its steps and how long each took.
#[utoipa::path(
    get, path = "/deployments/{id}", tag = "deployments",
    params(("id" = String, Path, description = "The deployment's id")),
    responses(
        (status = 200, description = "The deployment", body = DeploymentOut),
    )
)]
pub async fn get(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Json<DeploymentOut>> {
    let deployment = state.deployer.get(id.id("deployment")?).await?;
    Ok(Json(shape(deployment, &state.public_registry)))
}

/// Cancel a deployment
///
/// Ends a deployment that waits, builds or starts its agent; what it has done is undone, as when it fails. One that has
/// ended, or is past its point of no return (the switch), cannot be cancelled.
#[utoipa::path(
    post, path = "/deployments/{id}/cancel", operation_id = "cancel_deployment", tag = "deployments",
    params(("id" = String, Path, description = "The deployment's id")),
    responses(
        (status = 200, description = "The deployment, which has failed with the code `cancelled`", body = DeploymentOut),
        (status = 202, description = "The deployment, which is still being undone", body = DeploymentOut),
        (status = 409, description = "It has ended", body = ErrorBody),
    )
)]
pub async fn cancel(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Response> {
    let deployment = state.deployer.cancel(id.id("deployment")?).await?;
    let status = if deployment.completed_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(shape(deployment, &state.public_registry))).into_response())
}

fn shape(deployment: Deployment, public: &PublicRegistry) -> DeploymentOut {
    let step = |step: DeploymentStep| StepOut {
        step: step.step,
        status: step.status,
        started_at: rfc3339(step.started_at),
        completed_at: step.completed_at.map(rfc3339),
        duration_ms: step.completed_at.map(|end| end - step.started_at),
    };
    let failure = |f: crate::deploy::Failure| FailureOut {
        error: f.message,
        code: f.code.as_str(),
        details: f.details,
        remedy: f.code.remedy(),
    };
    DeploymentOut {
        id: deployment.id.to_string(),
        agent: deployment.agent,
        kind: deployment.kind.as_str(),
        status: deployment.status.as_str(),
        step: deployment.steps.last().map(|step| step.step),
        steps: deployment.steps.into_iter().map(step).collect(),
        revision: deployment.revision,
        revision_id: deployment.revision_id,
        tools_created: deployment.tools_created,
        build_id: deployment.image.as_ref().map(|image| image.build_id.clone()),
        image_uri: deployment.image.as_ref().map(|image| public.image_uri(image)),
        warnings: deployment.warnings,
        error: deployment.error.map(failure),
        request_id: deployment.request_id,
        created_at: rfc3339(deployment.created_at),
        updated_at: rfc3339(deployment.updated_at),
        completed_at: deployment.completed_at.map(rfc3339),
        duration_ms: deployment.completed_at.map(|end| end - deployment.created_at),
    }
}
