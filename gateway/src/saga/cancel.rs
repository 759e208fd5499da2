//! Ending deployments before their point of no return because somebody asks for it: they fail and are undone as if their
//! step had failed.

use super::{
    Inner,
    lane::{Item, Job, Lane, Turn},
    log::Step,
    worker,
};
use crate::deploy::{Deployment, DeploymentStatus, Urgency};
use hoistway_model::{Code, DeploymentId, Error, Name, Result};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long the answer to a cancellation waits for the deployment's end.
const UNDO: Duration = Duration::from_secs(4);

/// What asks one deployment to end.
#[derive(Debug)]
pub struct Cancellation {
    /// Ends it in any step before the switch.
    now: CancellationToken,
    /// How many wish that its start does not go on. The wish of whoever no longer waits is void.
    no_start: watch::Sender<usize>,
}

impl Default for Cancellation {
    fn default() -> Self {
        Self { now: CancellationToken::new(), no_start: watch::Sender::new(0) }
    }
}

impl Cancellation {
    /// Whether it is to end in any case.
    pub fn is_cancelled(&self) -> bool {
        self.now.is_cancelled()
    }

    /// Waits until the step is not wanted any more, and tells why.
    pub async fn of(&self, step: Step) -> Error {
        let mut wishes = self.no_start.subscribe();
        let no_start = async {
            if step != Step::Start || wishes.wait_for(|wishes| *wishes > 0).await.is_err() {
                std::future::pending().await
            }
        };
        if step >= Step::Switch {
            // It may have happened: from here on there is only forward.
            return std::future::pending().await;
        }
        tokio::select! {
            () = self.now.cancelled() => cancelled(),
            () = no_start => {
                Error::new(Code::Cancelled, "the deployment was cancelled: the agent was stopped while it started")
            }
        }
    }
}

/// How a deployment fails that was cancelled.
pub fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the deployment was cancelled")
}

/// What was asked of those that are in the way of a turn; taken back when it is dropped.
#[derive(Default)]
pub struct Hurried {
    /// Whether a deployment was among them.
    pub any: bool,
    unwanted_starts: Vec<Arc<Job>>,
}

impl Drop for Hurried {
    fn drop(&mut self) {
        for job in &self.unwanted_starts {
            job.cancellation.no_start.send_modify(|wishes| *wishes -= 1);
        }
    }
}

/// Asks everything in a lane before `turn` to end, as far as `urgency` goes.
pub async fn hurry(lane: &Lane, turn: &Arc<Turn>, urgency: Urgency) -> Hurried {
    let mut hurried = Hurried::default();
    for item in lane.lock().await.before(turn) {
        match (urgency, item) {
            (Urgency::Patient, _) => {}
            (_, Item::Turn(other)) => other.ask_to_end(),
            (Urgency::EndStarts, Item::Job(job)) => {
                job.cancellation.no_start.send_modify(|wishes| *wishes += 1);
                hurried.unwanted_starts.push(job);
                hurried.any = true;
            }
            (Urgency::Cancel, Item::Job(job)) => {
                job.cancellation.now.cancel();
                hurried.any = true;
            }
        }
    }
    hurried
}

impl Inner {
    /// Cancels one deployment and waits a moment for its end.
    pub(super) async fn cancel(self: &Arc<Self>, id: DeploymentId) -> Result<Deployment> {
        let agent = self.deployment(id).await?.agent;
        let lane = self.lanes.of(&agent);
        // One that waits ends here and now; one that runs is ended by whoever runs it.
        let (waiting, running) = {
            let mut queue = lane.lock().await;
            let waiting = queue.take_waiting(id);
            let running = queue.job(id).cloned();
            (waiting, running)
        };
        self.lanes.forget(lane);
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
    let last = deployment.steps.last().map(|step| step.step);
    [Step::Switch, Step::Bind].iter().any(|step| last == Some(step.as_str()))
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

/// What did not end in time for a turn.
pub fn in_the_way(agent: &Name) -> Error {
    let message =
        format!("agent \"{agent}\" is being deployed and nothing else was done; try again when that has ended");
    Error::new(Code::Conflict, message)
}
