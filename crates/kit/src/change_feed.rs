//! The serving end of [`hoistway_model::watch`]: a follower compares the current records with those that it has sent.
//! So it needs no queue, a slow client costs nothing, and no writer can forget to report a change.

use hoistway_model::{
    Result,
    watch::{Update, Updates},
};
use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Follows the records that `load` reads. `changed` triggers each new reading, and changes between two readings are
/// sent as one. The stream ends when `closed` is cancelled, or with the error of a failed reading.
pub fn follow<K, V, F>(
    changed: watch::Receiver<()>,
    closed: CancellationToken,
    load: impl FnMut() -> F + Send + 'static,
) -> Updates<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: PartialEq + Clone + Send + Sync + 'static,
    F: Future<Output = Result<BTreeMap<K, V>>> + Send + 'static,
{
    let follower = Follower { changed, closed, load, sent: BTreeMap::new(), pending: VecDeque::new(), complete: false };
    Box::pin(futures_util::stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await? {
            Ok(update) => Some((Ok(update), Some(follower))),
            Err(e) => Some((Err(e), None)),
        }
    }))
}

struct Follower<K, V, L> {
    changed: watch::Receiver<()>,
    closed: CancellationToken,
    load: L,
    /// The records as the client has them after it receives the pending updates.
    sent: BTreeMap<K, V>,
    pending: VecDeque<Update<K, V>>,
    complete: bool,
}

impl<K, V, F, L> Follower<K, V, L>
where
    K: Ord + Clone,
    V: PartialEq + Clone,
    F: Future<Output = Result<BTreeMap<K, V>>>,
    L: FnMut() -> F,
{
    async fn next(&mut self) -> Option<Result<Update<K, V>>> {
        loop {
            if let Some(update) = self.pending.pop_front() {
                return Some(Ok(update));
            }
            if self.complete {
                // No change can follow once the sender is dropped.
                self.closed.run_until_cancelled(self.changed.changed()).await?.ok()?;
            } else {
                // A later change triggers another reading.
                self.changed.borrow_and_update();
            }
            let now = match self.closed.run_until_cancelled((self.load)()).await? {
                Ok(now) => now,
                Err(e) => return Some(Err(e)),
            };
            self.pending.extend(differences(&self.sent, &now));
            if !self.complete {
                self.complete = true;
                self.pending.push_back(Update::Complete);
            }
            self.sent = now;
        }
    }
}

/// Returns the updates that turn `before` into `after`. Removals come first because they must not wait.
fn differences<K, V>(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>) -> Vec<Update<K, V>>
where
    K: Ord + Clone,
    V: PartialEq + Clone,
{
    let removed = before.keys().filter(|key| !after.contains_key(*key)).cloned().map(Update::Removed);
    let set = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    removed.chain(set.map(|(key, value)| Update::Set(key.clone(), value.clone()))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::{FutureExt, StreamExt};
    use hoistway_model::{Code, Error};
    use std::sync::{Arc, Mutex};

    struct Source {
        records: Arc<Mutex<Result<BTreeMap<&'static str, u8>>>>,
        changed: watch::Sender<()>,
        closed: CancellationToken,
    }

    impl Source {
        fn new(records: &[(&'static str, u8)]) -> Self {
            let records = Arc::new(Mutex::new(Ok(records.iter().copied().collect())));
            Self { records, changed: watch::Sender::new(()), closed: CancellationToken::new() }
        }

        fn follow(&self) -> Updates<&'static str, u8> {
            let records = Arc::clone(&self.records);
            follow(self.changed.subscribe(), self.closed.clone(), move || {
                let records = records.lock().unwrap();
                let records = records.as_ref().map(Clone::clone).map_err(Error::public);
                async move { records }
            })
        }

        fn set(&self, records: &[(&'static str, u8)]) {
            *self.records.lock().unwrap() = Ok(records.iter().copied().collect());
            self.changed.send_replace(());
        }
    }

    /// Returns the updates that are available without waiting.
    fn ready(updates: &mut Updates<&'static str, u8>) -> Vec<Update<&'static str, u8>> {
        let mut all = Vec::new();
        while let Some(Some(update)) = updates.next().now_or_never() {
            all.push(update.unwrap());
        }
        all
    }

    #[tokio::test]
    async fn everything_comes_first_then_the_changes() {
        let source = Source::new(&[("a", 1), ("b", 2)]);
        let mut updates = source.follow();
        assert_eq!(ready(&mut updates), [Update::Set("a", 1), Update::Set("b", 2), Update::Complete]);
        source.set(&[("a", 1), ("c", 3)]);
        assert_eq!(ready(&mut updates), [Update::Removed("b"), Update::Set("c", 3)]);
        source.set(&[("a", 1), ("c", 3)]);
        assert_eq!(ready(&mut updates), [], "the same again is no change");
        assert_eq!(ready(&mut Source::new(&[]).follow()), [Update::Complete]);
    }

    #[tokio::test]
    async fn a_slow_follower_gets_the_last_state_only() {
        let source = Source::new(&[("a", 1)]);
        let mut updates = source.follow();
        ready(&mut updates);
        for value in 2..100 {
            source.set(&[("a", value)]);
        }
        assert_eq!(ready(&mut updates), [Update::Set("a", 99)]);
    }

    #[tokio::test]
    async fn it_ends_when_it_is_closed_or_cannot_read() {
        let source = Source::new(&[("a", 1)]);
        let (mut open, mut failing) = (source.follow(), source.follow());
        ready(&mut open);
        ready(&mut failing);
        *source.records.lock().unwrap() = Err(Error::new(Code::Internal, "broken"));
        source.changed.send_replace(());
        assert_eq!(failing.next().await.unwrap().unwrap_err().message, "broken");
        assert!(failing.next().await.is_none());
        source.closed.cancel();
        assert!(open.next().await.is_none());
        assert!(source.follow().next().await.is_none());
    }
}
