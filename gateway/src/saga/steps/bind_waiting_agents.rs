//! Gives the deploy's tools to agents that have required them since before they existed.

use super::{Context, Step, saga_log::SagaLog};
use async_trait::async_trait;
use hoistway_model::{Operation, Result, tool::BoundTool};

pub struct BindWaitingAgents;

#[async_trait]
impl Step for BindWaitingAgents {
    fn name(&self) -> &'static str {
        "bind"
    }

    fn has_work(&self, log: &SagaLog) -> bool {
        log.changes_tools
    }

    async fn run(&self, ctx: &Context<'_>, _: &mut SagaLog) -> Result<()> {
        match bind(ctx).await {
            // The agent runs: a failure for other agents is logged, and nothing is undone for it.
            Err(e) if !e.code.is_transient() => {
                tracing::warn!(cause = e.chain(), "waiting agents could not be bound: {e}");
                Ok(())
            }
            bound => bound,
        }
    }
}

async fn bind(ctx: &Context<'_>) -> Result<()> {
    let Some(output) = &ctx.log.tools else { return Ok(()) };
    for (name, id) in &output.rebind {
        let tool = ctx.services.tools.get_tool(name.clone()).await?;
        let bound = BoundTool { name: name.clone(), url: Some(tool.internal_url) };
        ctx.services.agents.bind_tool(Operation::of(ctx.id, *id), bound, None).await?;
    }
    Ok(())
}
