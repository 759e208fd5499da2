//! Ending deployments before their point of no return because somebody asks for it: they fail and are undone as if their
//! step had failed.

use super::{
    Inner,
    agent_queue::{AgentQueue, Item, Job, QueuedLease},
    cancellation::cancelled,
    steps::Position,
    worker,
};
use crate::deploy::{Deployment, DeploymentStatus, Urgency};
use hoistway_model::{Code, DeploymentId, Error, Name, Result};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the answer to a cancellation waits for the deployment's end.
const UNDO: Duration = Duration::from_secs(4);

/// What was asked of those that are in the way of a turn; taken back when it is dropped.
pub struct Hurried {
    urgency: Urgency,
    jobs: Vec<Arc<Job>>,
    /// Whether another turn was asked to end, which cannot be taken back.
    asked_turn: bool,
}

impl Hurried {
    /// Whether a deployment was among them.
    pub fn any_deployment(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Takes back what was asked. Whether something ends all the same.
    pub fn withdraw(mut self) -> bool {
        self.take_back() || self.asked_turn
    }

    fn take_back(&mut self) -> bool {
        let jobs = std::mem::take(&mut self.jobs);
        jobs.iter().filter(|job| job.cancellation.withdraw(self.urgency)).count() > 0
    }
}

impl Drop for Hurried {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Asks everything in a queue before `turn` to end, as far as `urgency` goes.
pub async fn hurry(agent_queue: &AgentQueue, turn: &Arc<QueuedLease>, urgency: Urgency) -> Hurried {
    let mut hurried = Hurried { urgency, jobs: Vec::new(), asked_turn: false };
    if urgency == Urgency::Patient {
        return hurried;
    }
    for item in agent_queue.lock().await.before(turn) {
        match item {
            Item::Lease(other) => hurried.asked_turn |= other.ask_to_end(),
            Item::Job(job) => {
                job.cancellation.wish(urgency);
                hurried.jobs.push(job);
            }
        }
    }
    hurried
}

impl Inner {
    /// Cancels one deployment and waits a moment for its end.
    pub(super) async fn cancel(self: &Arc<Self>, id: DeploymentId) -> Result<Deployment> {
        let agent = self.deployment(id).await?.agent;
        let agent_queue = self.queues.of(&agent);
        // One that waits ends here and now; one that runs is ended by whoever runs it.
        let (waiting, running) = {
            let mut queue = agent_queue.lock().await;
            let waiting = queue.take_waiting(id);
            let running = queue.job(id).cloned();
            (waiting, running)
        };
        self.queues.forget(agent_queue);
        if let Some(job) = waiting {
            let mut record = job.record.lock().await;
            worker::fail(self, &mut record, &cancelled()).await.map_err(|_| super::shutting_down())?;
            job.publish(super::progress_of(&record));
        } else if let Some(job) = running {
            job.cancellation.now.cancel();
            let mut progress = job.accepted().progress;
            let _ = timeout(UNDO, progress.wait_for(|progress| progress.done.is_some())).await;
        } else {
            return Err(not_cancelled(&self.deployment(id).await?));
        }
        let deployment = self.deployment(id).await?;
        match deployment.status {
            DeploymentStatus::Succeeded => Err(not_cancelled(&deployment)),
            DeploymentStatus::Running if has_switched(&deployment) => Err(not_cancelled(&deployment)),
            _ => Ok(deployment),
        }
    }
}

fn has_switched(deployment: &Deployment) -> bool {
    let last = deployment.steps.last().and_then(|step| Position::named(step.step));
    last.is_some_and(Position::may_have_committed)
}

fn not_cancelled(deployment: &Deployment) -> Error {
    let why = match deployment.status {
        DeploymentStatus::Succeeded | DeploymentStatus::Failed => "has ended",
        _ if has_switched(deployment) => "is past its point of no return",
        _ => "is just beginning or ending; try again",
    };
    let (id, status) = (deployment.id, deployment.status.as_str());
    Error::new(Code::Conflict, format!("deployment {id} cannot be cancelled: it {why} ({status})"))
}

/// What did not end in time for a turn, and goes on.
pub fn in_the_way(agent: &Name) -> Error {
    let message = format!("agent \"{agent}\" is being deployed and nothing was changed; try again when that has ended");
    Error::new(Code::Conflict, message)
}

/// What was cancelled for a turn and had not ended when the wait for it was over.
pub fn still_ending(agent: &Name) -> Error {
    let message = format!(
        "what was under way for agent \"{agent}\" was cancelled and takes long to end, so that nothing else was done yet; \
         send the request again"
    );
    Error::new(Code::DeadlineExceeded, message)
}
