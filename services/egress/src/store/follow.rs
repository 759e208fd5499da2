//! Following the records of calls. A follower reads on in the table from where it is, so it needs no queue of its own,
//! costs calls nothing however slowly it reads, and gets nothing that was not committed.

use super::{READING, Store, call};
use futures_util::stream;
use hoistway_kit::db::{db_error, query_raw};
use hoistway_model::{
    Result,
    egress::{BudgetNotice, Call, CallUpdate, CallUpdates},
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use std::collections::VecDeque;
use tokio::sync::{broadcast, watch};

/// A follower that is further behind goes on with the newest so many.
const BACKLOG: u64 = 1_024;
/// The number of calls that are read at once.
const BATCH: u64 = 256;

struct Follower {
    store: Store,
    changed: watch::Receiver<()>,
    notices: broadcast::Receiver<BudgetNotice>,
    /// The last call that was sent or left out.
    position: u64,
    pending: VecDeque<CallUpdate>,
}

impl Store {
    /// Follows the calls after that of the id `after`, or those that end from now on. It ends with
    /// [`Store::end_followers`], and with the error of a reading that failed.
    pub(crate) async fn follow(&self, after: Option<u64>) -> Result<CallUpdates> {
        let (changed, notices) = (self.changed.subscribe(), self.notices.subscribe());
        let last = self.last_id().await?;
        // An id that was not reached yet is of another database.
        let position = after.filter(|after| *after <= last).unwrap_or(last);
        let pending = VecDeque::from([CallUpdate::Position(position)]);
        let follower = Follower { store: self.clone(), changed, notices, position, pending };
        Ok(Box::pin(stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await? {
                Ok(update) => Some((Ok(update), Some(follower))),
                Err(e) => Some((Err(e), None)),
            }
        })))
    }

    /// Ends every follower, once it has what is committed.
    pub(crate) fn end_followers(&self) {
        self.closed.cancel();
    }

    /// The id of the newest call, which need not be kept any more.
    async fn last_id(&self) -> Result<u64> {
        let rows = query_raw(self.db.read(), "SELECT last FROM call_ids", []).await.map_err(db_error(READING))?;
        let last: Option<i64> =
            rows.first().map(|row| row.try_get_by_index(0)).transpose().map_err(db_error(READING))?;
        Ok(last.unwrap_or_default().unsigned_abs())
    }

    async fn after(&self, id: u64) -> Result<Vec<Call>> {
        let found = call::Entity::find().filter(call::Column::Id.gt(super::signed(id)));
        let found = found.order_by_asc(call::Column::Id).limit(BATCH);
        let rows = found.all(self.db.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(Call::try_from).collect()
    }
}

impl Follower {
    async fn next(&mut self) -> Option<Result<CallUpdate>> {
        loop {
            if let Some(update) = self.pending.pop_front() {
                return Some(Ok(update));
            }
            self.changed.borrow_and_update();
            if let Err(e) = self.read().await {
                return Some(Err(e));
            }
            if self.pending.is_empty() {
                tokio::select! {
                    () = self.store.closed.cancelled() => return None,
                    changed = self.changed.changed() => changed.ok()?,
                    // Who reads too slowly misses some: what is used up can be asked for.
                    notice = self.notices.recv() => self.pending.extend(notice.ok().map(CallUpdate::Budget)),
                }
            }
        }
    }

    /// Reads on from the position. Ids leave no gap when they are given, so one that is there means removed records.
    async fn read(&mut self) -> Result<()> {
        let last = self.store.last_id().await?;
        let calls = self.store.after(self.position.max(last.saturating_sub(BACKLOG))).await?;
        let up_to = if calls.is_empty() { last } else { 0 };
        for call in calls {
            self.skip_to(call.id - 1);
            self.position = call.id;
            self.pending.push_back(CallUpdate::Call(Box::new(call)));
        }
        self.skip_to(up_to);
        Ok(())
    }

    fn skip_to(&mut self, id: u64) {
        if id > self.position {
            self.pending.push_back(CallUpdate::Missed(id - self.position));
            self.position = id;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{record, store};
    use super::*;
    use crate::calls::CallRecords;
    use futures_util::{FutureExt, StreamExt};
    use std::path::Path;

    async fn call(store: &Store, path: String) {
        store.keep(vec![record("a", "x", &path)]).await;
    }

    /// A summary of the body so far.
    async fn next(updates: &mut CallUpdates) -> String {
        match updates.next().await.unwrap().unwrap() {
            CallUpdate::Budget(notice) => format!("{} of {}", notice.agent, notice.limit.limit),
            CallUpdate::Position(id) => format!("at {id}"),
            CallUpdate::Call(call) => format!("{} {}", call.id, call.path),
            CallUpdate::Missed(count) => format!("missed {count}"),
        }
    }

    async fn filled(dir: &Path) -> Store {
        let store = store(dir, 100_000).await;
        call(&store, "/1".into()).await;
        store
    }

    #[tokio::test]
    async fn calls_are_followed_from_now_on_or_from_where_somebody_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path()).await;
        let mut now = store.follow(None).await.unwrap();
        assert_eq!(next(&mut now).await, "at 1");
        assert!(now.next().now_or_never().is_none());
        store.keep(vec![record("a", "x", "/2"), record("b", "x", "/3")]).await;
        assert_eq!((next(&mut now).await, next(&mut now).await), ("2 /2".into(), "3 /3".into()));
        let mut back = store.follow(Some(2)).await.unwrap();
        assert_eq!((next(&mut back).await, next(&mut back).await), ("at 2".into(), "3 /3".into()));
        // Of another database.
        assert_eq!(next(&mut store.follow(Some(9)).await.unwrap()).await, "at 3");
        call(&store, "/4".into()).await;
        store.end_followers();
        assert_eq!(next(&mut now).await, "4 /4");
        assert!(now.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed_and_goes_on_with_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path()).await;
        let mut slow = store.follow(Some(0)).await.unwrap();
        assert_eq!((next(&mut slow).await, next(&mut slow).await), ("at 0".into(), "1 /1".into()));
        let flood: Vec<_> = (0..2 * BACKLOG).map(|n| record("a", "x", &format!("/{n}"))).collect();
        for batch in flood.chunks(256) {
            store.keep(batch.to_vec()).await;
        }
        assert_eq!(next(&mut slow).await, format!("missed {BACKLOG}"));
        for n in BACKLOG..2 * BACKLOG {
            assert_eq!(next(&mut slow).await, format!("{} /{n}", n + 2));
        }
        assert!(slow.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn records_that_were_removed_meanwhile_are_missed() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 10).await;
        let mut updates = store.follow(None).await.unwrap();
        assert_eq!(next(&mut updates).await, "at 0");
        // They are older than what is kept.
        store.keep((0..3).map(|n| crate::CallRecord { at: n, ..record("a", "x", "/old") }).collect()).await;
        assert_eq!(next(&mut updates).await, "missed 3");
        call(&store, "/new".into()).await;
        assert_eq!(next(&mut updates).await, "4 /new");
    }
}
