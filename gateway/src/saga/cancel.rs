//! Cancellation of deployments before their point of no return: they fail and are undone as if their step had failed.

use super::{
    Inner,
    agent_queue::{AgentQueue, Item, Job, QueuedLease},
    cancel_signal::cancelled,
    steps::Position,
    worker,
};
use crate::deploy::{Deployment, DeploymentStatus, Urgency};
use hoistway_model::{Code, DeploymentId, Error, Name, Result};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// The time that the answer to a cancellation waits for the deployment's end.
const UNDO: Duration = Duration::from_secs(4);

/// The cancellations that a waiting lease requested; dropping it withdraws them.
pub struct RequestedCancellations {
    urgency: Urgency,
    jobs: Vec<Arc<Job>>,
    /// Whether another lease was asked to end, which cannot be withdrawn.
    ended_lease: bool,
}

impl RequestedCancellations {
    /// Whether a deployment was among them.
    pub fn any_deployment(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Withdraws the cancellations; returns whether something ends all the same.
    pub fn withdraw(mut self) -> bool {
        self.take_back() || self.ended_lease
    }

    fn take_back(&mut self) -> bool {
        let jobs = std::mem::take(&mut self.jobs);
        jobs.iter().filter(|job| job.cancel.withdraw(self.urgency)).count() > 0
    }
}

impl Drop for RequestedCancellations {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Cancels everything in a queue before `lease`, as far as `urgency` allows.
pub async fn cancel_before(
    agent_queue: &AgentQueue,
    lease: &Arc<QueuedLease>,
    urgency: Urgency,
) -> RequestedCancellations {
    let mut requested = RequestedCancellations { urgency, jobs: Vec::new(), ended_lease: false };
    if urgency == Urgency::Patient {
        return requested;
    }
    for item in agent_queue.lock().await.before(lease) {
        match item {
            Item::Lease(other) => requested.ended_lease |= other.ask_to_end(),
            Item::Job(job) => {
                job.cancel.request(urgency);
                requested.jobs.push(job);
            }
        }
    }
    requested
}

impl Inner {
    /// Cancels one deployment and waits a moment for its end.
    pub(super) async fn cancel(self: &Arc<Self>, id: DeploymentId) -> Result<Deployment> {
        let agent = self.deployment(id).await?.agent;
        let agent_queue = self.queues.of(&agent);
        // A waiting deployment ends at once; a running one is ended by its worker.
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
            job.cancel.now.cancel();
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

/// Returns the error of a lease that was not granted in time, when everything before it goes on.
pub fn in_the_way(agent: &Name) -> Error {
    let message = format!("agent \"{agent}\" is being deployed and nothing was changed; try again when that has ended");
    Error::new(Code::Conflict, message)
}

/// Returns the error of a lease that was not granted in time, when the deployments that it cancelled are still ending.
pub fn still_ending(agent: &Name) -> Error {
    let message = format!(
        "what was under way for agent \"{agent}\" was cancelled and takes long to end, so that nothing else was done yet; \
         send the request again"
    );
    Error::new(Code::DeadlineExceeded, message)
}
