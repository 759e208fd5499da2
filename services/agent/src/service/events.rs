//! Events of agents, kept for those who follow them.

use super::{Service, revision_supervisor::RevisionHealth};
use crate::store::AgentRecord;
use futures_util::{StreamExt, future::ready};
use hoistway_kit::{
    event_log::{Next, Ring},
    metrics::Counter,
    time::now_ms,
};
use hoistway_model::{
    Name, RevisionId,
    agent::{AgentChange, AgentEvent, AgentEvents, EventPosition, Phase},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Events that are kept for gateways which come back.
const KEPT_EVENTS: usize = 1_000;

/// The phase of an agent, and whether it is idle in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reported {
    phase: Phase,
    revision: RevisionId,
    idle: bool,
}

/// The latest events, and the phase that was reported last of each agent.
#[derive(Debug)]
pub(super) struct EventLog {
    events: Arc<Ring<AgentEvent>>,
    phases: Mutex<BTreeMap<Name, Reported>>,
    pub crashes: Counter,
    pub out_of_memory: Counter,
}

impl EventLog {
    pub fn new() -> Self {
        Self {
            events: Ring::new(KEPT_EVENTS),
            phases: Mutex::default(),
            crashes: Counter::new(
                "hoistway_agent_crashes_total",
                "How often an agent ended although it was up, and was started again.",
                &["agent"],
            ),
            out_of_memory: Counter::new(
                "hoistway_agent_out_of_memory_total",
                "How often an agent that was up was killed because it had used up its memory.",
                &["agent"],
            ),
        }
    }

    /// Ends everybody who follows events.
    pub fn close(&self) {
        self.events.close();
    }

    /// An agent that was up ended, and is started again.
    pub fn crashed(&self, agent: &Name, revision: RevisionId, reason: &str, restarts: u32, out_of_memory: bool) {
        self.crashes.inc(&[agent.as_str()]);
        if out_of_memory {
            self.out_of_memory.inc(&[agent.as_str()]);
        }
        self.push(agent, Some(revision), AgentChange::Crashed { reason: reason.to_owned(), restarts });
    }

    /// An agent is gone.
    pub fn deleted(&self, agent: &Name) {
        self.crashes.forget(agent.as_str());
        self.out_of_memory.forget(agent.as_str());
        if self.phases().remove(agent).is_some() {
            self.push(agent, None, AgentChange::Deleted);
        }
    }

    fn phase(&self, agent: &Name, reported: Reported, message: String) {
        let mut phases = self.phases();
        let before = phases.insert(agent.clone(), reported);
        if before.is_none() {
            // The first crash is then an increase too.
            [&self.crashes, &self.out_of_memory].iter().for_each(|counter| counter.add(&[agent.as_str()], 0.0));
        }
        if before != Some(reported) {
            let Reported { phase, revision, .. } = reported;
            // Pushed under the lock: events of one agent are in the order of what happened.
            self.push(agent, Some(revision), AgentChange::Phase(phase, message));
        }
    }

    fn push(&self, agent: &Name, revision: Option<RevisionId>, change: AgentChange) {
        let event = |place| AgentEvent { place, time_ms: now_ms(), agent: agent.clone(), revision, change };
        self.events.push(event);
    }

    /// The phases that were reported last.
    pub fn current(&self) -> Vec<(Name, Phase)> {
        self.phases().iter().map(|(name, reported)| (name.clone(), reported.phase)).collect()
    }

    fn phases(&self) -> MutexGuard<'_, BTreeMap<Name, Reported>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn follow(&self, after: Option<EventPosition>) -> AgentEvents {
        let events = self.events.follow(after).filter_map(|next| {
            ready(match next {
                Next::Item(_, event) => Some(Ok(AgentEvent::clone(&event))),
                // Whoever follows sees it by the places.
                Next::Lost(_) => None,
            })
        });
        Box::pin(events)
    }
}

impl Service {
    /// Reports the phase of an agent if it has changed.
    pub(super) fn report_phase(&self, record: &AgentRecord) {
        let supervisor = match record.desired.or(record.active) {
            Some(id) => self.supervisor(&id),
            // Its first deploy is under way.
            None => {
                let supervisors = self.supervisors();
                supervisors
                    .values()
                    .filter(|supervisor| supervisor.revision.spec.agent == record.name)
                    .max_by_key(|supervisor| supervisor.revision.id)
                    .cloned()
            }
        };
        if let Some(supervisor) = supervisor {
            let (phase, message) = self.phase(record, &supervisor.revision, Some(&supervisor.condition()));
            let revision = record.active.unwrap_or(supervisor.revision.id);
            let serving = self.supervisor(&revision);
            // An idle agent that is being started for invokes is as it was until it has become ready, or has not.
            if serving.as_ref().is_some_and(|serving| serving.is_waking()) {
                return;
            }
            let idle = serving.is_some_and(|serving| matches!(serving.condition().life, RevisionHealth::Idle));
            self.events.phase(&record.name, Reported { phase, revision, idle }, message);
        }
    }
}
