//! The limits of one agent at the same time and in a second, so that none takes the service from the others.

use crate::{config::Limits, connection::lru_map::LruMap, forward::refusal::Refusal};
use hoistway_model::Name;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Agents whose use is remembered. Those that use nothing now are forgotten first.
const AGENTS: usize = 16_384;

/// The right to go on, given back when it is dropped.
pub(crate) type Permit = OwnedSemaphorePermit;

/// Every agent's use.
#[derive(Debug)]
pub(crate) struct AgentLimits {
    limits: Limits,
    started: Instant,
    known: Mutex<LruMap<Name, Arc<Use>>>,
}

/// The resources that one agent uses.
#[derive(Debug)]
struct Use {
    calls: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    rate: Rate,
}

impl AgentLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), started: Instant::now(), known: Mutex::new(LruMap::new(AGENTS)) }
    }

    fn of(&self, agent: &Name) -> Arc<Use> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(agent) {
            return found;
        }
        let new = Arc::new(Use {
            calls: Arc::new(Semaphore::new(self.limits.agent_calls)),
            connections: Arc::new(Semaphore::new(self.limits.agent_connections)),
            rate: Rate::new(self.limits.agent_rate, self.limits.agent_burst),
        });
        known.insert(agent.clone(), Arc::clone(&new), |known| {
            Arc::strong_count(known) == 1 && known.is_idle(&self.limits)
        });
        new
    }

    /// Counts a request against the agent's rate.
    pub(crate) fn request(&self, agent: &Name) -> Result<(), Refusal> {
        self.of(agent).rate.take(self.started.elapsed()).map_err(|wait| {
            let rate = self.limits.agent_rate;
            Refusal::rate_limited(wait, format!("this agent may make {rate} calls in a second"))
        })
    }

    /// One more call at the same time.
    pub(crate) fn call(&self, agent: &Name) -> Result<Permit, Refusal> {
        Arc::clone(&self.of(agent).calls).try_acquire_owned().map_err(|_| {
            let most = self.limits.agent_calls;
            Refusal::rate_limited(Duration::from_secs(1), format!("this agent has {most} calls in progress already"))
        })
    }

    /// One more connection that is the agent's as a whole.
    pub(crate) fn connection(&self, agent: &Name) -> Result<Permit, Refusal> {
        Arc::clone(&self.of(agent).connections).try_acquire_owned().map_err(|_| {
            let most = self.limits.agent_connections;
            Refusal::rate_limited(Duration::from_secs(1), format!("this agent has {most} connections open already"))
        })
    }
}

impl Use {
    fn is_idle(&self, limits: &Limits) -> bool {
        self.calls.available_permits() == limits.agent_calls
            && self.connections.available_permits() == limits.agent_connections
    }
}

/// A rate with bursts as one number (GCRA): when the next call would be due if all came evenly.
#[derive(Debug)]
struct Rate {
    /// Nanoseconds between two calls; 0 is no limit.
    every: u64,
    /// The distance by which the number may run ahead.
    ahead: u64,
    due: AtomicU64,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Self {
        let every = 1_000_000_000_u64.checked_div(u64::from(per_second)).unwrap_or(0);
        Self { every, ahead: every.saturating_mul(u64::from(burst.max(1)) - 1), due: AtomicU64::new(0) }
    }

    /// Takes a call at `now`, or says how long to wait.
    fn take(&self, now: Duration) -> Result<(), Duration> {
        if self.every == 0 {
            return Ok(());
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let next = |due: u64| (due <= now.saturating_add(self.ahead)).then(|| due.max(now).saturating_add(self.every));
        let taken = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.map(drop).map_err(|due| Duration::from_nanos(due.saturating_sub(now.saturating_add(self.ahead))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rate_lets_bursts_through_and_recovers() {
        let rate = Rate::new(10, 3);
        let at = Duration::from_millis;
        assert!((0..3).all(|_| rate.take(at(1000)).is_ok()));
        assert_eq!(rate.take(at(1000)).unwrap_err(), at(100));
        assert!(rate.take(at(1099)).is_err());
        assert!(rate.take(at(1100)).is_ok() && rate.take(at(1100)).is_err());
        assert!((0..3).all(|_| rate.take(at(9000)).is_ok()) && rate.take(at(9000)).is_err());
        let none = Rate::new(0, 0);
        assert!((0..1000).all(|_| none.take(at(0)).is_ok()));
    }

    #[test]
    fn each_agent_has_its_own_limits() {
        let limits =
            Limits { agent_calls: 1, agent_connections: 1, agent_rate: 1, agent_burst: 1, ..Limits::default() };
        let agents = AgentLimits::new(&limits);
        let [a, b] = ["a", "b"].map(|name| Name::parse("name", name).unwrap());
        let held = agents.call(&a).unwrap();
        assert!(agents.call(&a).is_err() && agents.call(&b).is_ok());
        drop(held);
        let _call = agents.call(&a).unwrap();
        let _connection = agents.connection(&a).unwrap();
        assert!(agents.connection(&a).is_err());
        agents.request(&a).unwrap();
        assert!(agents.request(&a).is_err() && agents.request(&b).is_ok());
    }
}
