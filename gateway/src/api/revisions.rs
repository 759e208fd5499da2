//! `/api/agents/{name}/revisions` and `POST /api/agents/{name}/rollback`.

use super::{
    config_fields::{SpecConfig, ToolOut},
    deploy::{self, AcceptedDeploy, WaitOptions},
    error::{ApiResult, ErrorBody},
    json::Object,
    links::ApiBase,
    pagination::RecordPage,
    query::{Query, Segments},
    request_body::WholeBody,
};
use crate::{
    deploy::kind::{DeploymentKind, Rollback},
    image_host::PublicRegistry,
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    DeploymentId, Error, NAMESPACE, Name, Result, RevisionId,
    error::excerpt,
    page::Page,
    revision::{Diff, Revision, RevisionRef},
};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(diff)).routes(routes!(rollback))
}

/// One immutable revision of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revision)]
pub struct RevisionBody {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: RevisionId,
    /// 1, 2, 3… for each agent; never used twice, and missing where a deploy failed.
    number: u64,
    /// The agent that it is of.
    #[schema(value_type = String, examples("hello"))]
    agent: Name,
    /// `starting`, `serving`, `stopped`, `superseded` or `failed`.
    state: &'static str,
    /// Why it failed or waits; else empty.
    message: String,
    /// Whether it is the one that is wanted now.
    current: bool,
    /// `deploy`, `config`, `rollback` or `rebuild`.
    reason: &'static str,
    /// The deployment that made it; null for those of an older version.
    #[schema(value_type = Option<String>)]
    deployment: Option<DeploymentId>,
    /// The number of the revision that it was made of.
    of: Option<u64>,
    /// Its image, at an address from which it can be pulled.
    image: String,
    /// The digest of the image's manifest, once known.
    image_digest: Option<String>,
    /// The build that made the image; null for an image that was deployed as such.
    build_id: Option<String>,
    /// When it was made.
    #[schema(format = "date-time")]
    created_at: String,
    /// When it last began to serve; null if it never did.
    #[schema(value_type = Option<String>, format = "date-time")]
    served_at: Option<String>,
}

/// A revision with everything that it is made of.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevisionWithSpec {
    #[serde(flatten)]
    revision: RevisionBody,
    /// Its specification.
    spec: SpecBody,
}

/// The specification of a revision.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RevisionSpec)]
pub struct SpecBody {
    /// The tools that it uses.
    required_tools: Vec<ToolOut>,
    /// The file that is run; null when the image says.
    entry_point: Option<String>,
    #[serde(flatten)]
    config: SpecConfig,
}

/// The differences between two revisions, field by field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RevisionDiff)]
pub struct DiffBody {
    /// The agent.
    #[schema(value_type = String)]
    agent: Name,
    /// The earlier side; null when there is nothing to compare with.
    from: Option<Side>,
    /// The later side.
    to: Side,
    /// Every difference, by field.
    changes: Vec<ChangeBody>,
}

/// One side of a comparison.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RevisionSide)]
pub struct Side {
    /// The revision's id.
    #[schema(value_type = String, format = "uuid")]
    id: RevisionId,
    /// Its number.
    number: u64,
}

/// One difference.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RevisionChange)]
pub struct ChangeBody {
    /// Its path, such as `image`, `env[NAME]`, `required_tools[NAME]` or `llm_configs[chat].model`.
    field: String,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    /// Null when it was not there; values of variables are masked, but for those with `"secret": false`.
    from: Option<String>,
    /// Null when it is not there any more.
    to: Option<String>,
}

/// Which revision to go back to.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the strict reader reads it; this describes it")]
#[schema(as = RollbackRequest)]
pub struct RollbackBody {
    /// A number, or an id or number as text; without it, the revision that served before the current one.
    #[schema(value_type = Option<Value>)]
    revision: Option<Value>,
}

/// A rollback that is done, or that had nothing to do.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolledBack {
    /// The agent.
    #[schema(value_type = String, examples("hello"))]
    agent: Name,
    /// Where it runs.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// Always empty: a rollback registers no tools.
    tools_created: Vec<String>,
    /// The build that made the image, where there was one.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    /// The image that was built then, at an address from which it can be pulled.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    image_uri: Option<String>,
    /// The number of the agent's revision now.
    revision: u64,
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    revision_id: RevisionId,
    /// The number of the revision that it was made of; absent when nothing had to be done.
    #[schema(value_type = u64, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back_to: Option<u64>,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// List an agent's revisions
///
/// Those that are kept, newest first: the serving one, what is on its way, and by default ten superseded ones.
#[utoipa::path(get, path = "/agents/{name}/revisions", tag = "revisions", params(
    ("name" = String, Path, description = "The agent's name"),
    ("limit" = Option<u32>, Query, description = "The most entries of the answer; default 100"),
    ("before" = Option<String>, Query, description = "Only revisions older than this number or id"),
), responses((status = 200, body = [RevisionBody], description = "The revisions")))]
pub async fn list(
    State(state): State<Arc<AppState>>,
    base: ApiBase,
    path: Segments<1>,
    query: Query,
) -> ApiResult<Response> {
    let name = path.name(0, "agent")?;
    let page = RecordPage::parse(&query)?;
    let before = query.text("before").map(|text| reference("before", text)).transpose()?;
    let found = state.agents.list_revisions(name.clone(), before, page.look_up()).await?;
    let Page { items, more } = page.of(found);
    let next = items.last().filter(|_| more).map(|last| last.number);
    let body: Vec<_> = items.iter().map(|revision| shape(&name, revision, &state.public_registry)).collect();
    let mut response = Json(body).into_response();
    if let Some(next) = next {
        let link = base.next_page(format_args!("/agents/{name}/revisions?limit={}&before={next}", page.limit()))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// Get a revision
///
/// With everything that it is made of; the values of variables are masked, but for those with `"secret": false`.
#[utoipa::path(get, path = "/agents/{name}/revisions/{id}", operation_id = "get_revision", tag = "revisions", params(
    ("name" = String, Path, description = "The agent's name"),
    ("id" = String, Path, description = "Its number, its id, `current` or `previous`", example = "2"),
), responses((status = 200, body = RevisionWithSpec, description = "The revision")))]
pub async fn get(State(state): State<Arc<AppState>>, path: Segments<2>) -> ApiResult<Json<RevisionWithSpec>> {
    let name = path.name(0, "agent")?;
    let revision = state.agents.get_revision(name.clone(), in_path(&path)?).await?;
    let body = shape(&name, &revision, &state.public_registry);
    Ok(Json(RevisionWithSpec { revision: body, spec: spec(revision) }))
}

/// Compare two revisions
///
/// The differences between a revision and another one, by default the one before it, field by field.
#[utoipa::path(get, path = "/agents/{name}/revisions/{id}/diff", operation_id = "diff_revisions", tag = "revisions", params(
    ("name" = String, Path, description = "The agent's name"),
    ("id" = String, Path, description = "Its number, its id, `current` or `previous`", example = "2"),
    ("against" = Option<String>, Query, description = "The other revision; default the one before"),
), responses((status = 200, body = DiffBody, description = "The differences")))]
pub async fn diff(State(state): State<Arc<AppState>>, path: Segments<2>, query: Query) -> ApiResult<Json<DiffBody>> {
    let name = path.name(0, "agent")?;
    let against = query.text("against").map(|text| reference("against", text)).transpose()?;
    let Diff { from, to, changes } = state.agents.diff_revisions(name.clone(), against, in_path(&path)?).await?;
    let side = |(id, number)| Side { id, number };
    let changes = changes.into_iter().map(|c| ChangeBody {
        change: match (&c.from, &c.to) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        },
        field: c.field,
        from: c.from,
        to: c.to,
    });
    Ok(Json(DiffBody { agent: name, from: from.map(side), to: side(to), changes: changes.collect() }))
}

/// Go back to an earlier revision
///
/// Without a build, unless the image is for another Python than there is now or of an older Hoistway: a new revision with that one's image, configuration and environment, and its tools as they are now,
/// is swapped in without losing a request. If it does not start, the present one goes on serving. A rollback to what
/// runs already changes nothing. A stopped agent is started.
#[utoipa::path(post, path = "/agents/{name}/rollback", operation_id = "rollback_agent", tag = "revisions", params(
    ("name" = String, Path, description = "The agent's name"),
    ("wait" = Option<String>, Query, description = "`ready` (default) or `none`"),
    ("timeout" = Option<u32>, Query, description = "Seconds that the answer waits at most"),
), request_body(content = Option<RollbackBody>, example = json!({"revision": 2})), responses(
    (status = 201, body = RolledBack, description = "The agent runs the new revision, or waits for its image", example = json!({
        "agent": "hello", "namespace": "agent-system", "tools_created": [], "build_id": "build-0c67cd1d8fc8",
        "image_uri": "127.0.0.1:29085/hello:0c67cd1d8fc8", "revision": 4,
        "revision_id": "01a2092d-b570-76eb-887a-3ce8dec8c3e1", "rolled_back_to": 2
    })),
    (status = 200, body = RolledBack, description = "The agent runs that revision already"),
    (status = 202, body = AcceptedDeploy, description = "It goes on; `Location` says where to look"),
    (status = 404, body = ErrorBody, description = "There is no such agent, or the revision is not kept; `error` says which are"),
    (status = 409, body = ErrorBody, description = "The revision needs an identity provider that is gone"),
    (status = 500, body = ErrorBody, description = "It did not start, and the present revision goes on serving"),
))]
pub async fn rollback(
    State(state): State<Arc<AppState>>,
    base: ApiBase,
    path: Segments<1>,
    query: Query,
    body: WholeBody,
) -> ApiResult<Response> {
    let agent = path.name(0, "agent")?;
    let asked = WaitOptions::of(&state, base, &query)?;
    let to = target(&body.bytes)?;
    let work = DeploymentKind::Rollback(Rollback { agent: agent.clone(), to });
    let done = match deploy::carry_out(&state, work, asked, Vec::new()).await? {
        Ok(done) => done,
        Err(underway) => return Ok(underway),
    };
    let (seen, mut warnings) = (done.seen, done.warnings);
    let made = seen.made.ok_or_else(|| Error::internal("rolling back", "the deployment made no revision"))?;
    if !made.new {
        warnings.push(format!("nothing was done: the agent runs that revision already, as revision {}", made.number));
    }
    let body = RolledBack {
        agent,
        namespace: NAMESPACE,
        tools_created: seen.tools_created,
        image_uri: seen.image.as_ref().map(|image| state.public_registry.image_uri(image)),
        build_id: seen.image.map(|image| image.build_id),
        revision: made.number,
        revision_id: made.id,
        rolled_back_to: made.of,
        warnings,
    };
    let status = if made.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, done.headers, Json(body)).into_response())
}

/// Returns the revision in a rollback's body; the body may be absent. An unknown member is refused: after a typing
/// error the wrong revision would be served.
fn target(body: &[u8]) -> Result<RevisionRef> {
    if body.trim_ascii().is_empty() {
        return Ok(RevisionRef::Previous);
    }
    let mut root = Object::parse(body)?;
    let given = root.take("revision");
    root.refuse_unknown()?;
    match given {
        None => Ok(RevisionRef::Previous),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(RevisionRef::Previous),
        Some(Value::String(text)) => reference("revision", text.trim()),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(number) => Ok(RevisionRef::Number(number)),
            None => Err(Error::field("revision", format!("{number} is not the number of a revision"))),
        },
        Some(_) => Err(Error::field("revision", "must be a number or an id")),
    }
}

fn reference(field: &str, text: &str) -> Result<RevisionRef> {
    text.parse().map_err(|e: Error| Error::field(field, format!("\"{}\": {}", excerpt(text), e.message)))
}

/// Returns the revision in the path. An invalid reference is not found.
fn in_path(path: &Segments<2>) -> Result<RevisionRef> {
    path.text(1).parse().map_err(|_: Error| Error::not_found("revision", excerpt(path.text(1))))
}

fn shape(agent: &Name, revision: &Revision, public: &PublicRegistry) -> RevisionBody {
    RevisionBody {
        id: revision.id,
        number: revision.number,
        agent: agent.clone(),
        state: revision.state.as_str(),
        message: revision.message.clone(),
        current: revision.current,
        reason: revision.reason.as_str(),
        deployment: revision.deployment,
        of: revision.of,
        image: public.show_image(&revision.spec.image),
        image_digest: revision.image_digest.map(|digest| digest.to_string()),
        build_id: revision.spec.build_id.clone(),
        created_at: rfc3339(revision.created_at),
        served_at: revision.served_at.map(rfc3339),
    }
}

fn spec(revision: Revision) -> SpecBody {
    let spec = revision.spec;
    // The agent service has already masked the values.
    let env: Vec<_> = spec.config.env.iter().map(|v| (v.name.clone(), v.value.expose().to_owned())).collect();
    SpecBody {
        required_tools: spec.tools.into_iter().map(Into::into).collect(),
        entry_point: spec.entry_point,
        config: SpecConfig::of(spec.config, env),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rollbacks_body_names_a_revision_or_none() {
        let read = |body: &str| target(body.as_bytes()).map_err(|e| e.message);
        let id = RevisionId::mint();
        for (body, want) in [
            ("", RevisionRef::Previous),
            ("{}", RevisionRef::Previous),
            ("{\"revision\": null}", RevisionRef::Previous),
            ("{\"revision\": \"\"}", RevisionRef::Previous),
            ("{\"revision\": 3}", RevisionRef::Number(3)),
            ("{\"revision\": \"3\"}", RevisionRef::Number(3)),
            (&format!("{{\"revision\": \"{id}\"}}"), RevisionRef::Id(id)),
        ] {
            assert_eq!(read(body), Ok(want), "{body}");
        }
        for (body, want) in [
            ("{\"revison\": 3}", "revison: unknown field; did you mean \"revision\"?"),
            ("{\"rev\": 3, \"revision\": null}", "rev: unknown field"),
            ("{\"revision\": -1}", "revision: -1 is not the number of a revision"),
            ("{\"revision\": 1.5}", "revision: 1.5 is not the number of a revision"),
            ("{\"revision\": []}", "revision: must be a number or an id"),
            (
                "{\"revision\": \"newest\"}",
                "revision: \"newest\": a revision is named by its number, its id, \"current\" or \"previous\"",
            ),
        ] {
            assert_eq!(read(body), Err(want.to_owned()), "{body}");
        }
    }
}
