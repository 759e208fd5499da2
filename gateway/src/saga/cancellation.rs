//! What asks a deployment to end before its point of no return.

use super::steps::Position;
use crate::deploy::Urgency;
use hoistway_model::{Code, Error};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What asks one deployment to end.
#[derive(Debug, Default)]
pub struct Cancellation {
    /// Ends it in any step before the switch.
    pub now: CancellationToken,
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
    fn at(&self, step: Position) -> Option<Followed> {
        let end = (self.end > 0).then_some(Followed::End);
        let no_start = || (self.no_start > 0 && step.yields_to_stop()).then_some(Followed::NoStart);
        self.followed.or(end).or_else(no_start)
    }
}

impl Cancellation {
    /// Why the step is not wanted, if so. Whoever wished that hears that it was followed.
    pub fn at(&self, step: Position) -> Option<Error> {
        if step.may_have_committed() {
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
    pub async fn of(&self, step: Position) -> Error {
        let mut wishes = self.wishes.subscribe();
        loop {
            if let Some(why) = self.at(step) {
                return why;
            }
            if step.may_have_committed() {
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

    /// Adds a wish.
    pub fn wish(&self, urgency: Urgency) {
        self.wishes.send_modify(|wishes| {
            if let Some(count) = wishes.of(urgency) {
                *count += 1;
            }
        });
    }

    /// Takes a wish back, and says whether one was followed before.
    pub fn withdraw(&self, urgency: Urgency) -> bool {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(step: &str) -> Position {
        Position::named(step).unwrap()
    }

    #[test]
    fn a_wish_is_void_once_it_is_withdrawn_unless_it_was_followed() {
        let cancellation = Cancellation::default();
        cancellation.wish(Urgency::EndStarts);
        assert!(cancellation.at(at("build")).is_none());
        assert!(!cancellation.withdraw(Urgency::EndStarts));
        assert!(cancellation.at(at("start")).is_none());

        cancellation.wish(Urgency::EndStarts);
        assert!(cancellation.at(at("switch")).is_none());
        assert!(cancellation.at(at("start")).is_some_and(|why| why.message.contains("was stopped while it started")));
        assert!(cancellation.withdraw(Urgency::EndStarts));
        // What has begun to end does not change its mind.
        assert!(cancellation.at(at("start")).is_some());
    }

    #[test]
    fn a_deletion_ends_every_step_before_the_switch() {
        let cancellation = Cancellation::default();
        cancellation.wish(Urgency::Cancel);
        cancellation.wish(Urgency::Cancel);
        assert!(!cancellation.withdraw(Urgency::Cancel));
        assert!(cancellation.at(at("switch")).is_none() && cancellation.at(at("plan")).is_some());
        assert!(cancellation.withdraw(Urgency::Cancel));
    }

    #[tokio::test]
    async fn who_waits_for_a_wish_hears_of_it() {
        let cancellation = Cancellation::default();
        let wishing = async {
            tokio::task::yield_now().await;
            cancellation.wish(Urgency::EndStarts);
        };
        let (why, ()) = tokio::join!(cancellation.of(at("start")), wishing);
        assert_eq!(why.code, Code::Cancelled);
    }
}
