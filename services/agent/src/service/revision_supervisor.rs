//! A supervisor keeps one revision going: it pulls the image until it is there, hands the instance to the runtime, and
//! says how the revision is. It ends when it is stopped or when there is nothing more to try.

use super::{
    Service,
    failed_wake::{FailedWake, IDLE, is_of_machine, not_started},
};
use crate::{
    images::Pins,
    runtime::{Endpoint, Failure, Instance, Program, Started, State},
    store::{ImageFacts, Revision, StoredPhase},
};
use hoistway_kit::telemetry::{self, TraceParent, within};
use hoistway_model::{
    Code, Error, Name, Result, RevisionId,
    agent::{EnvVar, Phase, RevisionStatus},
    framework::Framework,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

/// The health of a revision.
#[derive(Debug, Clone)]
pub(super) enum RevisionHealth {
    /// On its way up for the first time.
    Starting,
    /// Its image cannot be pulled yet.
    Waiting { why: String },
    /// Answering.
    Ready,
    /// It was ready and is not; it is started again by itself.
    Down { why: String, details: Vec<String>, restarts: u32, next_try_ms: Option<i64> },
    /// The next invoke starts it.
    Idle,
    /// It could not be started and is not tried again.
    Failed { code: Code, message: String, details: Vec<String> },
    /// It was stopped.
    Gone,
}

/// A revision's life, with what has been learnt on the way.
#[derive(Debug, Clone)]
pub(super) struct RevisionCondition {
    pub life: RevisionHealth,
    /// Where it answers.
    pub address: Option<String>,
    pub image: Option<ImageFacts>,
}

/// One revision that is being kept.
#[derive(Debug)]
pub(super) struct RevisionSupervisor {
    pub revision: Revision,
    /// Whether it has been ready in the past: then a start that fails is tried again.
    pub(super) proven: bool,
    /// Whether invokes wait for its start.
    pub(super) for_invoke: bool,
    /// The last start for invokes, if the machine did not allow it.
    pub(super) failed_wake: Option<FailedWake>,
    /// Whether another instance has taken its place.
    superseded: AtomicBool,
    condition: watch::Sender<RevisionCondition>,
    stop: CancellationToken,
    done: CancellationToken,
    /// Keeps its layers on disk, and what is made of them.
    pins: Mutex<Vec<Pins>>,
}

impl RevisionSupervisor {
    pub fn new(service: &Service, revision: Revision, proven: bool) -> Self {
        let condition =
            RevisionCondition { life: RevisionHealth::Starting, address: None, image: revision.image.clone() };
        let pins = revision.image.as_ref().map(|image| service.images.store().pin(&image.layers));
        Self {
            revision,
            proven,
            for_invoke: false,
            failed_wake: None,
            superseded: AtomicBool::new(false),
            condition: watch::Sender::new(condition),
            stop: service.stopping.child_token(),
            done: CancellationToken::new(),
            pins: Mutex::new(pins.into_iter().collect()),
        }
    }

    /// One whose start invokes wait for, in place of the one that is idle. It has been ready before.
    pub fn for_invoke(service: &Service, idle: &Self) -> Self {
        let failed_wake = idle.failed_wake.clone();
        Self { for_invoke: true, failed_wake, ..Self::new(service, idle.revision.clone(), true) }
    }

    /// One that is not started, because nobody invokes it or because the machine did not allow its last start.
    pub fn idle(service: &Service, revision: Revision, failed_wake: Option<FailedWake>) -> Self {
        let supervisor = Self { failed_wake, ..Self::new(service, revision, true) };
        supervisor.set(|c| c.life = RevisionHealth::Idle);
        supervisor.done.cancel();
        supervisor
    }

    pub fn condition(&self) -> RevisionCondition {
        self.condition.borrow().clone()
    }

    /// Another instance has taken its place: it only finishes what it has.
    pub fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    /// Whether it is up or coming up, and not only finishing.
    pub fn is_in_use(&self) -> bool {
        let ended = matches!(self.condition.borrow().life, RevisionHealth::Failed { .. } | RevisionHealth::Gone);
        !ended && !self.superseded.load(Ordering::Acquire)
    }

    /// What it says while it is idle.
    pub fn idle_message(&self) -> String {
        self.failed_wake.as_ref().map_or_else(|| IDLE.to_owned(), FailedWake::message)
    }

    /// Whether invokes wait for it.
    pub fn is_waking(&self) -> bool {
        self.for_invoke && matches!(self.condition.borrow().life, RevisionHealth::Starting)
    }

    /// Ends the supervisor and waits until it has let go of the runtime.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.done.cancelled().await;
    }

    /// Waits until the start has come to something. Failed and stopped ones are errors.
    pub async fn settled(&self) -> Result<RevisionStatus> {
        let mut conditions = self.condition.subscribe();
        let condition = match conditions.wait_for(|c| !matches!(c.life, RevisionHealth::Starting)).await {
            Ok(condition) => condition.clone(),
            Err(_) => return Err(self.stopped()),
        };
        let image_digest = condition.image.map(|i| i.digest).or(self.revision.spec.image.digest);
        let Revision { public: revision, number, .. } = self.revision;
        let status = |phase, message| Ok(RevisionStatus { revision, number, phase, message, image_digest });
        match condition.life {
            RevisionHealth::Waiting { why } => status(Phase::Pending, why),
            RevisionHealth::Ready | RevisionHealth::Idle | RevisionHealth::Down { .. } => {
                status(Phase::Running, String::new())
            }
            RevisionHealth::Failed { code, message, details } => Err(Error::new(code, message).with_details(details)),
            RevisionHealth::Gone | RevisionHealth::Starting => Err(self.stopped()),
        }
    }

    /// Waits until the revision is ready. Why it does not become so is an error, also if it is tried again.
    pub async fn woken(&self) -> Result<()> {
        let mut conditions = self.condition.subscribe();
        let condition = match conditions.wait_for(|c| !matches!(c.life, RevisionHealth::Starting)).await {
            Ok(condition) => condition.clone(),
            Err(_) => return Err(self.stopped()),
        };
        let failed = |code, message: String, details: Vec<String>| Err(Error::new(code, message).with_details(details));
        match condition.life {
            RevisionHealth::Ready => Ok(()),
            RevisionHealth::Waiting { why } => failed(Code::Unavailable, why, Vec::new()),
            RevisionHealth::Down { why, details, .. } => failed(Code::AgentStartFailed, crashed(&why), details),
            RevisionHealth::Failed { code, message, details } => failed(code, not_started(&message), details),
            RevisionHealth::Gone | RevisionHealth::Starting | RevisionHealth::Idle => Err(self.stopped()),
        }
    }

    pub(super) fn pins(&self) -> MutexGuard<'_, Vec<Pins>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> Error {
        Error::new(Code::Aborted, format!("revision {} was stopped before it was ready", self.revision.id))
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut RevisionCondition)) {
        self.condition.send_modify(change);
    }
}

fn down(Failure { message, details, .. }: &Failure, restarts: u32, next_try_ms: Option<i64>) -> RevisionHealth {
    RevisionHealth::Down { why: message.clone(), details: details.clone(), restarts, next_try_ms }
}

/// Tells invokes that it ended and is tried again.
pub(super) fn crashed(why: &str) -> String {
    format!("the agent crashed ({why}) and is started again")
}

/// Returns the span of a revision's start, from its image to its readiness: in the trace of the call that began it, or
/// else a trace of its own, as after a start of this program.
fn start_span(revision: &Revision) -> Span {
    let span = info_span!(
        parent: None,
        "agent.start",
        agent = %revision.spec.agent,
        revision = %revision.id,
        hoistway.agent.revision_number = revision.number,
        request_id = telemetry::request_id().as_deref(),
    );
    TraceParent::current().adopt(&span);
    span
}

impl Service {
    /// Runs a supervisor to its end.
    pub(super) async fn run_supervisor(self: Arc<Self>, supervisor: Arc<RevisionSupervisor>, start: Span) {
        let mut start = Some(start);
        let result = supervisor.stop.run_until_cancelled(self.supervise(&supervisor, &mut start)).await;
        match result {
            None | Some(Ok(())) => supervisor.set(|c| c.life = RevisionHealth::Gone),
            Some(Err(error)) => {
                let was_ready = start.is_none();
                let start = start.take().unwrap_or_else(Span::none);
                telemetry::set_error(&start, error.code.as_str());
                self.give_up(&supervisor, error, was_ready).instrument(start).await;
            }
        }
        drop(start);
        supervisor.done.cancel();
        self.refresh_soon(&supervisor.revision.spec.agent);
    }

    /// Has the image there and the instance applied.
    async fn launch(self: &Arc<Self>, supervisor: &Arc<RevisionSupervisor>) -> Result<Started> {
        let (facts, program) = within(info_span!("agent.pull"), self.fetch(supervisor)).await?;
        supervisor.set(|c| c.image = Some(facts.clone()));
        self.ca_bundle.ensure().await;
        let started = self.runtime.apply(self.instance(supervisor, &facts, program)).await?;
        supervisor.set(|c| c.address = Some(started.address.clone()));
        Ok(started)
    }

    /// Starts the revision, and follows it from then on. Once it is ready `start` is gone.
    async fn supervise(self: &Arc<Self>, supervisor: &Arc<RevisionSupervisor>, start: &mut Option<Span>) -> Result<()> {
        let (revision, began) = (&supervisor.revision, Instant::now());
        let starting = start.clone().unwrap_or_else(Span::none);
        let mut states = self.launch(supervisor).instrument(starting).await?.states;
        let mut crash: Option<(Failure, u32)> = None;
        loop {
            let state = states.borrow_and_update().clone();
            let life = match state {
                State::Starting => match &crash {
                    None => RevisionHealth::Starting,
                    Some((failure, restarts)) => down(failure, *restarts, None),
                },
                State::Ready => {
                    crash = None;
                    if let Some(start) = start.take() {
                        let ms = began.elapsed().as_millis();
                        start.in_scope(|| tracing::info!("revision {} is ready after {ms} ms", revision.number));
                        if supervisor.for_invoke {
                            self.runs_again(revision);
                        }
                    }
                    RevisionHealth::Ready
                }
                State::Crashed { failure, out_of_memory, restarts, next_try_ms } => {
                    let agent = &revision.spec.agent;
                    self.events.crashed(agent, revision.id, &failure.message, restarts, out_of_memory);
                    let life = down(&failure, restarts, Some(next_try_ms));
                    crash = Some((failure, restarts));
                    life
                }
                State::Failed(failure) => {
                    return Err(Error::new(failure.code, failure.message).with_details(failure.details));
                }
                State::Gone => return Err(Error::new(Code::Cancelled, "the runtime stopped the agent")),
            };
            supervisor.set(|c| c.life = life);
            self.refresh_soon(&revision.spec.agent);
            if states.changed().await.is_err() {
                return Err(Error::new(Code::Cancelled, "the runtime stopped the agent"));
            }
        }
    }

    fn instance(&self, supervisor: &RevisionSupervisor, facts: &ImageFacts, program: Program) -> Instance {
        let Revision { id, public, spec, token, .. } = &supervisor.revision;
        let egress_token = self.egress_key.mint(*public);
        Instance {
            agent: spec.agent.clone(),
            revision: *id,
            program,
            env: self.environment.of(spec, facts.entry_point.as_deref(), *public),
            endpoints: Endpoint::all_of(spec),
            invoke_token: token.clone(),
            mask: spec.config.env.iter().flat_map(EnvVar::hidden).chain([egress_token.clone()]).collect(),
            egress_token,
            framework: spec.config.framework.as_deref().and_then(Framework::parse),
            proven: supervisor.proven,
        }
    }

    /// The revision cannot be started. What is known of it is kept until it is undone.
    async fn give_up(&self, supervisor: &Arc<RevisionSupervisor>, error: Error, was_ready: bool) {
        let revision = &supervisor.revision;
        tracing::info!(agent = %revision.spec.agent, revision = %revision.id, cause = error.chain(), "not started: {error}");
        // One that has been ready is kept as it is: the next start of this program tries it again.
        if !supervisor.proven
            && let Err(e) = self.store.keep_outcome(&revision.id, StoredPhase::Failed, "", Some(&error)).await
        {
            tracing::warn!(cause = e.chain(), "a failed start was not recorded: {e}");
        }
        if let Err(e) = self.runtime.remove(&revision.id, Duration::ZERO).await {
            tracing::warn!(cause = e.chain(), "a failed instance was not removed: {e}");
        }
        self.identities.remove(&revision.id);
        if supervisor.for_invoke && !was_ready && is_of_machine(error.code) {
            self.park_again(supervisor, &error);
        }
        let Error { code, message, details, .. } = error;
        supervisor.set(|c| c.life = RevisionHealth::Failed { code, message, details });
    }

    /// Starts a supervisor for a revision that is recorded.
    pub(super) fn start_supervisor(self: &Arc<Self>, revision: Revision, proven: bool) -> Arc<RevisionSupervisor> {
        self.run_new(RevisionSupervisor::new(self, revision, proven))
    }

    pub(super) fn run_new(self: &Arc<Self>, supervisor: RevisionSupervisor) -> Arc<RevisionSupervisor> {
        let supervisor = Arc::new(supervisor);
        // Egress knows it before it runs: what an agent imports may call its tools already.
        self.identities.add(&supervisor.revision);
        self.supervisors().insert(supervisor.revision.id, Arc::clone(&supervisor));
        let start = start_span(&supervisor.revision);
        self.tasks.spawn(Arc::clone(self).run_supervisor(Arc::clone(&supervisor), start));
        supervisor
    }

    /// Whether an agent has another instance that is up or coming up: one that may take the place of `instance`.
    pub(super) fn has_other_instance(&self, agent: &Name, instance: &RevisionId) -> bool {
        let supervisors = self.supervisors();
        supervisors.values().any(|supervisor| {
            let Revision { id, spec, .. } = &supervisor.revision;
            spec.agent == *agent && id != instance && supervisor.is_in_use()
        })
    }

    /// Revisions of an agent that are on their way up.
    pub(super) fn starting(&self, agent: &Name) -> Vec<RevisionId> {
        let is_starting =
            |supervisor: &RevisionSupervisor| matches!(supervisor.condition.borrow().life, RevisionHealth::Starting);
        let supervisors = self.supervisors();
        let of_agent = supervisors
            .iter()
            .filter(|(_, supervisor)| supervisor.revision.spec.agent == *agent && is_starting(supervisor));
        of_agent.map(|(id, _)| *id).collect()
    }

    pub(super) fn supervisor(&self, id: &RevisionId) -> Option<Arc<RevisionSupervisor>> {
        self.supervisors().get(id).cloned()
    }

    /// Ends a revision: nothing keeps it any more, and nothing of it runs.
    pub(super) async fn stop_revision(&self, id: &RevisionId, grace: Duration) {
        let supervisor = self.supervisors().remove(id);
        if let Some(supervisor) = &supervisor {
            supervisor.stop().await;
        }
        if let Err(e) = self.runtime.remove(id, grace).await {
            tracing::warn!(revision = %id, cause = e.chain(), "an instance was not removed: {e}");
        }
        self.identities.remove(id);
        // Others may still look at the supervisor; its layers are free all the same.
        if let Some(supervisor) = supervisor {
            supervisor.pins().clear();
        }
    }
}
