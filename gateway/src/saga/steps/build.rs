//! Builds the image from source and pushes it.

use super::Context;
use crate::api::deploy_request::Source;
use hoistway_model::{
    Code, Error, Result,
    build::{BuildRequest, BuiltImage},
};

pub async fn run(ctx: &Context<'_>) -> Result<BuiltImage> {
    let Source::Files(source) = &ctx.request.source else {
        return Err(Error::new(Code::Internal, "a deploy without source has nothing to build"));
    };
    let request = BuildRequest {
        attempt: ctx.log.ids.attempt,
        agent: ctx.request.agent.clone(),
        source: source.clone(),
        refresh: ctx.request.refresh,
        mask: ctx.request.env.iter().map(|e| e.value.clone()).collect(),
    };
    let operation = ctx.operation(ctx.log.ids.build);
    ctx.services.builds.build(operation, request).await.map_err(|e| e.prefixed("build failed: "))
}

pub async fn undo(ctx: &Context<'_>) -> Result<()> {
    ctx.services.builds.undo_build(ctx.log.ids.build).await
}
