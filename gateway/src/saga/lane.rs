//! One lane for each agent: its deployments run in the order they were accepted, those of other agents beside them.

use super::{Watch, progress_of};
use crate::{
    api::deploy_request::DeployRequest,
    deploy::{Accepted, Progress},
    store::Record,
};
use hoistway_kit::telemetry::Origin;
use hoistway_model::{Digest, Name};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex as StdMutex, PoisonError},
};
use tokio::sync::{Mutex, MutexGuard, watch};

/// A deployment that waits or runs.
pub struct Job {
    /// What makes two requests the same.
    pub identity: Digest,
    pub record: Mutex<Record>,
    pub request: DeployRequest,
    /// The request that it came with, or the start of this process.
    pub origin: Origin,
    progress: Watch,
    accepted: (hoistway_model::DeploymentId, Vec<String>),
}

impl Job {
    pub fn new(identity: Digest, record: Record, request: DeployRequest) -> Self {
        let progress = watch::Sender::new(progress_of(&record));
        let accepted = (record.id, record.warnings.clone());
        Self { identity, record: Mutex::new(record), request, origin: Origin::current(), progress, accepted }
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

/// The jobs of a lane, the running one first.
#[derive(Default)]
pub struct Queue {
    jobs: VecDeque<Arc<Job>>,
    running: bool,
}

impl Queue {
    pub fn last(&self) -> Option<&Arc<Job>> {
        self.jobs.back()
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Adds a job; true when somebody must start the lane.
    pub fn push(&mut self, job: Arc<Job>) -> bool {
        self.jobs.push_back(job);
        !std::mem::replace(&mut self.running, true)
    }
}

/// One agent's lane.
pub struct Lane {
    agent: Name,
    /// Held while a deployment is looked up and journalled, so that they are journalled in the order they came. The
    /// queue itself is never locked for longer than a moment: the lane must be able to go on meanwhile.
    pub accepting: Mutex<()>,
    queue: Mutex<Queue>,
}

impl Lane {
    pub async fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().await
    }

    /// The job to run; `None` ends the lane's run.
    pub async fn front(&self) -> Option<Arc<Job>> {
        let mut queue = self.queue.lock().await;
        let front = queue.jobs.front().cloned();
        queue.running = front.is_some();
        front
    }

    pub async fn pop(&self) {
        self.queue.lock().await.jobs.pop_front();
    }

    pub async fn clear(&self) {
        self.queue.lock().await.jobs.clear();
    }
}

/// All lanes that have work.
#[derive(Default)]
pub struct Lanes(StdMutex<HashMap<Name, Arc<Lane>>>);

impl Lanes {
    pub fn of(&self, agent: &Name) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Lane { agent: agent.clone(), accepting: Mutex::default(), queue: Mutex::default() });
        lanes.entry(agent.clone()).or_insert_with(new).clone()
    }

    /// Forgets a lane that nobody else holds; one that somebody is just using stays for its next job.
    pub fn forget(&self, lane: Arc<Lane>) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine_and_the_maps = 2;
        if Arc::strong_count(&lane) == mine_and_the_maps {
            lanes.remove(&lane.agent);
        }
    }
}
