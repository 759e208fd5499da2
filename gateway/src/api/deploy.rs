//! `POST /api/deploy`: reads the request, passes it to the saga and waits as long as the caller requested.

use super::{
    deploy_request::{
        self,
        schema::{self, DeployBody},
    },
    error::{ApiError, ApiResult, ErrorBody},
    links::ApiBase,
    query::Query,
    request_body::WholeBody,
};
use crate::{
    deploy::{
        Accepted, Progress, Room,
        kind::DeploymentKind,
        request::{DeployRequest, Source},
    },
    saga::LARGE_SOURCE,
    state::{AppState, Limits},
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_model::{Code, DeploymentId, Error, NAMESPACE, Name, Result, error::excerpt};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use std::{str::FromStr, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The event that the answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wait {
    /// The new revision answers, or has failed.
    #[default]
    Ready,
    /// The image is built.
    Built,
    /// The deploy is accepted.
    None,
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "ready" => Ok(Self::Ready),
            "built" => Ok(Self::Built),
            "none" => Ok(Self::None),
            _ => Err(format!("\"{}\" is not one of ready, built, none", excerpt(text))),
        }
    }
}

/// The options of a deploy.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the parameters are read one by one; this describes them")]
struct Parameters {
    /// The event that the answer waits for: `ready`, the agent answers; `built`, its image is built; `none`, the deploy
    /// is checked and accepted. Letter case does not matter. Default: `ready`.
    #[param(inline)]
    wait: Option<WaitFor>,
    /// The most seconds that the answer waits. The default is 25, and the most is the time limit of a deployment, 900
    /// unless the operator set another. The deploy goes on when the waiting ends.
    #[param(minimum = 0, maximum = 900)]
    timeout: Option<u32>,
    /// Refuses a deploy that requires tools which are not registered, instead of a warning.
    strict: Option<bool>,
    /// Resolves the requirements anew, so that those without a fixed version may become newer. Such a deploy makes a new
    /// revision even if nothing else has changed.
    refresh: Option<bool>,
}

/// The values of `wait`.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it describes what `Wait` reads")]
enum WaitFor {
    Ready,
    Built,
    None,
}

/// A deploy that is done, or of which only the agent's start is still under way.
#[derive(Serialize, ToSchema)]
#[schema(as = Deployed)]
struct Created {
    /// The agent that was created or updated.
    #[schema(value_type = String, examples("hello"))]
    agent: Name,
    /// Where it runs.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// The tools that this deploy registered, in the request's order; not those that existed before.
    tools_created: Vec<String>,
    /// The build, where one was asked for.
    #[schema(value_type = String, required = false, examples("build-0c67cd1d8fc8"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    /// The image that was built, at an address from which it can be pulled.
    #[schema(value_type = String, required = false, examples("127.0.0.1:29085/hello:0c67cd1d8fc8"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    image_uri: Option<String>,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A deploy that is accepted and under way.
#[derive(Serialize, ToSchema)]
#[schema(as = DeployAccepted)]
pub struct AcceptedDeploy {
    /// The agent that is being created or updated.
    #[schema(value_type = String, examples("hello"))]
    agent: Name,
    /// Where it will run.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// The deployment, for `GET /api/deployments/{id}`.
    #[schema(value_type = String, format = "uuid")]
    deployment: DeploymentId,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(deploy))
}

/// Deploy an agent
///
/// Registers tools, builds an image from source, and starts the agent, or its new revision. A deploy that fails takes
/// back what it did, and the agent's previous revision goes on serving. The same deploy again changes nothing; one that
/// is sent while the first runs joins it. A caller that hangs up cancels nothing.
#[utoipa::path(
    post,
    path = "/deploy",
    tag = "deploy",
    operation_id = "deploy",
    params(Parameters),
    request_body(
        content = DeployBody,
        description = "What to deploy",
        examples(
            ("basic" = (summary = "From source code", value = json!(schema::from_source()))),
            ("full" = (summary = "With a tool, a model, a package and a variable",
                value = json!(schema::with_everything()))),
            ("image" = (summary = "From an image, with several models", value = json!(schema::from_image()))),
        )
    ),
    responses(
        (
            status = 201,
            description = "The agent is deployed and answers; where it is still starting, `warnings` say so",
            body = Created,
            headers(
                ("Location" = String, description = "The agent: `/api/agents/{name}`, or the same under `/api/v1` if the request was"),
                ("Hoistway-Deployment" = String, description = "The deployment's id"),
            ),
            examples(
                ("basic" = (summary = "From source code", value = json!({
                    "agent": "hello",
                    "namespace": "agent-system",
                    "tools_created": [],
                    "build_id": "build-0c67cd1d8fc8",
                    "image_uri": "127.0.0.1:29085/hello:0c67cd1d8fc8"
                }))),
                ("image" = (summary = "From an image that cannot be reached yet", value = json!({
                    "agent": "librarian",
                    "namespace": "agent-system",
                    "tools_created": [],
                    "warnings": ["the agent is Pending: the registry registry.example.com cannot be reached"]
                }))),
            )
        ),
        (
            status = 202,
            description = "The deploy is accepted and goes on: `wait=none`, or the build took longer than `timeout`",
            body = AcceptedDeploy,
            headers(
                ("Location" = String, description = "The deployment: `/api/deployments/{id}`"),
                ("Hoistway-Deployment" = String, description = "The deployment's id"),
            ),
            example = json!({
                "agent": "hello",
                "namespace": "agent-system",
                "deployment": "01a2092d-b570-76eb-887a-3ce8dec8c3e1"
            })
        ),
        (
            status = 400,
            description = "The request is wrong; `error` names the field. Nothing was changed",
            body = ErrorBody,
            example = json!({
                "error": "agent_name is required",
                "code": "invalid_argument",
                "request_id": "01a2092d-b570-76eb-887a-3ce8dec8c3e1"
            })
        ),
        (status = 409, description = "A tool contradicts one that is in use, or the agent is being deleted", body = ErrorBody),
        (
            status = 500,
            description = "The deploy failed and was taken back. `error` begins with `build failed: `, `failed to create \
                tool \"NAME\": ` or `failed to create agent: `, `code` is the cause and `details` prove it",
            body = ErrorBody,
            headers(("Hoistway-Deployment" = String, description = "The deployment's id")),
            example = json!({
                "error": "build failed: syntax error in agent.py, line 1: '(' was never closed",
                "code": "syntax_error",
                "request_id": "01a2092d-b570-76eb-887a-3ce8dec8c3e1",
                "details": ["  File \"agent.py\", line 1", "    def handler(", "               ^",
                    "SyntaxError: '(' was never closed"]
            })
        ),
        (status = 507, description = "The disk is too full to build", body = ErrorBody),
    )
)]
pub async fn deploy(
    State(state): State<Arc<AppState>>,
    base: ApiBase,
    query: Query,
    body: WholeBody,
) -> ApiResult<Response> {
    let asked = WaitOptions::of(&state, base, &query)?;
    let strict = query.flag("strict")?;
    let refresh = query.flag("refresh")?;
    let large_deploy = if body.bytes.len() > LARGE_SOURCE { Some(state.large_deploys.acquire().await?) } else { None };
    let (body, (request, mut warnings)) = parse(&state, body).await?;
    let room = Room { body: body.into_room(), large_deploy };
    within_source_limits(&request, &state.limits)?;
    let (request, ignored) = request.refreshed(refresh);
    warnings.extend(ignored);
    warnings.extend(query.unknown(&["wait", "timeout", "strict", "refresh"]));
    let (agent, wants_build) = (request.agent.clone(), request.wants_build());
    match carry_out_strictly(&state, request.into(), asked, warnings, (strict, Some(room))).await? {
        Ok(done) => created(&state, agent, done, wants_build),
        Err(underway) => Ok(underway),
    }
}

/// The event that the caller of a deployment waits for, its patience, and the prefix of addresses in the answer.
#[derive(Debug, Clone, Copy)]
pub struct WaitOptions {
    wait: Wait,
    patience: Duration,
    base: ApiBase,
}

impl WaitOptions {
    /// Returns a wait of at most `patience` for a ready agent.
    pub fn up_to(patience: Duration, base: ApiBase) -> Self {
        Self { wait: Wait::default(), patience, base }
    }

    /// Reads `?wait=` and `?timeout=`.
    pub fn of(state: &AppState, base: ApiBase, query: &Query) -> Result<Self> {
        let longest = u32::try_from(state.limits.deploy_deadline.as_secs()).unwrap_or(u32::MAX);
        let wait = query.one_of::<Wait>("wait")?.unwrap_or_default();
        let patience = query.number("timeout", 0..=longest)?.map(|s| Duration::from_secs(s.into()));
        Ok(Self { wait, patience: patience.unwrap_or(state.limits.deploy_wait), base })
    }
}

/// A deployment that is far enough to answer.
#[derive(Debug)]
pub struct Done {
    /// The progress of the deployment.
    pub seen: Progress,
    /// All warnings.
    pub warnings: Vec<String>,
    /// The headers of the answer.
    pub headers: [(header::HeaderName, HeaderValue); 2],
}

/// Has `work` carried out and waits for it as requested. Returns the answer with the deployment's id if it is not done
/// in time.
pub async fn carry_out(
    state: &AppState,
    work: DeploymentKind,
    asked: WaitOptions,
    warnings: Vec<String>,
) -> ApiResult<Result<Done, Response>> {
    carry_out_strictly(state, work, asked, warnings, (false, None)).await
}

async fn carry_out_strictly(
    state: &AppState,
    work: DeploymentKind,
    WaitOptions { wait, patience, base }: WaitOptions,
    mut warnings: Vec<String>,
    (strict, room): (bool, Option<Room>),
) -> ApiResult<Result<Done, Response>> {
    let (agent, is_deploy) = (work.agent().clone(), matches!(work, DeploymentKind::Deploy(_)));
    let Accepted { id, warnings: found, mut progress } = state.deployer.accept(work, strict, room).await?;
    warnings.extend(found);

    let seen = match follow(&mut progress, wait, patience).await {
        Ok(seen) => seen,
        Err(e) => return Err(ApiError::from(e).with_header(DEPLOYMENT, id_text(id)?)),
    };
    match &seen.done {
        _ if wait == Wait::None => return underway(base, agent, id, warnings).map(Err),
        Some(Err(error)) => {
            return Err(ApiError::after_work_started(error.clone()).with_header(DEPLOYMENT, id_text(id)?));
        }
        // Only a deploy has results to report before its revision is up.
        None if !is_deploy || !seen.is_built() => return underway(base, agent, id, warnings).map(Err),
        Some(Ok(outcome)) => {
            warnings.extend(outcome.pending.as_ref().map(|reason| format!("the agent is Pending: {reason}")));
        }
        None => warnings.push(match wait {
            Wait::Ready => {
                format!("the agent is Pending: it is not up after {} s and goes on starting", patience.as_secs())
            }
            Wait::Built | Wait::None => "the agent is Pending: it is being started".to_owned(),
        }),
    }
    let headers = [(header::LOCATION, base.address(format_args!("/agents/{agent}"))?), (DEPLOYMENT, id_text(id)?)];
    Ok(Ok(Done { seen, warnings, headers }))
}

/// The header with the deployment's id in every answer to an accepted deploy.
pub const DEPLOYMENT: header::HeaderName = header::HeaderName::from_static("hoistway-deployment");

fn id_text(id: DeploymentId) -> Result<HeaderValue> {
    HeaderValue::try_from(id.to_string()).map_err(|e| Error::internal("answering the deploy", e))
}

async fn parse(state: &Arc<AppState>, body: WholeBody) -> Result<(WholeBody, (DeployRequest, Vec<String>))> {
    let state = state.clone();
    body.read(move |bytes| deploy_request::parse(bytes, &state.public_registry)).await
}

/// Checks the operator's limits, which are at most the platform's.
fn within_source_limits(request: &DeployRequest, limits: &Limits) -> Result<()> {
    let Source::Files(source) = &request.source else { return Ok(()) };
    let bytes = source.files.bytes();
    let too_many = |count, what: &str, limit, setting: &str| {
        Error::field("source_files", format!("{count} {what} are too many, {limit} is the limit (setting {setting})"))
    };
    if source.files.len() > limits.max_source_files {
        return Err(too_many(source.files.len(), "files", limits.max_source_files, "max_source_files"));
    }
    if bytes > limits.max_source_bytes {
        return Err(too_many(bytes, "bytes", limits.max_source_bytes, "max_source_bytes"));
    }
    Ok(())
}

/// Returns the deployment's progress once it is enough to answer, or when the caller's wait ends. A closed channel
/// means that this process is shutting down.
async fn follow(progress: &mut watch::Receiver<Progress>, wait: Wait, patience: Duration) -> Result<Progress> {
    let enough = |seen: &Progress| {
        seen.done.is_some()
            || match wait {
                Wait::Ready => false,
                // A deploy of an image has no build: its answer waits for the agent.
                Wait::Built => seen.wants_build && seen.is_built(),
                Wait::None => true,
            }
    };
    if let Ok(Err(_)) = timeout(patience, progress.wait_for(enough)).await {
        let text = "the gateway is shutting down; the deployment goes on with its next start";
        return Err(Error::new(Code::Unavailable, text));
    }
    Ok(progress.borrow().clone())
}

fn underway(base: ApiBase, agent: Name, id: DeploymentId, warnings: Vec<String>) -> ApiResult<Response> {
    let headers = [(header::LOCATION, base.address(format_args!("/deployments/{id}"))?), (DEPLOYMENT, id_text(id)?)];
    let body = AcceptedDeploy { agent, namespace: NAMESPACE, deployment: id, warnings };
    Ok((StatusCode::ACCEPTED, headers, Json(body)).into_response())
}

fn created(state: &AppState, agent: Name, done: Done, wants_build: bool) -> ApiResult<Response> {
    let Done { seen, warnings, headers } = done;
    let image = seen.image.filter(|_| wants_build);
    let body = Created {
        agent,
        namespace: NAMESPACE,
        tools_created: seen.tools_created,
        image_uri: image.as_ref().map(|image| state.public_registry.image_uri(image)),
        build_id: image.map(|image| image.build_id),
        warnings,
    };
    Ok((StatusCode::CREATED, headers, Json(body)).into_response())
}
