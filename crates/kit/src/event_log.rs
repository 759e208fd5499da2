//! An event log with many followers: it retains the newest events, a slow or returning follower resumes at its
//! position, and one that is too far behind is notified of the gap. Followers have no queues, so a slow reader costs
//! nothing.

use crate::time::now_ms;
use futures_util::{Stream, stream};
use hoistway_model::agent::EventPosition;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The newest events of one source.
#[derive(Debug)]
pub struct Ring<T> {
    epoch: u64,
    capacity: usize,
    kept: Mutex<Kept<T>>,
    /// Wakes followers.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Kept<T> {
    /// The sequence number of the newest event; zero before the first.
    last: u64,
    items: VecDeque<Arc<T>>,
    closed: bool,
}

/// An item of a follower's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<T> {
    /// An event and its place.
    Item(EventPosition, Arc<T>),
    /// Events before the next one, or before future ones, were discarded. The place is that of the last discarded
    /// event.
    Lost(EventPosition),
}

impl<T: Send + Sync + 'static> Ring<T> {
    /// Creates an empty ring of this capacity. Its epoch is the time, so that places go on rising over restarts.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            epoch: u64::try_from(now_ms()).unwrap_or(0),
            capacity: capacity.max(1),
            kept: Mutex::new(Kept { last: 0, items: VecDeque::new(), closed: false }),
            changed: watch::Sender::new(()),
        })
    }

    /// Appends the event that is built from its place.
    pub fn push(&self, event: impl FnOnce(EventPosition) -> T) {
        {
            let mut kept = self.lock();
            kept.last += 1;
            if kept.items.len() == self.capacity {
                kept.items.pop_front();
            }
            let event = event(EventPosition { epoch: self.epoch, sequence: kept.last });
            kept.items.push_back(Arc::new(event));
        }
        self.changed.send_replace(());
    }

    /// Returns the place of the newest event.
    pub fn last(&self) -> EventPosition {
        EventPosition { epoch: self.epoch, sequence: self.lock().last }
    }

    /// Follows the events: those after `after`, or only new ones. The stream ends when the ring is closed.
    pub fn follow(self: &Arc<Self>, after: Option<EventPosition>) -> impl Stream<Item = Next<T>> + Send + use<T> {
        let changed = self.changed.subscribe();
        let (seen, lost) = {
            let kept = self.lock();
            match after {
                None => (kept.last, false),
                Some(after) if after.epoch == self.epoch && after.sequence <= kept.last => (after.sequence, false),
                Some(_) => (kept.last - kept.items.len() as u64, true),
            }
        };
        let follower = Follower { ring: Arc::clone(self), changed, seen, lost };
        stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) })
    }

    /// Ends the streams of all followers, present and future.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Follower<T> {
    ring: Arc<Ring<T>>,
    changed: watch::Receiver<()>,
    seen: u64,
    lost: bool,
}

impl<T: Send + Sync + 'static> Follower<T> {
    async fn next(&mut self) -> Option<Next<T>> {
        loop {
            self.changed.borrow_and_update();
            if let Some(next) = self.try_next()? {
                return Some(next);
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// Returns `None` at the end, `Some(None)` when nothing is available yet.
    fn try_next(&mut self) -> Option<Option<Next<T>>> {
        let kept = self.ring.lock();
        if kept.closed {
            return None;
        }
        let place = |sequence| EventPosition { epoch: self.ring.epoch, sequence };
        let before_first = kept.last - kept.items.len() as u64;
        if self.lost || self.seen < before_first {
            self.lost = false;
            self.seen = before_first;
            return Some(Some(Next::Lost(place(before_first))));
        }
        let index = usize::try_from(self.seen - before_first).unwrap_or(usize::MAX);
        let Some(item) = kept.items.get(index) else { return Some(None) };
        self.seen += 1;
        Some(Some(Next::Item(place(self.seen), Arc::clone(item))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn sequences(stream: &mut (impl Stream<Item = Next<u64>> + Unpin)) -> Vec<i64> {
        let mut got = Vec::new();
        while let Some(Some(next)) = stream.next().now_or_never() {
            got.push(match next {
                Next::Item(place, item) => {
                    assert_eq!(place.sequence, *item);
                    item.cast_signed()
                }
                Next::Lost(_) => -1,
            });
        }
        got
    }

    #[tokio::test]
    async fn followers_read_on_where_they_were_or_are_told_what_they_lost() {
        let ring = Ring::new(3);
        let mut slow = Box::pin(ring.follow(None));
        for _ in 0..2 {
            ring.push(|place| place.sequence);
        }
        let mut now = Box::pin(ring.follow(None));
        assert_eq!(sequences(&mut slow), [1, 2]);
        for _ in 0..5 {
            ring.push(|place| place.sequence);
        }
        assert_eq!(sequences(&mut now), [-1, 5, 6, 7]);
        assert_eq!(sequences(&mut slow), [-1, 5, 6, 7]);
        let at = |epoch, sequence| Some(EventPosition { epoch, sequence });
        assert_eq!(sequences(&mut Box::pin(ring.follow(at(ring.epoch, 5)))), [6, 7]);
        assert_eq!(sequences(&mut Box::pin(ring.follow(at(ring.epoch, 4)))), [5, 6, 7]);
        assert_eq!(sequences(&mut Box::pin(ring.follow(at(ring.epoch, 3)))), [-1, 5, 6, 7]);
        assert_eq!(sequences(&mut Box::pin(ring.follow(at(ring.epoch, 8)))), [-1, 5, 6, 7], "not ours");
        assert_eq!(sequences(&mut Box::pin(ring.follow(at(1, 6)))), [-1, 5, 6, 7], "of an earlier process");
        ring.close();
        assert_eq!(now.next().await, None);
        assert_eq!(Box::pin(ring.follow(at(1, 1))).next().await, None);
    }

    #[tokio::test]
    async fn a_waiting_follower_is_woken() {
        let ring = Ring::new(3);
        let mut follower = Box::pin(ring.follow(None));
        let waiting = tokio::spawn(async move { follower.next().await });
        tokio::task::yield_now().await;
        ring.push(|place| place.sequence);
        assert!(matches!(waiting.await.unwrap(), Some(Next::Item(place, _)) if place.sequence == 1));
    }
}
