//! Builds the image from source and pushes it.

use super::Context;
use crate::{api::deploy_request::Source, work::Work};
use hoistway_model::{
    Code, Error, Result,
    build::{BuildRequest, BuiltImage},
};

pub async fn run(ctx: &Context<'_>) -> Result<BuiltImage> {
    let nothing = || Error::new(Code::Internal, "a deployment without source has nothing to build");
    let Work::Deploy(request) = ctx.work else { return Err(nothing()) };
    let Source::Files(source) = &request.source else { return Err(nothing()) };
    let build = BuildRequest {
        attempt: ctx.log.ids.attempt,
        agent: request.agent.clone(),
        source: source.clone(),
        refresh: false,
        mask: ctx.work.secrets().cloned().collect(),
    };
    let operation = ctx.operation(ctx.log.ids.build);
    ctx.services.builds.build(operation, build).await.map_err(|e| e.prefixed("build failed: "))
}

pub async fn undo(ctx: &Context<'_>) -> Result<()> {
    ctx.services.builds.undo_build(ctx.log.ids.build).await
}
