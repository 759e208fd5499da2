//! One queue for each agent: its deployments, and other changes of it, run in the order of their acceptance. Queues run
//! concurrently.

use super::{Watch, cancel_signal::CancelSignal, progress_of, record::Record};
use crate::deploy::{Accepted, Progress, kind::DeploymentKind};
use hoistway_kit::quota::QuotaGrant;
use hoistway_model::{DeploymentId, Digest, Name};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex as StdMutex, PoisonError},
};
use tokio::sync::{Mutex, MutexGuard, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A deployment that waits or runs.
pub struct Job {
    /// Equal for equal requests, which share one deployment.
    pub request_digest: Digest,
    pub record: Mutex<Record>,
    /// The work of a job that runs at once. The request of a waiting job is in the journal only.
    work: StdMutex<Option<DeploymentKind>>,
    /// The reservation for its request while it waits.
    waiting: StdMutex<Option<QuotaGrant>>,
    /// The signal that cancels it.
    pub cancel: CancelSignal,
    progress: Watch,
    accepted: (DeploymentId, Vec<String>),
}

impl Job {
    /// Returns a job that runs at once.
    pub fn now(request_digest: Digest, record: Record, work: DeploymentKind) -> Self {
        Self::new(request_digest, record, Some(work), None)
    }

    /// Returns a job that waits; `room` is the reservation for its request.
    pub fn later(request_digest: Digest, record: Record, room: Option<QuotaGrant>) -> Self {
        Self::new(request_digest, record, None, room)
    }

    fn new(request_digest: Digest, record: Record, work: Option<DeploymentKind>, waiting: Option<QuotaGrant>) -> Self {
        let progress = watch::Sender::new(progress_of(&record));
        let accepted = (record.id, record.warnings.clone());
        let (work, waiting) = (StdMutex::new(work), StdMutex::new(waiting));
        Self {
            request_digest,
            record: Mutex::new(record),
            work,
            waiting,
            cancel: CancelSignal::default(),
            progress,
            accepted,
        }
    }

    /// Begins the job and ends its reservation. Returns its work, unless that is in the journal.
    pub fn begin(&self) -> Option<DeploymentKind> {
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the answer to the caller, and to callers that join.
    pub fn accepted(&self) -> Accepted {
        let (id, warnings) = self.accepted.clone();
        Accepted { id, warnings, progress: self.progress.subscribe() }
    }

    pub fn is_done(&self) -> bool {
        self.progress.borrow().done.is_some()
    }

    /// Publishes the progress to the waiting callers.
    pub fn publish(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }
}

/// A change of the agent that is not a deployment, while it waits in the queue.
pub struct QueuedLease {
    /// The sender that grants the lease to its waiting owner.
    granted: StdMutex<Option<oneshot::Sender<()>>>,
    ended: CancellationToken,
    unwanted: CancellationToken,
}

impl QueuedLease {
    /// Returns a lease, and the receiver that its owner waits on for the grant. The lease ends with the token `ended`;
    /// `unwanted` asks its owner to end it.
    pub fn new(ended: CancellationToken, unwanted: CancellationToken) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { granted: StdMutex::new(Some(sender)), ended, unwanted }, receiver)
    }

    /// Asks its owner to end it; returns whether it has not ended yet.
    pub fn ask_to_end(&self) -> bool {
        self.unwanted.cancel();
        !self.ended.is_cancelled()
    }

    /// Grants the lease to its owner and waits for its end, which comes at once when the owner has given up.
    pub async fn run(&self) {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if granted.is_some_and(|owner| owner.send(()).is_ok()) {
            self.ended.cancelled().await;
        }
    }
}

/// An entry of a queue.
#[derive(Clone)]
pub enum Item {
    Job(Arc<Job>),
    Lease(Arc<QueuedLease>),
}

/// The entries of a queue, the running one first.
#[derive(Default)]
pub struct Queue {
    items: VecDeque<Item>,
    running: bool,
}

impl Queue {
    /// Returns the last deployment, if nothing else waits after it.
    pub fn last(&self) -> Option<&Arc<Job>> {
        match self.items.back() {
            Some(Item::Job(job)) => Some(job),
            Some(Item::Lease(_)) | None => None,
        }
    }

    /// Returns the deployment with this id.
    pub fn job(&self, id: DeploymentId) -> Option<&Arc<Job>> {
        self.items.iter().find_map(|item| match item {
            Item::Job(job) if job.accepted.0 == id => Some(job),
            _ => None,
        })
    }

    /// Removes a deployment that has not begun.
    pub fn take_waiting(&mut self, id: DeploymentId) -> Option<Arc<Job>> {
        let is_wanted = |item: &Item| matches!(item, Item::Job(job) if job.accepted.0 == id);
        let at = self.items.iter().position(is_wanted).filter(|at| *at > 0)?;
        match self.items.remove(at)? {
            Item::Job(job) => Some(job),
            Item::Lease(_) => None,
        }
    }

    /// Returns the entries before a lease.
    pub fn before(&self, lease: &Arc<QueuedLease>) -> Vec<Item> {
        let is_lease = |item: &&Item| matches!(item, Item::Lease(other) if Arc::ptr_eq(other, lease));
        self.items.iter().take_while(|item| !is_lease(item)).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds an item; returns whether the caller must start the queue.
    pub fn push(&mut self, item: Item) -> bool {
        self.items.push_back(item);
        !std::mem::replace(&mut self.running, true)
    }
}

/// One agent's queue.
pub struct AgentQueue {
    agent: Name,
    /// Locked while a deployment is looked up and journalled, so that deployments are journalled in their order of
    /// arrival. The queue itself is locked only briefly, so that it can go on meanwhile.
    pub accepting: Mutex<()>,
    queue: Mutex<Queue>,
}

impl AgentQueue {
    pub async fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().await
    }

    /// Returns the item to run; `None` ends the queue's run.
    pub async fn front(&self) -> Option<Item> {
        let mut queue = self.queue.lock().await;
        let front = queue.items.front().cloned();
        queue.running = front.is_some();
        front
    }

    pub async fn pop(&self) {
        self.queue.lock().await.items.pop_front();
    }

    pub async fn clear(&self) {
        self.queue.lock().await.items.clear();
    }
}

/// The queues that have work.
#[derive(Default)]
pub struct AgentQueues(StdMutex<HashMap<Name, Arc<AgentQueue>>>);

impl AgentQueues {
    pub fn of(&self, agent: &Name) -> Arc<AgentQueue> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Arc::new(AgentQueue { agent: agent.clone(), accepting: Mutex::default(), queue: Mutex::default() });
        queues.entry(agent.clone()).or_insert_with(new).clone()
    }

    /// Removes a queue that is not in use elsewhere; a queue in use stays for its next job.
    pub fn forget(&self, agent_queue: Arc<AgentQueue>) {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine_and_the_maps = 2;
        if Arc::strong_count(&agent_queue) == mine_and_the_maps {
            queues.remove(&agent_queue.agent);
        }
    }
}
