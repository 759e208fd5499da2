//! Starts of idle agents: all invokes that wait for one share one call, so that they take one stream of the connection to
//! the agent service.

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use hoistway_model::{AgentService, Error, Name, Result};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

type Outcome = Result<(), Arc<Error>>;
type Wake = BoxFuture<'static, Outcome>;

/// The starts under way.
#[derive(Default)]
pub struct Wakes(Mutex<HashMap<Name, WeakShared<Wake>>>);

impl Wakes {
    /// Waits for the start of an agent that is under way, or begins one. It lasts while somebody waits for it.
    pub async fn join(&self, agents: &Arc<dyn AgentService>, agent: &Name) -> Result<()> {
        // The cause is logged by the agent service.
        self.shared(agents, agent).await.map_err(|e| e.public())
    }

    fn shared(&self, agents: &Arc<dyn AgentService>, agent: &Name) -> Shared<Wake> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = under_way.get(agent).and_then(running) {
            return wake;
        }
        under_way.retain(|_, wake| running(wake).is_some());
        let (agents, name) = (Arc::clone(agents), agent.clone());
        let wake = async move { agents.wake_agent(name).await.map_err(Arc::new) }.boxed().shared();
        under_way.extend(wake.downgrade().map(|weak| (agent.clone(), weak)));
        wake
    }
}

/// One that somebody waits for and that has not ended.
fn running(wake: &WeakShared<Wake>) -> Option<Shared<Wake>> {
    wake.upgrade().filter(|wake| wake.peek().is_none())
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakes").finish_non_exhaustive()
    }
}
