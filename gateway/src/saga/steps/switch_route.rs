//! Makes the started revision the agent's: the point of no return. Afterwards the bindings that only the earlier
//! revision had are removed, before the caller receives the answer.

use super::{Context, Step, saga_log::SagaLog};
use async_trait::async_trait;
use hoistway_model::Result;

pub struct SwitchRoute;

#[async_trait]
impl Step for SwitchRoute {
    fn name(&self) -> &'static str {
        "switch"
    }

    /// Without a new revision the route stays, but earlier bindings are still removed.
    fn has_work(&self, log: &SagaLog) -> bool {
        log.changes_agent || log.changes_tools
    }

    fn commits(&self) -> bool {
        true
    }

    async fn run(&self, ctx: &Context<'_>, _: &mut SagaLog) -> Result<()> {
        let (ids, agent) = (&ctx.log.ids, ctx.work.agent());
        if ctx.log.changes_agent {
            let switched = ctx.services.agents.switch_route(ctx.operation(ids.switch), agent.clone(), ids.revision);
            switched.await.map_err(|e| e.prefixed(ctx.work.failed()))?;
        }
        drop_earlier_bindings(ctx).await
    }
}

/// Removes the bindings that only the earlier revision had.
pub async fn drop_earlier_bindings(ctx: &Context<'_>) -> Result<()> {
    if !ctx.log.changes_tools {
        return Ok(());
    }
    match ctx.services.tools.settle_tools(ctx.work.agent().clone(), ctx.log.ids.tools).await {
        // The agent runs already: nothing is undone for superfluous bindings.
        Err(e) if !e.code.is_transient() => {
            tracing::warn!(cause = e.chain(), "earlier bindings could not be dropped: {e}");
            Ok(())
        }
        dropped => dropped,
    }
}
