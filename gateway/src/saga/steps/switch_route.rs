//! Makes the started revision the agent's: the point of no return. Behind it, the bindings that only the earlier
//! revision had are dropped, so that whoever has our answer finds them gone.

use super::{Context, Step, saga_log::SagaLog};
use async_trait::async_trait;
use hoistway_model::Result;

pub struct SwitchRoute;

#[async_trait]
impl Step for SwitchRoute {
    fn name(&self) -> &'static str {
        "switch"
    }

    /// Without a new revision there is nothing to route to, but earlier bindings are dropped all the same.
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

/// Drops the bindings that only the earlier revision had.
pub async fn drop_earlier_bindings(ctx: &Context<'_>) -> Result<()> {
    if !ctx.log.changes_tools {
        return Ok(());
    }
    match ctx.services.tools.settle_tools(ctx.work.agent().clone(), ctx.log.ids.tools).await {
        // The agent runs already: nothing is undone for bindings that are too many.
        Err(e) if !e.code.is_transient() => {
            tracing::warn!(cause = e.chain(), "earlier bindings could not be dropped: {e}");
            Ok(())
        }
        dropped => dropped,
    }
}
