//! Builds the image from source and pushes it.

use super::Context;
use crate::deploy::{kind::Work, request::Source};
use hoistway_model::{
    Code, Error, Result,
    build::{BuildRequest, BuiltImage, RebuildRequest},
};

pub async fn run(ctx: &Context<'_>) -> Result<BuiltImage> {
    let nothing = || Error::new(Code::Internal, "a deployment without source has nothing to build");
    let Work::Deploy(request) = ctx.work else { return rebuild(ctx).await };
    let Source::Files(source) = &request.source else { return Err(nothing()) };
    let build = BuildRequest {
        attempt: ctx.log.ids.attempt,
        agent: request.agent.clone(),
        source: source.clone(),
        refresh: request.refresh,
        mask: ctx.work.secrets(),
    };
    let operation = ctx.operation(ctx.log.ids.build);
    ctx.services.builds.build(operation, build).await.map_err(|e| e.prefixed("build failed: "))
}

/// Builds the image of the revision that the new one is made of once more.
async fn rebuild(ctx: &Context<'_>) -> Result<BuiltImage> {
    let agent = ctx.work.agent();
    let unknown = || Error::new(Code::ImageNotFound, "build failed: the digest of the agent's image is not known");
    let digest = ctx.log.image_digest.ok_or_else(unknown)?;
    // The values of variables stay with the agent service; so that none is shown, a rebuild quotes no source.
    let request = RebuildRequest { attempt: ctx.log.ids.attempt, agent: agent.clone(), digest, mask: Vec::new() };
    let operation = ctx.operation(ctx.log.ids.build);
    ctx.services.builds.rebuild(operation, request).await.map_err(|e| e.prefixed("build failed: "))
}

pub async fn undo(ctx: &Context<'_>) -> Result<()> {
    ctx.services.builds.undo_build(ctx.log.ids.build).await
}
