//! Starts the new revision beside the serving one.

use super::{Context, Step, plan, saga_log::SagaLog};
use crate::deploy::{
    kind::DeploymentKind,
    request::{DeployRequest, Source},
};
use async_trait::async_trait;
use hoistway_model::{
    Code, Error, Result,
    agent::{AgentSpec, Phase, RevisionStatus},
    build::BuiltImage,
    image::{ImageRef, StoredImage},
    revision::{Derivation, NewImage, SpecChanges},
};

pub struct StartRevision;

#[async_trait]
impl Step for StartRevision {
    fn name(&self) -> &'static str {
        "start"
    }

    fn has_work(&self, log: &SagaLog) -> bool {
        log.changes_agent
    }

    fn yields_to_stop(&self) -> bool {
        true
    }

    async fn run(&self, ctx: &Context<'_>, log: &mut SagaLog) -> Result<()> {
        let status = start(ctx).await.map_err(|e| e.prefixed(ctx.work.failed()))?;
        log.made = Some((status.revision, status.number));
        log.pending = (status.phase != Phase::Running).then_some(status.message);
        Ok(())
    }

    async fn undo(&self, ctx: &Context<'_>) -> Result<()> {
        let ids = &ctx.log.ids;
        ctx.services.agents.undo_start(ids.start, ctx.work.agent().clone(), ids.revision).await
    }
}

async fn start(ctx: &Context<'_>) -> Result<RevisionStatus> {
    let (operation, revision) = (ctx.operation(ctx.log.ids.start), ctx.log.ids.revision);
    let agents = &ctx.services.agents;
    match ctx.work {
        DeploymentKind::Deploy(request) => {
            let spec = spec(ctx, request)?;
            keep(ctx, &spec).await?;
            agents.start_revision(operation, revision, spec).await
        }
        // An image that a stored revision uses, or that was just built, is not deleted.
        DeploymentKind::Rollback(_) | DeploymentKind::Config(_) | DeploymentKind::Rebuild(_) => {
            agents.derive_revision(operation, revision, derivation(ctx)?).await
        }
    }
}

/// Keeps the image from deletion. A built image is safe for as long as this takes; a pushed one may be deleted.
async fn keep(ctx: &Context<'_>, spec: &AgentSpec) -> Result<()> {
    match StoredImage::of(&spec.image, None) {
        Some(image) if spec.build_id.is_none() => ctx.services.builds.keep_images(vec![image]).await,
        _ => Ok(()),
    }
}

/// Returns the changes of the new revision to the one that it is derived from. The agent service has the rest.
fn derivation(ctx: &Context<'_>) -> Result<Derivation> {
    let log = ctx.log;
    let (from, _) = log.from.ok_or_else(|| Error::new(Code::Internal, "the plan names no revision to begin with"))?;
    let tools = log.tools.as_ref().map(|found| found.tools.clone());
    let changes = match ctx.work {
        DeploymentKind::Config(change) => SpecChanges {
            config: change.config.clone(),
            // No deploy has made this revision, so its fingerprint equals that of none.
            fingerprint: Some(ctx.key.fingerprint("revision", log.ids.revision.to_string().as_bytes())),
            ..SpecChanges::default()
        },
        // A deploy that made the earlier revision is still unchanged.
        _ => SpecChanges::default(),
    };
    let image = if log.builds { Some(new_image(log.image.clone().ok_or_else(no_image)?)) } else { None };
    let changes = SpecChanges { image, tools, ..changes };
    Ok(Derivation { agent: ctx.work.agent().clone(), from, reason: ctx.work.reason(), changes })
}

fn new_image(built: BuiltImage) -> NewImage {
    let image = ImageRef::platform(&built.repository, Some(built.tag), built.digest);
    NewImage { image, build_id: Some(built.build_id), entry_point: Some(built.entry_point) }
}

fn no_image() -> Error {
    Error::new(Code::Internal, "the build step left no image")
}

/// Returns the revision that results from the request and the earlier steps.
fn spec(ctx: &Context<'_>, request: &DeployRequest) -> Result<AgentSpec> {
    let log = ctx.log;
    let (image, built) = match (&request.source, &log.image) {
        (Source::Image(image), _) => (ImageRef { digest: log.image_digest.or(image.digest), ..image.clone() }, None),
        (Source::Files(_), Some(built)) => {
            (ImageRef::platform(&built.repository, Some(built.tag.clone()), built.digest), Some(built.clone()))
        }
        (Source::Files(_), None) => return Err(no_image()),
    };
    let tools = log.tools.as_ref().map(|t| t.tools.clone()).unwrap_or_default();
    Ok(AgentSpec {
        agent: request.agent.clone(),
        image,
        build_id: built.as_ref().map(|b| b.build_id.clone()),
        entry_point: built.map(|b| b.entry_point),
        tools,
        config: request.config.clone(),
        // Logs of earlier versions have no fingerprint.
        fingerprint: log.fingerprint.unwrap_or_else(|| plan::fingerprint(ctx.key, request, log.image_digest)),
    })
}
