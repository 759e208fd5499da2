//! Registers the deploy's tools and binds the agent to those that it requires.

use super::{Context, Step, saga_log::SagaLog};
use async_trait::async_trait;
use hoistway_model::Result;

pub struct ApplyTools;

#[async_trait]
impl Step for ApplyTools {
    fn name(&self) -> &'static str {
        "tools"
    }

    fn has_work(&self, log: &SagaLog) -> bool {
        log.changes_tools
    }

    async fn run(&self, ctx: &Context<'_>, log: &mut SagaLog) -> Result<()> {
        let operation = ctx.operation(ctx.log.ids.tools);
        let plan = ctx.tool_plan();
        let first = plan.create.first().map(|tool| tool.name.clone());
        let applied = ctx.services.tools.apply_tools(operation, plan).await.map_err(|e| {
            // The registry's error names the tool if one is at fault; otherwise the whole call failed.
            match (e.message.starts_with("failed to create tool"), first) {
                (false, Some(tool)) => e.prefixed(&format!("failed to create tool \"{tool}\": ")),
                (false, None) => e.prefixed(ctx.work.failed()),
                (true, _) => e,
            }
        })?;
        log.tools = Some(applied.into());
        Ok(())
    }

    async fn undo(&self, ctx: &Context<'_>) -> Result<()> {
        ctx.services.tools.undo_tools(ctx.log.ids.tools).await
    }
}
