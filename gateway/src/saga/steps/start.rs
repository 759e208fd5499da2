//! Starts the new revision beside the serving one.

use super::Context;
use crate::{api::deploy_request::Source, saga::plan};
use hoistway_model::{
    Code, Error, Result,
    agent::{AgentSpec, RevisionStatus},
    build::BuiltImage,
    image::{ImageRef, StoredImage},
};

pub async fn run(ctx: &Context<'_>) -> Result<RevisionStatus> {
    let operation = ctx.operation(ctx.log.ids.start);
    let spec = spec(ctx)?;
    // An image that was built stays by itself for as long as this takes; one that somebody pushed may be deleted.
    if spec.build_id.is_none()
        && let Some(image) = StoredImage::of(&spec.image, None)
    {
        let kept = ctx.services.builds.keep_images(vec![image]).await;
        kept.map_err(|e| e.prefixed("failed to create agent: "))?;
    }
    ctx.services
        .agents
        .start_revision(operation, ctx.log.ids.revision, spec)
        .await
        .map_err(|e| e.prefixed("failed to create agent: "))
}

pub async fn undo(ctx: &Context<'_>) -> Result<()> {
    let ids = &ctx.log.ids;
    ctx.services.agents.undo_start(ids.start, ctx.request.agent.clone(), ids.revision).await
}

/// The revision that the request and the earlier steps make.
fn spec(ctx: &Context<'_>) -> Result<AgentSpec> {
    let (request, log) = (ctx.request, ctx.log);
    let (image, built) = match (&request.source, &log.image) {
        (Source::Image(image), _) => (ImageRef { digest: log.image_digest.or(image.digest), ..image.clone() }, None),
        (Source::Files(_), Some(built)) => {
            let built = BuiltImage::from(built.clone());
            (ImageRef::platform(&built.repository, Some(built.tag.clone()), built.digest), Some(built))
        }
        (Source::Files(_), None) => return Err(Error::new(Code::Internal, "the build step left no image")),
    };
    let tools = log.tools.as_ref().map(|t| t.tools.clone()).unwrap_or_default();
    Ok(AgentSpec {
        agent: request.agent.clone(),
        image,
        build_id: built.as_ref().map(|b| b.build_id.clone()),
        entry_point: built.map(|b| b.entry_point),
        system_prompt: request.system_prompt.clone(),
        tools: tools.into_iter().map(Into::into).collect(),
        llm: request.llm.clone(),
        env: request.env.clone(),
        identity_provider: request.identity_provider.clone(),
        fingerprint: plan::fingerprint(ctx.key, request, log.image_digest),
    })
}
