//! Gives the deploy's tools to agents that have required them since before they existed.

use super::Context;
use hoistway_model::{Operation, Result, tool::BoundTool};

pub async fn run(ctx: &Context<'_>) -> Result<()> {
    let Some(output) = &ctx.log.tools else { return Ok(()) };
    for (name, id) in &output.rebind {
        let tool = ctx.services.tools.get_tool(name.clone()).await?;
        let bound = BoundTool { name: name.clone(), url: Some(tool.internal_url) };
        ctx.services.agents.bind_tool(Operation::of(ctx.id, *id), bound, None).await?;
    }
    Ok(())
}
