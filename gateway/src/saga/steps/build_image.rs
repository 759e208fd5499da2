//! Builds the image from source and pushes it.

use super::{Context, Step, saga_log::SagaLog};
use crate::deploy::{
    kind::DeploymentKind,
    request::{DeployRequest, Source},
};
use async_trait::async_trait;
use hoistway_model::{
    Code, Error, Result,
    build::{BuildRequest, BuiltImage, RebuildRequest},
};

pub struct BuildImage;

#[async_trait]
impl Step for BuildImage {
    fn name(&self) -> &'static str {
        "build"
    }

    fn has_work(&self, log: &SagaLog) -> bool {
        log.changes_agent && log.builds
    }

    fn reads_source(&self) -> bool {
        true
    }

    async fn run(&self, ctx: &Context<'_>, log: &mut SagaLog) -> Result<()> {
        let built = match ctx.work {
            DeploymentKind::Deploy(request) => build(ctx, request).await,
            DeploymentKind::Rollback(_) | DeploymentKind::Config(_) | DeploymentKind::Rebuild(_) => rebuild(ctx).await,
        };
        log.image = Some(built.map_err(|e| e.prefixed("build failed: "))?);
        Ok(())
    }

    async fn undo(&self, ctx: &Context<'_>) -> Result<()> {
        ctx.services.builds.undo_build(ctx.log.ids.build).await
    }
}

async fn build(ctx: &Context<'_>, request: &DeployRequest) -> Result<BuiltImage> {
    let Source::Files(source) = &request.source else {
        return Err(Error::new(Code::Internal, "a deployment without source has nothing to build"));
    };
    let build = BuildRequest {
        attempt: ctx.log.ids.attempt,
        agent: request.agent.clone(),
        source: source.clone(),
        refresh: request.refresh,
        mask: ctx.work.secrets(),
    };
    ctx.services.builds.build(ctx.operation(ctx.log.ids.build), build).await
}

/// Builds again the image of the revision that the new one is derived from.
async fn rebuild(ctx: &Context<'_>) -> Result<BuiltImage> {
    let agent = ctx.work.agent();
    let unknown = || Error::new(Code::ImageNotFound, "the digest of the agent's image is not known");
    let digest = ctx.log.image_digest.ok_or_else(unknown)?;
    // The values of variables stay with the agent service; a rebuild quotes no source, so that none of them is shown.
    let request = RebuildRequest { attempt: ctx.log.ids.attempt, agent: agent.clone(), digest, mask: Vec::new() };
    ctx.services.builds.rebuild(ctx.operation(ctx.log.ids.build), request).await
}
