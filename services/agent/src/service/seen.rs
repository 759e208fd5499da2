//! What is told about agents: events as they happen, and measurements.

use super::Service;
use crate::store::AgentRecord;
use futures_util::{StreamExt, future::ready};
use hoistway_kit::{
    event_log::{Next, Ring},
    metrics,
    time::now_ms,
};
use hoistway_model::{
    Error, Name, Result, RevisionId,
    agent::{AgentChange, AgentEvent, AgentEvents, Phase, Place},
    metric::{Kind, Metrics},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Events that are kept for gateways which come back.
const KEPT_EVENTS: usize = 1_000;

/// How agents were when that was told last.
#[derive(Debug)]
pub(super) struct Seen {
    events: Arc<Ring<AgentEvent>>,
    phases: Mutex<BTreeMap<Name, (Phase, RevisionId)>>,
    restarts: metrics::Counter,
}

impl Seen {
    pub fn new() -> Self {
        Self {
            events: Ring::new(KEPT_EVENTS),
            phases: Mutex::default(),
            restarts: metrics::Counter::new(
                "hoistway_agent_crashes_total",
                "How often an agent ended although it was up, and was started again.",
                &["agent"],
            ),
        }
    }

    /// Ends everybody who follows events.
    pub fn close(&self) {
        self.events.close();
    }

    /// An agent that was up ended, and is started again.
    pub fn crashed(&self, agent: &Name, revision: RevisionId, reason: &str, restarts: u32) {
        self.restarts.inc(&[agent.as_str()]);
        self.tell(agent, Some(revision), AgentChange::Crashed { reason: reason.to_owned(), restarts });
    }

    /// An agent is gone.
    pub fn deleted(&self, agent: &Name) {
        self.restarts.forget(agent.as_str());
        if self.phases().remove(agent).is_some() {
            self.tell(agent, None, AgentChange::Deleted);
        }
    }

    fn phase(&self, agent: &Name, phase: Phase, message: String, revision: RevisionId) {
        let mut phases = self.phases();
        if phases.insert(agent.clone(), (phase, revision)) != Some((phase, revision)) {
            // Told under the lock: events of one agent are in the order of what happened.
            self.tell(agent, Some(revision), AgentChange::Phase(phase, message));
        }
    }

    fn tell(&self, agent: &Name, revision: Option<RevisionId>, change: AgentChange) {
        let event = |place| AgentEvent { place, time_ms: now_ms(), agent: agent.clone(), revision, change };
        self.events.push(event);
    }

    fn phases(&self) -> MutexGuard<'_, BTreeMap<Name, (Phase, RevisionId)>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn follow(&self, after: Option<Place>) -> AgentEvents {
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
    /// Tells the phase of an agent if it is another one.
    pub(super) fn tell_phase(&self, record: &AgentRecord) {
        let supervisor = match record.desired.or(record.active) {
            Some(id) => self.supervisor(&id),
            // Its first deploy is under way.
            None => {
                let supervisors = self.supervisors();
                supervisors
                    .values()
                    .filter(|k| k.revision.spec.agent == record.name)
                    .max_by_key(|k| k.revision.id)
                    .cloned()
            }
        };
        if let Some(supervisor) = supervisor {
            let (phase, message) = self.phase(record, &supervisor.revision, Some(&supervisor.condition()));
            let serving = record.active.unwrap_or(supervisor.revision.id);
            self.seen.phase(&record.name, phase, message, serving);
        }
    }

    pub(super) async fn metrics(&self) -> Result<Metrics> {
        let phases: Vec<Phase> = self.seen.phases().values().map(|(phase, _)| *phase).collect();
        let up: Vec<_> = self.seen.phases().iter().map(|(name, (phase, _))| (name.to_string(), *phase)).collect();
        let count = |phase| phases.iter().filter(|p| **p == phase).count() as f64;
        let by_phase = [Phase::Pending, Phase::Running, Phase::Failed];
        let by_phase = by_phase.map(|phase| ([("phase", phase.as_str().to_owned())], count(phase)));
        let up = up.into_iter().map(|(name, phase)| ([("agent", name)], f64::from(u8::from(phase == Phase::Running))));
        let mut families = vec![
            metrics::family(Kind::Gauge, "hoistway_agents", "Agents by their phase.", by_phase),
            metrics::family(Kind::Gauge, "hoistway_agent_up", "1 while the agent is Running, else 0.", up),
            self.seen.restarts.family(),
        ];
        families.extend(self.runtime.metrics());
        let database = self.database.clone();
        let read = move || {
            families.push(metrics::database("agent", &database));
            metrics::of_service("agent", families)
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal("reading what was measured", e))
    }
}
