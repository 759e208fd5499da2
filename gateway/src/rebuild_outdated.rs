//! Rebuilds of agents whose images are outdated after an upgrade of the interpreter or of Hoistway or after a change to
//! containers, each from the source that its image contains, by an ordinary deployment. Agents are checked whenever the
//! connection to the agent service is new, because only a start of that service brings another interpreter, layout or
//! runtime.

use crate::{
    deploy::Deployer,
    deploy::kind::{DeploymentKind, Rebuild},
};
use hoistway_kit::backoff::Backoff;
use hoistway_model::{
    AgentService, Result,
    agent::{Agent, Phase},
    page,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The first and the longest pause before a failed check is repeated.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Runs until `shutdown`.
pub async fn run(
    agents: Arc<dyn AgentService>,
    deployer: Arc<dyn Deployer>,
    mut subscriptions: watch::Receiver<u64>,
    shutdown: CancellationToken,
) {
    let work = async {
        while subscriptions.changed().await.is_ok() {
            let mut backoff = BACKOFF;
            while let Err(e) = sweep(&*agents, &*deployer).await {
                tracing::warn!(cause = e.chain(), "agents with an outdated image will be looked for again: {e}");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Starts the rebuilds; an error is transient. A rebuild in progress is joined.
async fn sweep(agents: &dyn AgentService, deployer: &dyn Deployer) -> Result<()> {
    // A stopped agent is rebuilt when it is started.
    let outdated = |agent: &Agent| agent.needs_rebuild && agent.phase != Phase::Stopped;
    for agent in page::of_agents(agents, |agent| outdated(&agent).then_some(agent.name)).await? {
        match deployer
            .accept(DeploymentKind::Rebuild(Rebuild { agent: agent.clone(), start: false }), false, None)
            .await
        {
            Ok(accepted) => tracing::info!(
                deployment = %accepted.id,
                "agent \"{agent}\" has an image for another Python, without a base, or of an older Hoistway: it is built again from its \
                 kept source"
            ),
            Err(e) if e.code.is_transient() => return Err(e),
            Err(e) => tracing::error!(cause = e.chain(), "agent \"{agent}\" cannot be built again: {e}"),
        }
    }
    Ok(())
}
