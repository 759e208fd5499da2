//! Makes the started revision the agent's: the point of no return. Behind it, the bindings that only the earlier
//! revision had are dropped, so that whoever has our answer finds them gone.

use super::Context;
use hoistway_model::Result;

pub async fn run(ctx: &Context<'_>) -> Result<()> {
    let (ids, agent) = (&ctx.log.ids, ctx.work.agent());
    if ctx.log.changes_agent {
        let switched = ctx.services.agents.switch_route(ctx.operation(ids.switch), agent.clone(), ids.revision);
        switched.await.map_err(|e| e.prefixed(ctx.work.failed()))?;
    }
    settle(ctx).await
}

/// Drops the bindings that only the earlier revision had.
pub async fn settle(ctx: &Context<'_>) -> Result<()> {
    if ctx.log.changes_tools {
        let settled = ctx.services.tools.settle_tools(ctx.work.agent().clone(), ctx.log.ids.tools).await;
        if let Err(e) = settled {
            if e.code.is_transient() {
                return Err(e);
            }
            // The agent runs already: nothing is undone for bindings that are too many.
            tracing::warn!(cause = e.chain(), "earlier bindings could not be dropped: {e}");
        }
    }
    Ok(())
}
