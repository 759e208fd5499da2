//! `/api/builds`.

use super::{
    error::ApiResult,
    pagination::{OriginalUri, RecordPage},
    query::{Query, Segment},
};
use crate::{image_host::PublicRegistry, state::AppState};
use axum::{Extension, Json, extract::State, response::Response};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Name,
    build::{Build, BuildQuery, BuildStep},
};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// A build.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Build)]
pub struct BuildOut {
    /// `build-<hex>`: of the image once there is one, of the attempt before and when it failed.
    id: String,
    /// The attempt; its id stays the same when the build succeeds.
    attempt: String,
    /// The agent.
    #[schema(value_type = String)]
    agent: Name,
    /// PENDING, BUILDING, SUCCEEDED or FAILED.
    status: &'static str,
    /// The image, once there is one.
    image: Option<String>,
    /// Why it failed.
    error: Option<String>,
    /// The HTTP request that caused it.
    request_id: Option<String>,
    /// When it was accepted.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// From the one to the other, in milliseconds.
    duration_ms: Option<i64>,
    /// Its parts in their order.
    steps: Vec<StepOut>,
}

/// A part of a build.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BuildStep)]
pub struct StepOut {
    /// `queue`, `requirements`, `dependencies`, `image` or `publish`.
    step: String,
    /// When it began.
    #[schema(format = DateTime)]
    started_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// From the one to the other, in milliseconds.
    duration_ms: Option<i64>,
}

/// List builds
///
/// Builds, newest first, page by page.
#[utoipa::path(
    get, path = "/builds", tag = "builds",
    params(
        ("agent" = Option<String>, Query, description = "Only builds of this agent"),
        ("limit" = Option<u32>, Query, description = "The length of a page, 100 unless given"),
        ("before" = Option<String>, Query, description = "Only builds older than this one; the Link header of the page before has it"),
    ),
    responses(
        (status = 200, description = "A page of builds; the header Link names the next one, if there is one", body = [BuildOut]),
    )
)]
pub async fn list(
    State(state): State<Arc<AppState>>,
    Extension(uri): Extension<OriginalUri>,
    query: Query,
) -> ApiResult<Response> {
    let page = RecordPage::parse(&query)?;
    let before = query.text("before").map(str::to_owned);
    let wanted = BuildQuery { agent: query.name("agent")?, before, limit: page.look_up() };
    let builds = state.builds.list_builds(wanted).await?;
    // One image may have several builds: attempts are ordered, images are not.
    let shown: Vec<BuildOut> = builds.into_iter().map(|build| shape(build, &state.public_registry)).collect();
    Ok(page.answer(&uri, shown, |build| &build.attempt))
}

/// Get a build
///
/// One build with its steps and how long each took.
#[utoipa::path(
    get, path = "/builds/{id}", tag = "builds",
    params(("id" = String, Path, description = "The build's id, or its attempt's")),
    responses(
        (status = 200, description = "The build", body = BuildOut),
    )
)]
pub async fn get(State(state): State<Arc<AppState>>, id: Segment) -> ApiResult<Json<BuildOut>> {
    let build = state.builds.get_build(id.into_text()).await?;
    Ok(Json(shape(build, &state.public_registry)))
}

fn shape(build: Build, public: &PublicRegistry) -> BuildOut {
    let step = |step: BuildStep| StepOut {
        step: step.step,
        started_at: rfc3339(step.started_at),
        completed_at: step.completed_at.map(rfc3339),
        duration_ms: step.completed_at.map(|end| end - step.started_at),
    };
    BuildOut {
        id: build.id,
        attempt: build.attempt.to_string(),
        agent: build.agent,
        status: build.status.as_str(),
        image: build.image.as_ref().map(|image| public.image_uri(image)),
        error: build.error,
        request_id: build.request_id,
        created_at: rfc3339(build.created_at),
        completed_at: build.completed_at.map(rfc3339),
        duration_ms: build.completed_at.map(|end| end - build.created_at),
        steps: build.steps.into_iter().map(step).collect(),
    }
}
