//! The deploy saga: a journal of intents and outputs, steps that can be repeated, and undo of exactly what a deploy
//! made. The laws are in docs/architecture.md.
//!
//! [`Saga::accept`] writes a deployment into the journal and puts it into its agent's lane; a lane runs its
//! deployments one after another, lanes run beside each other. Whatever happens to this process, [`Saga::recover`]
//! goes on from the journal.

mod lane;
pub(crate) mod log;
mod plan;
mod steps;
mod worker;

use crate::{
    api::deploy_request::DeployRequest,
    audit::{self, Ticket},
    deploy::{Accepted, Deployer, Deployment, DeploymentQuery, Outcome, Progress},
    store::{Journal, Record},
};
use async_trait::async_trait;
use hoistway_kit::{secrets::MasterKey, telemetry::Origin, time::now_ms};
use hoistway_model::{Code, DeploymentId, Digest, Error, Result};
use lane::{Job, Lane, Lanes};
use log::{Log, State, Step};
use std::{sync::Arc, time::Duration};
pub use steps::Services;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bounds of the saga.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long one deployment may take before its point of no return, its waiting included.
    pub deadline: Duration,
    /// How many deployments of one agent may wait or run.
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
    lanes: Lanes,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Saga {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Saga")
    }
}

impl Saga {
    /// A saga over a journal. Nothing runs before [`Saga::recover`] or [`Saga::accept`].
    pub fn new(
        services: Services,
        journal: Journal,
        key: MasterKey,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Self {
        let (lanes, tasks) = (Lanes::default(), TaskTracker::new());
        Self(Arc::new(Inner { services, journal, key, limits, lanes, shutdown, tasks }))
    }

    /// Takes up every deployment that an earlier process left unfinished, in the order they were accepted.
    pub async fn recover(&self) -> Result<usize> {
        let open = self.0.journal.unfinished().await?;
        let count = open.len();
        for mut record in open {
            let request = match self.0.unseal(&record) {
                Ok(request) => request,
                Err(e) => {
                    // One that cannot be read must not keep the others from going on.
                    tracing::error!(deployment = %record.id, cause = e.chain(), "a journalled request is unreadable");
                    record.fail(&Error::new(Code::Internal, "its journalled request cannot be read; deploy again"));
                    record.finish(State::Failed, now_ms());
                    self.0.journal.update(&record).await?;
                    continue;
                }
            };
            let lane = self.0.lanes.of(&record.agent);
            let mut queue = lane.lock().await;
            let job = Job::new(self.0.identity(&request), record, request);
            self.0.enqueue(&lane, &mut queue, Arc::new(job));
        }
        Ok(count)
    }

    /// Waits until nothing of this saga runs any more; call it after the shutdown token was cancelled.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

#[async_trait]
impl Deployer for Saga {
    async fn accept(&self, request: DeployRequest, strict: bool) -> Result<Accepted> {
        let inner = self.0.clone();
        let ticket = audit::current();
        // A task of its own: a client that hangs up must not leave a deployment that is journalled but not running.
        self.0
            .tasks
            .spawn(Origin::current().scope(async move { inner.accept(request, strict, ticket).await }))
            .await
            .map_err(|e| Error::internal("accepting the deployment", e))?
    }

    async fn get(&self, id: DeploymentId) -> Result<Deployment> {
        self.0.journal.get(id).await?.map(Record::into_public).ok_or_else(|| Error::not_found("deployment", id))
    }

    async fn list(&self, query: DeploymentQuery) -> Result<Vec<Deployment>> {
        Ok(self.0.journal.list(&query).await?.into_iter().map(Record::into_public).collect())
    }
}

impl Inner {
    async fn accept(
        self: Arc<Self>,
        request: DeployRequest,
        strict: bool,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Accepted> {
        if self.shutdown.is_cancelled() {
            return Err(Error::new(Code::Unavailable, "the gateway is shutting down; send the request again"));
        }
        let identity = self.identity(&request);
        let lane = self.lanes.of(&request.agent);
        let accepted = self.accept_into(&lane, identity, request, strict, ticket).await;
        self.lanes.forget(lane);
        accepted
    }

    async fn accept_into(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        identity: Digest,
        request: DeployRequest,
        strict: bool,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Accepted> {
        let _turn = lane.accepting.lock().await;
        // Nobody else can add a job from here on, so an idle lane stays idle until this one is pushed.
        let idle = {
            let queue = lane.lock().await;
            if let Some(last) = queue.last().filter(|last| last.identity == identity && !last.is_done()) {
                return Ok(last.accepted());
            }
            if queue.len() >= self.limits.queue {
                let text = format!(
                    "{} deployments of agent \"{}\" are waiting already, the limit (setting deploy_queue) is {}",
                    queue.len(),
                    request.agent,
                    self.limits.queue
                );
                return Err(Error::new(Code::ResourceExhausted, text));
            }
            queue.is_empty()
        };
        let mut findings = plan::look_up(&self.services, &request).await.map_err(plan::not_ready)?;
        let warnings = plan::check(&findings, &request, strict)?;
        let now = now_ms();
        let mut log = Log::accepted(request.wants_build(), now);
        let mut failure = None;
        if idle {
            match plan::pin_image(&self.services, &request, &mut findings).await {
                Ok(()) => plan::decide(&self.key, &request, findings, &mut log, now),
                Err(e) => failure = Some(e),
            }
        }
        let mut record = Record::new(request.agent.clone(), log, warnings, now);
        record.request = Some(self.seal(record.id, &request)?);
        if let Some(error) = failure {
            record.fail(&error);
            record.finish(State::Failed, now_ms());
            self.journalled(&record, ticket.as_deref()).await?;
            return Err(error);
        }
        if record.log.step == Step::Done {
            record.finish(State::Succeeded, now_ms());
        }
        self.journalled(&record, ticket.as_deref()).await?;
        let job = Arc::new(Job::new(identity, record, request));
        if !job.is_done() {
            self.enqueue(lane, &mut *lane.lock().await, job.clone());
        }
        Ok(job.accepted())
    }

    /// Writes a new deployment, and with it who asked for it.
    async fn journalled(&self, record: &Record, ticket: Option<&Ticket>) -> Result<()> {
        let entry = ticket.and_then(|ticket| ticket.claim(record.id, record.agent.as_str()));
        let written = self.journal.insert(record, entry).await;
        if let (Err(_), Some(ticket)) = (&written, ticket) {
            ticket.unclaim();
        }
        written
    }

    /// Puts a job at the end of its lane and starts the lane if it stands.
    fn enqueue(self: &Arc<Self>, lane: &Arc<Lane>, queue: &mut lane::Queue, job: Arc<Job>) {
        if queue.push(job) {
            let (inner, lane) = (self.clone(), lane.clone());
            self.tasks.spawn(async move { inner.run_lane(lane).await });
        }
    }

    async fn run_lane(self: Arc<Self>, lane: Arc<Lane>) {
        while let Some(job) = lane.front().await {
            let Ok(progress) = job.origin.clone().scope(worker::run(&self, &job)).await else {
                // Shutting down: the journal has them, and whoever waits for them is told by their going.
                return lane.clear().await;
            };
            // First out of the lane, then the answer: who sends the same again after it gets a deployment of its own.
            lane.pop().await;
            job.publish(progress);
        }
        self.lanes.forget(lane);
    }

    /// What makes two requests the same.
    fn identity(&self, request: &DeployRequest) -> Digest {
        self.key.fingerprint("deploy-request", &request.canonical())
    }

    fn seal(&self, id: DeploymentId, request: &DeployRequest) -> Result<Vec<u8>> {
        self.key.seal(&seal_context(id), &request.to_journal()?)
    }

    fn unseal(&self, record: &Record) -> Result<DeployRequest> {
        let sealed = record.request.as_deref().unwrap_or_default();
        DeployRequest::from_journal(&self.key.open(&seal_context(record.id), sealed)?)
    }
}

fn seal_context(id: DeploymentId) -> String {
    format!("deployment/{id}")
}

/// What waiters see of a record.
fn progress_of(record: &Record) -> Progress {
    let log = &record.log;
    let done = match record.state {
        State::Succeeded => Some(Ok(Outcome { pending: log.pending.clone() })),
        // Past the point of no return the deploy has succeeded, whatever is left to tidy.
        State::Running if log.step > Step::Switch => Some(Ok(Outcome { pending: log.pending.clone() })),
        State::Failed => Some(Err(Arc::new(record.error()))),
        State::Running | State::Undoing => None,
    };
    Progress {
        tools_done: log.step > Step::Tools,
        tools_created: log.tools.iter().flat_map(|t| &t.created).map(|n| n.as_str().to_owned()).collect(),
        image: log.image.clone().map(Into::into),
        wants_build: log.builds,
        done,
    }
}

type Watch = watch::Sender<Progress>;
