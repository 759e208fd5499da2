//! Makes the started revision the agent's: the point of no return.

use super::Context;
use hoistway_model::{Result, agent::Agent};

pub async fn run(ctx: &Context<'_>) -> Result<Agent> {
    let ids = &ctx.log.ids;
    ctx.services
        .agents
        .switch_route(ctx.operation(ids.switch), ctx.request.agent.clone(), ids.revision)
        .await
        .map_err(|e| e.prefixed("failed to create agent: "))
}
