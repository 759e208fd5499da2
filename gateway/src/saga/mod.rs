//! The deploy saga: a journal of intents and outputs, repeatable steps, and undo of exactly the effects of a deploy.
//! The laws are in docs/architecture.md.
//!
//! [`Saga::accept`] writes a deployment into the journal and puts it into its agent's queue; a queue runs its
//! deployments one after another, queues run concurrently. Whatever happens to this process, [`Saga::recover`]
//! continues from the journal.

mod agent_queue;
mod cancel;
mod cancel_signal;
pub(crate) mod record;
mod sealed_requests;
pub(crate) mod steps;
mod worker;

use crate::{
    audit::{self, PendingAuditEntry},
    deploy::{
        Accepted, AgentLease, Deployer, Deployment, DeploymentQuery, Outcome, Progress, Room, Urgency,
        kind::{DeploymentKind, RevisionOutcome},
    },
    store::{InsertError, Journal},
};
use agent_queue::{AgentQueue, AgentQueues, Item, Job};
use async_trait::async_trait;
use hoistway_kit::{quota::SharedQuota, secrets::MasterKey, telemetry::Origin, time::now_ms};
use hoistway_model::{Code, DeploymentId, Digest, Error, Name, Result};
use record::Record;
pub(crate) use sealed_requests::reseal;
use std::{sync::Arc, time::Duration};
pub use steps::Services;
use steps::{
    Position, plan,
    saga_log::{SagaLog, State},
};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use worker::Retry;

/// The size in bytes of a large source, which is in memory only while it is needed, and the number of such sources at a
/// time.
pub const LARGE_SOURCE: usize = 4 << 20;
const LARGE_AT_A_TIME: usize = 2;
/// The time that a lease waits for deployments before it cancels them, if it may: most starts take no longer.
const COURTESY: Duration = Duration::from_secs(3);

/// Bounds of the saga.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The time limit of one deployment before its point of no return, its waiting included.
    pub deadline: Duration,
    /// The most deployments of one agent that wait or run.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(15 * 60), queue: 32 }
    }
}

/// The deploy saga of one gateway.
#[derive(Clone)]
pub struct Saga(Arc<Inner>);

struct Inner {
    services: Services,
    journal: Journal,
    key: MasterKey,
    limits: Limits,
    queues: AgentQueues,
    /// The quota of waiting requests.
    waiting: Arc<SharedQuota>,
    /// The permits of large sources: one is needed from the start of a deployment until its image is built.
    large: Semaphore,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Saga {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Saga")
    }
}

impl Saga {
    /// Returns a saga over a journal. Nothing runs before [`Saga::recover`] or [`Saga::accept`].
    pub fn new(
        services: Services,
        journal: Journal,
        key: MasterKey,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Self {
        let (queues, tasks) = (AgentQueues::default(), TaskTracker::new());
        let (waiting, large) = (sealed_requests::waiting(), Semaphore::new(LARGE_AT_A_TIME));
        Self(Arc::new(Inner { services, journal, key, limits, queues, waiting, large, shutdown, tasks }))
    }

    /// Resumes every deployment that an earlier process left unfinished, in the order of their acceptance.
    pub async fn recover(&self) -> Result<usize> {
        let open = self.0.journal.unfinished().await?;
        let count = open.len();
        for mut record in open {
            // One at a time: together they may exceed the memory.
            let request = self.0.journal.request(record.id).await?.unwrap_or_default();
            let request_digest = match self.0.unseal(&record, request).await {
                Ok(work) => self.0.with_digest(work).await?.1,
                Err(e) => {
                    // An unreadable request must not block the others.
                    tracing::error!(deployment = %record.id, cause = e.chain(), "a journalled request is unreadable");
                    record.fail(&worker::unreadable());
                    record.finish(State::Failed, now_ms());
                    self.0.journal.update(&record).await?;
                    continue;
                }
            };
            let agent_queue = self.0.queues.of(&record.agent);
            let mut queue = agent_queue.lock().await;
            // Every deployment that waited before waits again, even if the quota is exceeded.
            let job = Job::later(request_digest, record, None);
            self.0.enqueue(&agent_queue, &mut queue, Item::Job(Arc::new(job)));
        }
        Ok(count)
    }

    /// Waits until no task of this saga runs; to be called after the shutdown token was cancelled.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

#[async_trait]
impl Deployer for Saga {
    async fn accept(&self, work: DeploymentKind, strict: bool, room: Option<Room>) -> Result<Accepted> {
        let inner = self.0.clone();
        let pending_entry = audit::current();
        // A separate task: a client that hangs up must not leave a deployment that is journalled but not running.
        self.0
            .tasks
            .spawn(Origin::current().scope(async move {
                let accepted = inner.accept(work, strict, pending_entry).await;
                drop(room);
                accepted
            }))
            .await
            .map_err(|e| Error::internal("accepting the deployment", e))?
    }

    async fn lease(&self, agent: Name, urgency: Urgency, patience: Duration) -> Result<AgentLease> {
        self.0.lease(agent, urgency, patience).await
    }

    async fn cancel(&self, id: DeploymentId) -> Result<Deployment> {
        let inner = self.0.clone();
        // A separate task: a deployment that was removed from its queue must be journalled even when the client hangs
        // up.
        let cancelling = Origin::current().scope(async move { inner.cancel(id).await });
        self.0.tasks.spawn(cancelling).await.map_err(|e| Error::internal("cancelling the deployment", e))?
    }

    async fn get(&self, id: DeploymentId) -> Result<Deployment> {
        self.0.deployment(id).await
    }

    async fn list(&self, query: DeploymentQuery) -> Result<Vec<Deployment>> {
        Ok(self.0.journal.list(&query).await?.into_iter().map(Record::into_public).collect())
    }
}

impl Inner {
    async fn accept(
        self: Arc<Self>,
        work: DeploymentKind,
        strict: bool,
        pending_entry: Option<Arc<PendingAuditEntry>>,
    ) -> Result<Accepted> {
        self.check_running()?;
        let (work, request_digest) = self.with_digest(work).await?;
        let agent_queue = self.queues.of(work.agent());
        let accepted = self.accept_into(&agent_queue, request_digest, work, strict, pending_entry).await;
        self.queues.forget(agent_queue);
        accepted
    }

    async fn lease(self: &Arc<Self>, agent: Name, urgency: Urgency, patience: Duration) -> Result<AgentLease> {
        self.check_running()?;
        let (ended, unwanted) = (CancellationToken::new(), CancellationToken::new());
        let (waiting, mut granted) = agent_queue::QueuedLease::new(ended.clone(), unwanted.clone());
        let waiting = Arc::new(waiting);
        // Also dropped when the wait is given up: then the lease ends as soon as it is granted.
        let lease = AgentLease::new(ended.drop_guard(), unwanted);
        let agent_queue = self.queues.of(&agent);
        let queued = async {
            let _accepting = agent_queue.accepting.lock().await;
            let mut queue = agent_queue.lock().await;
            self.check_queue(&queue, &agent)?;
            self.enqueue(&agent_queue, &mut queue, Item::Lease(waiting.clone()));
            Ok::<_, Error>(())
        };
        let coming = async {
            queued.await?;
            if let Ok(granted) = timeout(COURTESY.min(patience), &mut granted).await {
                return granted.map(|()| false).map_err(|_| shutting_down());
            }
            let requested = cancel::cancel_before(&agent_queue, &waiting, urgency).await;
            match timeout(patience.saturating_sub(COURTESY), granted).await {
                Ok(granted) => granted.map(|()| requested.any_deployment()).map_err(|_| shutting_down()),
                Err(_) if requested.withdraw() => Err(cancel::still_ending(&agent)),
                Err(_) => Err(cancel::in_the_way(&agent)),
            }
        };
        let came = coming.await;
        self.queues.forget(agent_queue);
        came.map(|cancelled_others| lease.after_cancelling(cancelled_others))
    }

    async fn deployment(&self, id: DeploymentId) -> Result<Deployment> {
        self.journal.get(id).await?.map(Record::into_public).ok_or_else(|| Error::not_found("deployment", id))
    }

    fn check_running(&self) -> Result<()> {
        if self.shutdown.is_cancelled() { Err(shutting_down()) } else { Ok(()) }
    }

    fn check_queue(&self, queue: &agent_queue::Queue, agent: &Name) -> Result<()> {
        if queue.len() < self.limits.queue {
            return Ok(());
        }
        let text = format!(
            "{} deployments of agent \"{agent}\" are waiting already, the limit (setting deploy_queue) is {}",
            queue.len(),
            self.limits.queue
        );
        Err(Error::new(Code::ResourceExhausted, text))
    }

    async fn accept_into(
        self: &Arc<Self>,
        agent_queue: &Arc<AgentQueue>,
        request_digest: Digest,
        work: DeploymentKind,
        strict: bool,
        pending_entry: Option<Arc<PendingAuditEntry>>,
    ) -> Result<Accepted> {
        let _accepting = agent_queue.accepting.lock().await;
        // No other job can be added from here on, so an idle queue stays idle until this one is pushed.
        let idle = {
            let queue = agent_queue.lock().await;
            if let Some(last) = queue.last().filter(|last| last.request_digest == request_digest && !last.is_done()) {
                return Ok(last.accepted());
            }
            self.check_queue(&queue, work.agent())?;
            queue.is_empty()
        };
        let mut findings = plan::look_up(&self.services, &work).await.map_err(plan::not_ready)?;
        let warnings = plan::check(&findings, &work, strict)?;
        let now = now_ms();
        let mut log = SagaLog::accepted(work.reason(), work.wants_build(), now);
        let mut failure = None;
        if idle {
            match plan::pin_image(&self.services, &work, &mut findings).await {
                Ok(()) => {
                    plan::decide(&self.key, &work, findings, &mut log);
                    log.advance(now);
                }
                Err(e) => failure = Some(e),
            }
        }
        let mut record = Record::new(work.agent().clone(), log, warnings, now);
        let (work, sealed) = self.sealed(record.id, work).await?;
        if let Some(error) = failure {
            record.fail(&error);
            record.finish(State::Failed, now_ms());
            self.journalled(&record, sealed, pending_entry.as_deref()).await?;
            return Err(error);
        }
        if record.log.step == Position::DONE {
            record.finish(State::Succeeded, now_ms());
        }
        let job = if idle && work.bytes() <= LARGE_SOURCE {
            self.journalled(&record, sealed, pending_entry.as_deref()).await?;
            Job::now(request_digest, record, work)
        } else {
            drop(work);
            let room = if idle { None } else { Some(self.room_to_wait(sealed.len(), pending_entry.as_deref())?) };
            self.journalled(&record, sealed, pending_entry.as_deref()).await?;
            Job::later(request_digest, record, room)
        };
        let job = Arc::new(job);
        if !job.is_done() {
            self.enqueue(agent_queue, &mut *agent_queue.lock().await, Item::Job(job.clone()));
        }
        Ok(job.accepted())
    }

    /// Writes a new deployment with its audit entry.
    async fn journalled(
        &self,
        record: &Record,
        request: Vec<u8>,
        pending_entry: Option<&PendingAuditEntry>,
    ) -> Result<()> {
        let entry = pending_entry.and_then(|pending_entry| pending_entry.claim(record.id, record.agent.as_str()));
        let written = match self.journal.insert(record, request, entry.as_ref()).await {
            Ok(()) => Ok(()),
            Err(InsertError::Refused(e)) => Err(e),
            Err(InsertError::Unknown(e)) => {
                if self.was_inserted(record).await {
                    Ok(())
                } else {
                    Err(e)
                }
            }
        };
        if let (Err(_), Some(pending_entry)) = (&written, pending_entry) {
            pending_entry.unclaim();
        }
        written
    }

    /// Finds out, for as long as it takes, whether a deployment was journalled: one that its client knows as refused must
    /// not run after the next start.
    async fn was_inserted(&self, record: &Record) -> bool {
        let mut retry = Retry::default();
        loop {
            match self.journal.was_inserted(record).await {
                Ok(is_there) => return is_there,
                Err(e) => tracing::error!(cause = e.chain(), "the journal cannot be read: {e}"),
            }
            if retry.wait(&self.shutdown).await.is_err() {
                return false;
            }
        }
    }

    /// Puts an item at the end of its queue and starts the queue if it is idle.
    fn enqueue(self: &Arc<Self>, agent_queue: &Arc<AgentQueue>, queue: &mut agent_queue::Queue, item: Item) {
        if queue.push(item) {
            let (inner, agent_queue) = (self.clone(), agent_queue.clone());
            self.tasks.spawn(async move { inner.run_queue(agent_queue).await });
        }
    }

    async fn run_queue(self: Arc<Self>, agent_queue: Arc<AgentQueue>) {
        while let Some(item) = agent_queue.front().await {
            let job = match item {
                Item::Job(job) => job,
                Item::Lease(lease) => {
                    if self.shutdown.run_until_cancelled(lease.run()).await.is_none() {
                        return agent_queue.clear().await;
                    }
                    agent_queue.pop().await;
                    continue;
                }
            };
            let Ok(progress) = worker::run(&self, &job).await else {
                // Shutting down: the journal has the deployments, and their waiters notice that the channels close.
                return agent_queue.clear().await;
            };
            // First removed from the queue, then answered: the same request after the answer starts a new deployment.
            agent_queue.pop().await;
            job.publish(progress);
        }
        self.queues.forget(agent_queue);
    }
}

/// Returns the names of all steps in their order.
pub fn step_names() -> impl Iterator<Item = &'static str> {
    steps::names()
}

fn shutting_down() -> Error {
    Error::new(Code::Unavailable, "the gateway is shutting down; send the request again")
}

/// Returns the progress that waiters receive for a record.
fn progress_of(record: &Record) -> Progress {
    let log = &record.log;
    let done = match record.state {
        State::Succeeded => Some(Ok(Outcome { pending: log.pending.clone() })),
        // Past the point of no return the deploy has succeeded, whatever cleanup is left.
        State::Running if log.step.has_committed() => Some(Ok(Outcome { pending: log.pending.clone() })),
        State::Failed => Some(Err(Arc::new(record.error()))),
        State::Running | State::Undoing => None,
    };
    Progress {
        tools_done: log.step.has_tools(),
        tools_created: log.tools.iter().flat_map(|t| &t.created).map(|n| n.as_str().to_owned()).collect(),
        image: log.image.clone(),
        wants_build: log.builds,
        made: log.made.map(|(id, number)| RevisionOutcome {
            id,
            number,
            of: log.from.map(|(_, number)| number).filter(|_| log.changes_agent),
            new: log.changes_agent,
        }),
        done,
    }
}

type Watch = watch::Sender<Progress>;
