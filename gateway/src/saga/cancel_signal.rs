//! The signal that cancels one deployment before its point of no return. [`cancel`](super::cancel) sends it, the worker
//! follows it.

use super::steps::Position;
use crate::deploy::Urgency;
use hoistway_model::{Code, Error};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Cancels one deployment.
#[derive(Debug, Default)]
pub struct CancelSignal {
    /// Ends it in any step before the switch.
    pub now: CancellationToken,
    requests: watch::Sender<CancelRequests>,
}

/// The cancellations that waiting leases request. A lease that no longer waits withdraws its request, which has no
/// effect once it was followed.
#[derive(Debug, Default)]
struct CancelRequests {
    /// The requests to end it in any step before the switch.
    end: usize,
    /// The requests to end it while it starts the agent.
    no_start: usize,
    /// The reason of its end, once a request was followed.
    followed: Option<Followed>,
}

#[derive(Debug, Clone, Copy)]
enum Followed {
    End,
    NoStart,
}

impl CancelRequests {
    fn of(&mut self, urgency: Urgency) -> Option<&mut usize> {
        match urgency {
            Urgency::Patient => None,
            Urgency::EndStarts => Some(&mut self.no_start),
            Urgency::Cancel => Some(&mut self.end),
        }
    }

    /// Returns the request that a step has to follow.
    fn at(&self, step: Position) -> Option<Followed> {
        let end = (self.end > 0).then_some(Followed::End);
        let no_start = || (self.no_start > 0 && step.yields_to_stop()).then_some(Followed::NoStart);
        self.followed.or(end).or_else(no_start)
    }
}

impl CancelSignal {
    /// Returns the error that ends `step`, if a request applies to it. Marks the request as followed.
    pub fn at(&self, step: Position) -> Option<Error> {
        if step.may_have_committed() {
            // The switch may have happened: the deployment can only go on.
            return None;
        }
        if self.now.is_cancelled() {
            return Some(cancelled());
        }
        // Under the same lock as a withdrawal, so that a withdrawal and a step agree on whether the request was
        // followed.
        let mut why = None;
        self.requests.send_if_modified(|requests| {
            why = requests.at(step);
            requests.followed = why;
            false
        });
        why.map(|why| match why {
            Followed::End => cancelled(),
            Followed::NoStart => {
                Error::new(Code::Cancelled, "the deployment was cancelled: the agent was stopped while it started")
            }
        })
    }

    /// Waits until a request applies to `step`, and returns the error that ends it.
    pub async fn of(&self, step: Position) -> Error {
        let mut requests = self.requests.subscribe();
        loop {
            if let Some(why) = self.at(step) {
                return why;
            }
            if step.may_have_committed() {
                return std::future::pending().await;
            }
            // This signal holds the sender, so the channel is never closed.
            let requested = async { drop(requests.wait_for(|requests| requests.at(step).is_some()).await) };
            tokio::select! {
                () = self.now.cancelled() => {}
                () = requested => {}
            }
        }
    }

    /// Requests a signal.
    pub fn request(&self, urgency: Urgency) {
        self.requests.send_modify(|requests| {
            if let Some(count) = requests.of(urgency) {
                *count += 1;
            }
        });
    }

    /// Withdraws a request; returns whether a request was followed before.
    pub fn withdraw(&self, urgency: Urgency) -> bool {
        let mut followed = false;
        self.requests.send_if_modified(|requests| {
            if let Some(count) = requests.of(urgency) {
                *count = count.saturating_sub(1);
            }
            followed = requests.followed.is_some();
            false
        });
        followed
    }
}

/// Returns the failure of a cancelled deployment.
pub fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the deployment was cancelled")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(step: &str) -> Position {
        Position::named(step).unwrap()
    }

    #[test]
    fn a_withdrawn_request_has_no_effect_unless_it_was_followed() {
        let signal = CancelSignal::default();
        signal.request(Urgency::EndStarts);
        assert!(signal.at(at("build")).is_none());
        assert!(!signal.withdraw(Urgency::EndStarts));
        assert!(signal.at(at("start")).is_none());

        signal.request(Urgency::EndStarts);
        assert!(signal.at(at("switch")).is_none());
        assert!(signal.at(at("start")).is_some_and(|why| why.message.contains("was stopped while it started")));
        assert!(signal.withdraw(Urgency::EndStarts));
        // A followed request is final.
        assert!(signal.at(at("start")).is_some());
    }

    #[test]
    fn a_deletion_ends_every_step_before_the_switch() {
        let signal = CancelSignal::default();
        signal.request(Urgency::Cancel);
        signal.request(Urgency::Cancel);
        assert!(!signal.withdraw(Urgency::Cancel));
        assert!(signal.at(at("switch")).is_none() && signal.at(at("plan")).is_some());
        assert!(signal.withdraw(Urgency::Cancel));
    }

    #[tokio::test]
    async fn a_waiting_step_learns_of_a_request() {
        let signal = CancelSignal::default();
        let requesting = async {
            tokio::task::yield_now().await;
            signal.request(Urgency::EndStarts);
        };
        let (why, ()) = tokio::join!(signal.of(at("start")), requesting);
        assert_eq!(why.code, Code::Cancelled);
    }
}
