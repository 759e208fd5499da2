//! Invokes of idle agents: they are held while the agent is started.

use super::{NEWS, not_ready, too_slow};
use crate::{routing_table::RouteLookup, state::AppState};
use hoistway_model::{Code, Error, Name, Result};
use tokio::time::{Instant, timeout, timeout_at};

/// Has an idle agent started, and waits for its route. All invokes that wait share one start, and one that is dropped
/// leaves it to the others. Why it does not start is an error.
pub(super) async fn wake(state: &AppState, agent: &Name, deadline: Instant) -> Result<()> {
    let late = || too_slow(agent, Vec::new());
    if Instant::now() >= deadline {
        return Err(late());
    }
    let mut changes = state.routes.changes();
    let woken = timeout_at(deadline, state.routes.wake(agent)).await;
    match woken.map_err(|_| late())? {
        // A deploy, a stop or a deletion came in between: its route says what is next.
        Ok(()) | Err(Error { code: Code::Aborted, .. }) => {}
        Err(e) if matches!(e.code, Code::NotFound | Code::Internal | Code::InsufficientStorage) => return Err(e),
        Err(e) => {
            let Error { message, details, .. } = &e;
            return Err(not_ready(agent, message).with_details(details.clone()).with_source(e));
        }
    }
    // The route may arrive after the answer; if it takes long, the start is asked for again.
    let arrived =
        async { while matches!(state.routes.pick(agent), RouteLookup::Idle(_)) && changes.changed().await.is_ok() {} };
    let _ = timeout(NEWS, arrived).await;
    Ok(())
}
