//! One queue for each agent: its deployments, and other changes of it, run in the order they were accepted, those of
//! other agents beside them.

use super::{Watch, cancellation::Cancellation, progress_of, record::Record};
use crate::{
    deploy::{Accepted, Progress, kind::DeploymentKind},
    limits::QuotaGrant,
};
use hoistway_kit::telemetry::Origin;
use hoistway_model::{DeploymentId, Digest, Name};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex as StdMutex, PoisonError},
};
use tokio::sync::{Mutex, MutexGuard, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A deployment that waits or runs.
pub struct Job {
    /// What makes two requests the same.
    pub identity: Digest,
    pub record: Mutex<Record>,
    /// What it is to do, if its turn is now. One that waits has its request in the journal alone.
    work: StdMutex<Option<DeploymentKind>>,
    /// The room that its request takes while it waits.
    waiting: StdMutex<Option<QuotaGrant>>,
    /// The request that it came with, or the start of this process.
    pub origin: Origin,
    /// What asks it to end.
    pub cancellation: Cancellation,
    progress: Watch,
    accepted: (DeploymentId, Vec<String>),
}

impl Job {
    /// One whose turn is now.
    pub fn now(identity: Digest, record: Record, work: DeploymentKind) -> Self {
        Self::new(identity, record, Some(work), None)
    }

    /// One that waits, whose request takes `room`.
    pub fn later(identity: Digest, record: Record, room: Option<QuotaGrant>) -> Self {
        Self::new(identity, record, None, room)
    }

    fn new(identity: Digest, record: Record, work: Option<DeploymentKind>, waiting: Option<QuotaGrant>) -> Self {
        let progress = watch::Sender::new(progress_of(&record));
        let accepted = (record.id, record.warnings.clone());
        let (work, waiting) = (StdMutex::new(work), StdMutex::new(waiting));
        Self {
            identity,
            record: Mutex::new(record),
            work,
            waiting,
            origin: Origin::current(),
            cancellation: Cancellation::default(),
            progress,
            accepted,
        }
    }

    /// Its turn has come: it waits no longer. What it is to do, unless the journal must be asked.
    pub fn begin(&self) -> Option<DeploymentKind> {
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What the caller, or one who joins, gets.
    pub fn accepted(&self) -> Accepted {
        let (id, warnings) = self.accepted.clone();
        Accepted { id, warnings, progress: self.progress.subscribe() }
    }

    pub fn is_done(&self) -> bool {
        self.progress.borrow().done.is_some()
    }

    /// Tells the waiters.
    pub fn publish(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }
}

/// A change of the agent that is no deployment and waits for its turn.
pub struct QueuedLease {
    /// Tells whoever waits that it has begun.
    granted: StdMutex<Option<oneshot::Sender<()>>>,
    ended: CancellationToken,
    unwanted: CancellationToken,
}

impl QueuedLease {
    /// A turn, and what its owner hears when it has begun. It ends with the token `ended`; `unwanted` tells its owner that
    /// somebody asks for that.
    pub fn new(ended: CancellationToken, unwanted: CancellationToken) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { granted: StdMutex::new(Some(sender)), ended, unwanted }, receiver)
    }

    /// Asks its owner to end it. Whether there is anything to end.
    pub fn ask_to_end(&self) -> bool {
        self.unwanted.cancel();
        !self.ended.is_cancelled()
    }

    /// Gives the turn to its owner and waits for its end, which comes at once if the owner has given up.
    pub async fn run(&self) {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if granted.is_some_and(|owner| owner.send(()).is_ok()) {
            self.ended.cancelled().await;
        }
    }
}

/// What waits in a queue.
#[derive(Clone)]
pub enum Item {
    Job(Arc<Job>),
    Lease(Arc<QueuedLease>),
}

/// What waits in a queue, the running one first.
#[derive(Default)]
pub struct Queue {
    items: VecDeque<Item>,
    running: bool,
}

impl Queue {
    /// The deployment after which nothing else waits.
    pub fn last(&self) -> Option<&Arc<Job>> {
        match self.items.back() {
            Some(Item::Job(job)) => Some(job),
            Some(Item::Lease(_)) | None => None,
        }
    }

    /// A deployment in it.
    pub fn job(&self, id: DeploymentId) -> Option<&Arc<Job>> {
        self.items.iter().find_map(|item| match item {
            Item::Job(job) if job.accepted.0 == id => Some(job),
            _ => None,
        })
    }

    /// Takes out a deployment whose turn has not come.
    pub fn take_waiting(&mut self, id: DeploymentId) -> Option<Arc<Job>> {
        let is_wanted = |item: &Item| matches!(item, Item::Job(job) if job.accepted.0 == id);
        let at = self.items.iter().position(is_wanted).filter(|at| *at > 0)?;
        match self.items.remove(at)? {
            Item::Job(job) => Some(job),
            Item::Lease(_) => None,
        }
    }

    /// What comes before a turn.
    pub fn before(&self, turn: &Arc<QueuedLease>) -> Vec<Item> {
        let is_turn = |item: &&Item| matches!(item, Item::Lease(other) if Arc::ptr_eq(other, turn));
        self.items.iter().take_while(|item| !is_turn(item)).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds an item; true when somebody must start the queue.
    pub fn push(&mut self, item: Item) -> bool {
        self.items.push_back(item);
        !std::mem::replace(&mut self.running, true)
    }
}

/// One agent's queue.
pub struct AgentQueue {
    agent: Name,
    /// Held while a deployment is looked up and journalled, so that they are journalled in the order they came. The
    /// queue itself is never locked for longer than a moment: the queue must be able to go on meanwhile.
    pub accepting: Mutex<()>,
    queue: Mutex<Queue>,
}

impl AgentQueue {
    pub async fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().await
    }

    /// What is to run; `None` ends the queue's run.
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

/// All queues that have work.
#[derive(Default)]
pub struct AgentQueues(StdMutex<HashMap<Name, Arc<AgentQueue>>>);

impl AgentQueues {
    pub fn of(&self, agent: &Name) -> Arc<AgentQueue> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Arc::new(AgentQueue { agent: agent.clone(), accepting: Mutex::default(), queue: Mutex::default() });
        queues.entry(agent.clone()).or_insert_with(new).clone()
    }

    /// Forgets a queue that nobody else holds; one that somebody is just using stays for its next job.
    pub fn forget(&self, agent_queue: Arc<AgentQueue>) {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine_and_the_maps = 2;
        if Arc::strong_count(&agent_queue) == mine_and_the_maps {
            queues.remove(&agent_queue.agent);
        }
    }
}
