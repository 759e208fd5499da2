//! `POST /api/deploy`: reads the request, hands it to the saga and waits as long as the caller wants to.

use super::{
    body::WholeBody,
    deploy_request::DeployRequest,
    error::{ApiError, ApiResult},
    json::short,
    query::Query,
};
use crate::{
    deploy::{Accepted, Progress},
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_model::{Code, DeploymentId, Error, NAMESPACE, Name, Result};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use std::{str::FromStr, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Bodies above this size are parsed off the runtime's threads.
const LARGE: usize = 256 << 10;

/// What the answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wait {
    /// The new revision answers, or it is known why not.
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
            _ => Err(format!("\"{}\" is not one of ready, built, none", short(text))),
        }
    }
}

/// 201, in the reference's own words.
#[derive(Serialize)]
struct Created {
    agent: Name,
    namespace: &'static str,
    tools_created: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_uri: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// 202: it will be done, and here is where to look.
#[derive(Serialize)]
struct Underway {
    agent: Name,
    namespace: &'static str,
    deployment: DeploymentId,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// `POST /deploy?wait=ready|built|none&timeout=SECONDS&strict=true&refresh=true`.
pub async fn deploy(State(state): State<Arc<AppState>>, query: Query, body: WholeBody) -> ApiResult<Response> {
    let longest = u32::try_from(state.limits.deploy_deadline.as_secs()).unwrap_or(u32::MAX);
    let wait = query.one_of::<Wait>("wait")?.unwrap_or_default();
    let patience = query.number("timeout", 0..=longest)?.map(|s| Duration::from_secs(s.into()));
    let patience = patience.unwrap_or(state.limits.deploy_wait);
    let strict = query.flag("strict")?;
    let refresh = query.flag("refresh")?;

    let (request, mut warnings) = parse(&state, body).await?;
    let (request, ignored) = request.refreshed(refresh);
    warnings.extend(ignored);
    let (agent, wants_build) = (request.agent.clone(), request.wants_build());
    let Accepted { id, warnings: found, mut progress } = state.deployer.accept(request, strict).await?;
    warnings.extend(found);

    let seen = match follow(&mut progress, wait, patience).await {
        Ok(seen) => seen,
        Err(e) => return Err(ApiError::from(e).with_header(DEPLOYMENT, id_text(id)?)),
    };
    let accepted = |warnings| underway(agent.clone(), id, warnings);
    match &seen.done {
        _ if wait == Wait::None => accepted(warnings),
        Some(Err(error)) => Err(ApiError::after_work_started(error.clone()).with_header(DEPLOYMENT, id_text(id)?)),
        None if !seen.is_built() => accepted(warnings),
        Some(Ok(outcome)) => {
            warnings.extend(outcome.pending.as_ref().map(|reason| format!("the agent is Pending: {reason}")));
            created(&state, agent, id, seen, wants_build, warnings)
        }
        None => {
            warnings.push(match wait {
                Wait::Ready => {
                    format!("the agent is Pending: it is not up after {} s and goes on starting", patience.as_secs())
                }
                Wait::Built | Wait::None => "the agent is Pending: it is being started".to_owned(),
            });
            created(&state, agent, id, seen, wants_build, warnings)
        }
    }
}

/// The header that names the deployment in every answer to an accepted deploy.
const DEPLOYMENT: header::HeaderName = header::HeaderName::from_static("hoistway-deployment");

fn id_text(id: DeploymentId) -> Result<HeaderValue> {
    value(&id.to_string())
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| Error::internal("answering the deploy", e))
}

async fn parse(state: &Arc<AppState>, body: WholeBody) -> Result<(DeployRequest, Vec<String>)> {
    if body.bytes.len() <= LARGE {
        return DeployRequest::parse(&body.bytes, &state.public);
    }
    let state = state.clone();
    let parsed = tokio::task::spawn_blocking(move || DeployRequest::parse(&body.bytes, &state.public)).await;
    parsed.map_err(|e| Error::internal("reading the request", e))?
}

/// How far the deployment is when there is enough to answer, or when the caller's patience ends. A sender that is gone
/// means that this process is shutting down.
async fn follow(progress: &mut watch::Receiver<Progress>, wait: Wait, patience: Duration) -> Result<Progress> {
    let enough = |seen: &Progress| {
        seen.done.is_some()
            || match wait {
                Wait::Ready => false,
                // An image deploy has nothing to build: what there is to wait for is the agent.
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

fn underway(agent: Name, id: DeploymentId, warnings: Vec<String>) -> ApiResult<Response> {
    let headers = [(header::LOCATION, value(&format!("/api/deployments/{id}"))?), (DEPLOYMENT, id_text(id)?)];
    let body = Underway { agent, namespace: NAMESPACE, deployment: id, warnings };
    Ok((StatusCode::ACCEPTED, headers, Json(body)).into_response())
}

fn created(
    state: &AppState,
    agent: Name,
    id: DeploymentId,
    seen: Progress,
    wants_build: bool,
    warnings: Vec<String>,
) -> ApiResult<Response> {
    let image = seen.image.filter(|_| wants_build);
    let headers = [(header::LOCATION, value(&format!("/api/agents/{agent}"))?), (DEPLOYMENT, id_text(id)?)];
    let body = Created {
        agent,
        namespace: NAMESPACE,
        tools_created: seen.tools_created,
        image_uri: image.as_ref().map(|image| state.public.image_uri(image)),
        build_id: image.map(|image| image.build_id),
        warnings,
    };
    Ok((StatusCode::CREATED, headers, Json(body)).into_response())
}
