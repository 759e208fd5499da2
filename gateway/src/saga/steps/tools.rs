//! Registers the deploy's tools and binds the agent to those that it requires.

use super::Context;
use crate::saga::log::ToolsOutput;
use hoistway_model::Result;

pub async fn run(ctx: &Context<'_>) -> Result<ToolsOutput> {
    let operation = ctx.operation(ctx.log.ids.tools);
    let plan = ctx.tool_plan();
    let first = plan.create.first().map(|tool| tool.name.clone());
    let applied = ctx.services.tools.apply_tools(operation, plan).await.map_err(|e| {
        // The registry names the tool where one is to blame; otherwise it is the call as a whole that failed.
        match (e.message.starts_with("failed to create tool"), first) {
            (false, Some(tool)) => e.prefixed(&format!("failed to create tool \"{tool}\": ")),
            (false, None) => e.prefixed(ctx.work.failed()),
            (true, _) => e,
        }
    })?;
    Ok(applied.into())
}

pub async fn undo(ctx: &Context<'_>) -> Result<()> {
    ctx.services.tools.undo_tools(ctx.log.ids.tools).await
}
