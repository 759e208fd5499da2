//! Idle agents: stopped because nobody invokes them, and started by the next invoke.
//!
//! Gateways know when an agent was invoked last, and report those that were not for a while. Such an agent's instance is
//! replaced, as a restart would, by one that is not started yet: gateways hold invokes from then on, and what the old
//! instance has is answered to its end. The first invoke that is held has the new one started.

use super::{
    Service,
    failed_wake::FailedWake,
    revision_supervisor::{RevisionHealth, RevisionSupervisor},
    switch::Settled,
};
use crate::store::{AgentRecord, Revision};
use hoistway_kit::metrics::{self, Counter, Histogram};
use hoistway_model::{
    Code, Error, Name, Result, RevisionId,
    metric::{Family, Kind},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// A change of an agent that takes longer keeps it from becoming idle: gateways report one agent after the other.
const CHANGING: Duration = Duration::from_secs(1);

/// The setting, and measurements of wakes.
#[derive(Debug)]
pub(super) struct Idle {
    after: Option<Duration>,
    wakes: Counter,
    durations: Histogram,
}

impl Idle {
    pub fn new(after: Option<Duration>) -> Self {
        let wakes = Counter::new(
            "hoistway_agent_wakes_total",
            "How often an idle agent was started for an invoke, by outcome: ok, failed, or aborted by another change.",
            &["outcome"],
        );
        let durations =
            Histogram::new("hoistway_agent_wake_seconds", "Time until an idle agent was ready for its invokes.", &[]);
        ["ok", "failed", "aborted"].iter().for_each(|outcome| wakes.add(&[outcome], 0.0));
        Self { after, wakes, durations }
    }

    /// The time without invokes after which agents are stopped.
    pub fn after(&self) -> Option<Duration> {
        self.after
    }

    pub fn is_on(&self) -> bool {
        self.after.is_some()
    }
}

impl Service {
    /// A gateway has not invoked an instance for a while. It is stopped if none has. An agent that is being changed, or
    /// has a newer revision under way, is left: it is reported again.
    pub(super) async fn gateway_is_idle(
        self: Arc<Self>,
        watcher: &str,
        name: &Name,
        instance: RevisionId,
    ) -> Result<()> {
        let Some(after) = self.idle.after() else { return Ok(()) };
        if !self.hub.report_idle(watcher, name, &instance, after) {
            return Ok(());
        }
        let Ok(_lock) = timeout(CHANGING, self.lock(name)).await else { return Ok(()) };
        let is_ready = self.condition(&instance).is_some_and(|c| matches!(c.life, RevisionHealth::Ready));
        if !is_ready || self.has_other_instance(name, &instance) {
            return Ok(());
        }
        let (record, next) = match self.store.mark_idle(name, &instance).await {
            Ok(Some(marked)) => marked,
            // It may be marked all the same, by this call or by one before.
            Ok(None) => {
                self.refresh_soon(name);
                return Ok(());
            }
            Err(e) => {
                self.refresh_soon(name);
                return Err(e);
            }
        };
        let text = format!("stopped: no invoke for {} s; the next one starts the agent", after.as_secs_f32());
        tracing::info!(agent = %name, revision = %instance, "{text}");
        self.park(next);
        self.supersede(&[instance]);
        let settled = Settled { version: self.hub.set(self.route(&record)), retired: vec![instance] };
        self.report_phase(&record);
        self.tell_log(&instance, &text).await;
        self.drain(settled, self.drain);
        Ok(())
    }

    /// Keeps an instance that an invoke will start.
    pub(super) fn park(&self, revision: Revision) {
        let id = revision.id;
        let supervisor = Arc::new(RevisionSupervisor::idle(self, revision, None));
        self.supervisors().insert(id, supervisor);
    }

    /// Makes an agent idle again whose start the machine did not allow, unless it has been changed meanwhile.
    pub(super) fn park_again(&self, failed: &Arc<RevisionSupervisor>, error: &Error) {
        let failed_wake = FailedWake::new(error, failed.failed_wake.as_ref());
        let revision = failed.revision.clone();
        let (id, parked) = (revision.id, RevisionSupervisor::idle(self, revision, Some(failed_wake)));
        let mut supervisors = self.supervisors();
        if supervisors.get(&id).is_some_and(|now| Arc::ptr_eq(now, failed)) {
            supervisors.insert(id, Arc::new(parked));
        }
        drop(supervisors);
        failed.pins().clear();
    }

    /// Has an instance in the place of an idle agent's marked as one that runs. It is ready without: the agent would be
    /// idle after the next start of this program.
    pub(super) fn runs_again(self: &Arc<Self>, revision: &Revision) {
        let (service, name, id) = (Arc::clone(self), revision.spec.agent.clone(), revision.id);
        self.tasks.spawn(async move {
            let unmarked = service.reserve.for_freeing(|| service.store.unmark_idle(&name, &id)).await;
            if let Err(e) = unmarked {
                tracing::warn!(agent = %name, cause = e.chain(), "an agent that runs is still marked as idle: {e}");
            }
        });
    }

    /// The supervisor of an agent that is idle. Decided by what is there, and not by the table: a change of that may have
    /// failed.
    pub(super) fn idle_supervisor(&self, record: &AgentRecord) -> Option<Arc<RevisionSupervisor>> {
        let supervisor = record.active.and_then(|id| self.supervisor(&id))?;
        let is_idle = !record.stopped && matches!(supervisor.condition().life, RevisionHealth::Idle);
        is_idle.then_some(supervisor)
    }

    /// Starts an idle agent for invokes, or joins them to its start. `None`: its route says what it does instead.
    pub(super) async fn wake(self: Arc<Self>, name: &Name) -> Result<Option<Arc<RevisionSupervisor>>> {
        let _lock = self.lock(name).await;
        let record = self.record(name).await?;
        if let Some(idle) = self.idle_supervisor(&record) {
            return match idle.failed_wake.as_ref().and_then(FailedWake::refusal) {
                Some(refusal) => Err(refusal),
                None => Ok(Some(self.start_idle(&idle))),
            };
        }
        Ok(record.active.filter(|_| !record.stopped).and_then(|id| self.supervisor(&id)))
    }

    /// Starts the instance of an idle agent, under its lock. Nothing is written before: a full disk must not prevent it,
    /// and one that is cut off is idle again.
    pub(super) fn start_idle(self: &Arc<Self>, idle: &RevisionSupervisor) -> Arc<RevisionSupervisor> {
        let began = Instant::now();
        let supervisor = self.run_new(RevisionSupervisor::for_invoke(self, idle));
        idle.pins().clear();
        let (service, woken) = (Arc::clone(self), Arc::clone(&supervisor));
        self.tasks.spawn(async move { service.observe_wake(&woken, began).await });
        supervisor
    }

    /// Measures a start for an invoke, and tells the logs of it.
    async fn observe_wake(&self, supervisor: &RevisionSupervisor, began: Instant) {
        let woken = supervisor.woken().await;
        let (revision, took) = (&supervisor.revision, began.elapsed());
        let outcome = match &woken {
            Ok(()) => "ok",
            Err(e) if e.code == Code::Aborted => "aborted",
            Err(_) => "failed",
        };
        self.idle.wakes.inc(&[outcome]);
        match woken {
            Ok(()) => {
                self.idle.durations.observe(&[], took);
                let text = format!("started for an invoke in {} ms", took.as_millis());
                tracing::info!(agent = %revision.spec.agent, revision = %revision.id, "{text}");
                self.tell_log(&revision.id, &text).await;
            }
            Err(e) => tracing::warn!(agent = %revision.spec.agent, cause = e.chain(), "not started for an invoke: {e}"),
        }
    }

    async fn tell_log(&self, instance: &RevisionId, text: &str) {
        if let Err(e) = self.runtime.remark(instance, text).await {
            tracing::debug!(revision = %instance, cause = e.chain(), "not in the agent's log: {e}");
        }
    }

    pub(super) fn idle_metrics(&self) -> [Family; 3] {
        let is_idle =
            |supervisor: &&Arc<RevisionSupervisor>| matches!(supervisor.condition().life, RevisionHealth::Idle);
        let idle = self.supervisors().values().filter(is_idle).count() as f64;
        let help = "Agents that are stopped until their next invoke.";
        let idle = metrics::family(Kind::Gauge, "hoistway_agents_idle", help, [([], idle)]);
        [idle, self.idle.wakes.family(), self.idle.durations.family()]
    }
}
