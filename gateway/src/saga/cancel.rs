//! Ending deployments before their point of no return because somebody asks for it: they fail and are undone as if their
//! step had failed.

use super::{Inner, lane::Item, lane::Job, lane::Lane, log::State, log::Step};
use crate::deploy::{Deployment, DeploymentStatus, Urgency};
use hoistway_kit::time::now_ms;
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
            () = self.now.cancelled() => cancelled("the deployment was cancelled"),
            () = no_start => cancelled("the deployment was cancelled: the agent was stopped while it started"),
        }
    }
}

/// How a deployment fails that was cancelled.
pub fn cancelled(text: &str) -> Error {
    Error::new(Code::Cancelled, text)
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
pub async fn hurry(lane: &Lane, turn: &Arc<super::lane::Turn>, urgency: Urgency) -> Hurried {
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
            record.fail(&cancelled("the deployment was cancelled"));
            record.finish(State::Failed, now_ms());
            self.journal.update(&record).await?;
            job.publish(super::progress_of(&record));
        } else if let Some(job) = running {
            job.cancellation.now.cancel();
            let mut progress = job.accepted().progress;
            let ended = timeout(UNDO, progress.wait_for(|progress| progress.done.is_some())).await;
            drop(ended);
        } else {
            return Err(has_ended(&self.deployment(id).await?));
        }
        let deployment = self.deployment(id).await?;
        match deployment.status {
            DeploymentStatus::Succeeded => Err(has_ended(&deployment)),
            _ => Ok(deployment),
        }
    }
}

fn has_ended(deployment: &Deployment) -> Error {
    let text =
        format!("deployment {} cannot be cancelled: it has ended ({})", deployment.id, deployment.status.as_str());
    Error::new(Code::Conflict, text)
}

/// What did not end in time for a turn.
pub fn in_the_way(agent: &Name) -> Error {
    let message =
        format!("agent \"{agent}\" is being deployed and nothing else was done; try again when that has ended");
    Error::new(Code::Conflict, message)
}
