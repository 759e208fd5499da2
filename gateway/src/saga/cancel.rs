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
#[derive(Debug, Default)]
pub struct Cancellation {
    /// Ends it in any step before the switch.
    now: CancellationToken,
    wishes: watch::Sender<Wishes>,
}

/// What those want who wait for the deployment's end. The wish of whoever no longer waits is void, unless it was followed.
#[derive(Debug, Default)]
struct Wishes {
    /// How many wish that it ends in any step before the switch.
    end: usize,
    /// How many wish that its start does not go on.
    no_start: usize,
    /// Why it ends, once a wish was followed.
    followed: Option<Followed>,
}

#[derive(Debug, Clone, Copy)]
enum Followed {
    End,
    NoStart,
}

impl Wishes {
    fn of(&mut self, urgency: Urgency) -> Option<&mut usize> {
        match urgency {
            Urgency::Patient => None,
            Urgency::EndStarts => Some(&mut self.no_start),
            Urgency::Cancel => Some(&mut self.end),
        }
    }

    /// Which of them a step has to follow.
    fn at(&self, step: Step) -> Option<Followed> {
        let end = (self.end > 0).then_some(Followed::End);
        let no_start = || (self.no_start > 0 && step == Step::Start).then_some(Followed::NoStart);
        self.followed.or(end).or_else(no_start)
    }
}

impl Cancellation {
    /// Why the step is not wanted, if so. Whoever wished that hears that it was followed.
    pub fn at(&self, step: Step) -> Option<Error> {
        if step >= Step::Switch {
            // It may have happened: from here on there is only forward.
            return None;
        }
        if self.now.is_cancelled() {
            return Some(cancelled());
        }
        // Under one lock with its withdrawal, so that nobody who has withdrawn a wish is wrong about it.
        let mut why = None;
        self.wishes.send_if_modified(|wishes| {
            why = wishes.at(step);
            wishes.followed = why;
            false
        });
        why.map(|why| match why {
            Followed::End => cancelled(),
            Followed::NoStart => {
                Error::new(Code::Cancelled, "the deployment was cancelled: the agent was stopped while it started")
            }
        })
    }

    /// Waits until the step is not wanted any more, and tells why.
    pub async fn of(&self, step: Step) -> Error {
        let mut wishes = self.wishes.subscribe();
        loop {
            if let Some(why) = self.at(step) {
                return why;
            }
            if step >= Step::Switch {
                return std::future::pending().await;
            }
            // The sender is this one's own, so that there always is one.
            let wished = async { drop(wishes.wait_for(|wishes| wishes.at(step).is_some()).await) };
            tokio::select! {
                () = self.now.cancelled() => {}
                () = wished => {}
            }
        }
    }

    fn wish(&self, urgency: Urgency) {
        self.wishes.send_modify(|wishes| {
            if let Some(count) = wishes.of(urgency) {
                *count += 1;
            }
        });
    }

    /// Takes a wish back, and says whether one was followed before.
    fn withdraw(&self, urgency: Urgency) -> bool {
        let mut followed = false;
        self.wishes.send_if_modified(|wishes| {
            if let Some(count) = wishes.of(urgency) {
                *count = count.saturating_sub(1);
            }
            followed = wishes.followed.is_some();
            false
        });
        followed
    }
}

/// How a deployment fails that was cancelled.
pub fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the deployment was cancelled")
}

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

/// Asks everything in a lane before `turn` to end, as far as `urgency` goes.
pub async fn hurry(lane: &Lane, turn: &Arc<Turn>, urgency: Urgency) -> Hurried {
    let mut hurried = Hurried { urgency, jobs: Vec::new(), asked_turn: false };
    if urgency == Urgency::Patient {
        return hurried;
    }
    for item in lane.lock().await.before(turn) {
        match item {
            Item::Turn(other) => hurried.asked_turn |= other.ask_to_end(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_void_once_it_is_withdrawn_unless_it_was_followed() {
        let cancellation = Cancellation::default();
        cancellation.wish(Urgency::EndStarts);
        assert!(cancellation.at(Step::Build).is_none());
        assert!(!cancellation.withdraw(Urgency::EndStarts));
        assert!(cancellation.at(Step::Start).is_none());

        cancellation.wish(Urgency::EndStarts);
        assert!(cancellation.at(Step::Switch).is_none());
        assert!(cancellation.at(Step::Start).is_some_and(|why| why.message.contains("was stopped while it started")));
        assert!(cancellation.withdraw(Urgency::EndStarts));
        // What has begun to end does not change its mind.
        assert!(cancellation.at(Step::Start).is_some());
    }

    #[test]
    fn a_deletion_ends_every_step_before_the_switch() {
        let cancellation = Cancellation::default();
        cancellation.wish(Urgency::Cancel);
        cancellation.wish(Urgency::Cancel);
        assert!(!cancellation.withdraw(Urgency::Cancel));
        assert!(cancellation.at(Step::Switch).is_none() && cancellation.at(Step::Plan).is_some());
        assert!(cancellation.withdraw(Urgency::Cancel));
    }

    #[tokio::test]
    async fn who_waits_for_a_wish_hears_of_it() {
        let cancellation = Cancellation::default();
        let wishing = async {
            tokio::task::yield_now().await;
            cancellation.wish(Urgency::EndStarts);
        };
        let (why, ()) = tokio::join!(cancellation.of(Step::Start), wishing);
        assert_eq!(why.code, Code::Cancelled);
    }
}
