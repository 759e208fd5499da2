//! Whether agents use a resource that is to be deleted.

use crate::state::AppState;
use hoistway_model::{Code, Error, Name, Result, agent::Agent, page};

/// The most agents that a refusal lists.
const SHOWN: usize = 10;

/// Refuses the deletion with a list of the agents that use the resource, if there are any. A concurrent deploy is not
/// noticed: it may go on with the deleted resource, as it would had it come a moment earlier.
pub async fn refuse_while_used(
    state: &AppState,
    kind: &str,
    name: &Name,
    uses: impl Fn(&Agent) -> bool + Send + Sync,
) -> Result<()> {
    let quoted = |agent: Agent| uses(&agent).then(|| format!("\"{}\"", agent.name));
    let users = page::of_agents(&*state.agents, quoted).await?;
    let agents = match users.as_slice() {
        [] => return Ok(()),
        [one] => format!("the agent {one}"),
        some if some.len() <= SHOWN => format!("the agents {}", some.join(", ")),
        many => format!("the agents {} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    };
    Err(Error::new(Code::Conflict, format!("{kind} \"{name}\" is used by {agents}")))
}
