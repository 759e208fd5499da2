//! The database of egress: records of calls, the newest of them, and sums of what agents use of models.

mod budget;
mod call;
mod follow;
mod usage;

use crate::{
    calls::{CallRecord, CallRecords},
    migrations,
};
use async_trait::async_trait;
pub(crate) use budget::Spent;
use call::{ActiveModel, Column, Entity, Model};
use hoistway_kit::{
    db::{Db, Location, db_error, storable},
    prune::{Retention, Rows, prune},
};
use hoistway_model::{
    Error, Name, Result,
    egress::{BudgetNotice, Call, CallQuery, CallTarget},
    limits::MAX_LOOK_UP,
};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Between two looks for surplus the table may grow by this part of what is kept.
const SURPLUS: u64 = 10;

/// Notices of budgets that wait for a follower.
const NOTICES: usize = 256;

const READING: &str = "reading records of calls";
const TOOL: &str = "tool";
const MODEL: &str = "model";
const CALLS: Rows = Rows { table: "calls", key: "id", time: "at", which: "TRUE" };

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Db,
    keep: Retention,
    /// The number of sums of usage that are kept, of hours and of days.
    usage_keep: [Retention; 2],
    /// Records that were added since surplus was removed.
    added: Arc<AtomicU64>,
    /// Records that could not be kept.
    lost: Arc<AtomicU64>,
    /// Wakes followers.
    changed: Arc<watch::Sender<()>>,
    /// Told to followers beside the calls.
    notices: broadcast::Sender<BudgetNotice>,
    /// Ends followers.
    closed: CancellationToken,
}

impl Store {
    pub(crate) async fn open(location: &Location, keep: Retention, usage_keep: [Retention; 2]) -> Result<Self> {
        let db = Db::open(location, migrations::ALL).await?;
        let (changed, closed) = (Arc::new(watch::Sender::new(())), CancellationToken::new());
        let (notices, _) = broadcast::channel(NOTICES);
        let store =
            Self { db, keep, usage_keep, added: Arc::default(), lost: Arc::default(), changed, notices, closed };
        store.tidy().await?;
        Ok(store)
    }

    /// Calls, newest first.
    pub(crate) async fn calls(&self, query: CallQuery) -> Result<Vec<Call>> {
        let mut found = Entity::find().order_by_desc(Column::Id).limit(u64::from(query.limit.min(MAX_LOOK_UP)));
        if let Some(agent) = query.agent {
            found = found.filter(Column::Agent.eq(agent.as_str()));
        }
        if let Some(tool) = query.tool {
            found = found.filter(Column::TargetKind.eq(TOOL)).filter(Column::Target.eq(tool.as_str()));
        }
        if query.refused {
            found = found.filter(Column::Refused.is_not_null());
        }
        if let Some(before) = query.before {
            found = found.filter(Column::Id.lt(signed(before)));
        }
        let rows = found.all(self.db.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(Call::try_from).collect()
    }

    /// Removes what is not to be kept.
    pub(crate) async fn tidy(&self) -> Result<()> {
        self.purge().await?;
        self.purge_usage().await
    }

    /// Removes records of calls that are not to be kept.
    async fn purge(&self) -> Result<()> {
        self.added.store(0, Ordering::Relaxed);
        prune(&self.db, &CALLS, self.keep).await.map(drop)
    }

    /// The number of records that could not be written since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Where notices of budgets go, for those who follow.
    pub(crate) fn notices(&self) -> broadcast::Sender<BudgetNotice> {
        self.notices.clone()
    }

    /// The size of the database in bytes.
    pub(crate) async fn size(&self) -> Result<u64> {
        self.db.size().await
    }

    pub(crate) async fn close(&self) {
        self.db.close().await;
    }

    async fn insert(&self, records: Vec<CallRecord>) -> Result<()> {
        let rows = records.into_iter().map(row);
        let inserted = Entity::insert_many(rows).exec_without_returning(self.db.write()).await;
        inserted.map(drop).map_err(db_error("writing records of calls"))
    }
}

#[async_trait]
impl CallRecords for Store {
    async fn keep(&self, records: Vec<CallRecord>) {
        let count = records.len() as u64;
        if let Err(e) = self.insert(records).await {
            self.lost.fetch_add(count, Ordering::Relaxed);
            tracing::warn!(cause = e.chain(), "{count} records of calls were lost: {e}");
            return;
        }
        self.changed.send_replace(());
        if self.added.fetch_add(count, Ordering::Relaxed) + count > self.keep.count / SURPLUS
            && let Err(e) = self.purge().await
        {
            tracing::warn!(cause = e.chain(), "removing old records of calls: {e}");
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn row(record: CallRecord) -> ActiveModel {
    let (target_kind, target) = match record.target {
        Some(CallTarget::Tool(name)) => (Some(TOOL.to_owned()), Some(name.into())),
        Some(CallTarget::ModelProvider(name)) => (Some(MODEL.to_owned()), Some(name.into())),
        None => (None, None),
    };
    ActiveModel {
        id: NotSet,
        at: Set(record.at),
        agent: Set(record.agent.map(Into::into)),
        revision: Set(record.revision.map(|revision| revision.to_string())),
        target_kind: Set(target_kind),
        target: Set(target),
        method: Set(record.method),
        origin: Set(record.origin),
        path: Set(record.path),
        status: Set(record.status.map(i32::from)),
        first_byte_ms: Set(signed(record.first_byte_ms)),
        duration_ms: Set(signed(record.duration_ms)),
        bytes_up: Set(signed(record.bytes_up)),
        bytes_down: Set(signed(record.bytes_down)),
        refused: Set(record.refused.map(str::to_owned)),
        broken: Set(record.broken.map(str::to_owned)),
        error: Set(record.error.map(|text| storable(&text).into_owned())),
    }
}

impl TryFrom<Model> for Call {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self> {
        let unreadable = |e: Error| Error::internal(READING, e);
        let name = |text: String| Name::parse("name", &text).map_err(unreadable);
        let target = match (row.target_kind.as_deref(), row.target) {
            (Some(TOOL), Some(tool)) => Some(CallTarget::Tool(name(tool)?)),
            (Some(MODEL), Some(provider)) => Some(CallTarget::ModelProvider(name(provider)?)),
            _ => None,
        };
        Ok(Self {
            id: row.id.unsigned_abs(),
            at: row.at,
            agent: row.agent.map(name).transpose()?,
            revision: row.revision.map(|id| id.parse()).transpose().map_err(unreadable)?,
            target,
            method: row.method,
            origin: row.origin,
            path: row.path,
            status: row.status.and_then(|status| u16::try_from(status).ok()),
            first_byte_ms: row.first_byte_ms.unsigned_abs(),
            duration_ms: row.duration_ms.unsigned_abs(),
            bytes_up: row.bytes_up.unsigned_abs(),
            bytes_down: row.bytes_down.unsigned_abs(),
            refused: row.refused,
            broken: row.broken,
            error: row.error,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::{db::DatabaseConfig, time::now_ms};
    use hoistway_model::RevisionId;
    use hoistway_testing::database_url;
    use std::{path::Path, time::Duration};

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    pub(super) fn record(agent: &str, tool: &str, path: &str) -> CallRecord {
        CallRecord {
            at: now_ms(),
            agent: Some(name(agent)),
            revision: Some(RevisionId::mint()),
            target: Some(CallTarget::Tool(name(tool))),
            method: "GET".into(),
            origin: "https://a.example".into(),
            path: path.into(),
            status: Some(200),
            first_byte_ms: 1,
            duration_ms: 2,
            bytes_up: 3,
            bytes_down: 4,
            refused: None,
            error: None,
            broken: None,
        }
    }

    pub(super) async fn store(dir: &Path, count: u64) -> Store {
        let usage = Retention::new(Duration::from_secs(60 * 86_400), 1_000_000);
        let location = DatabaseConfig::from(database_url(dir)).location("egress", dir).await.unwrap();
        Store::open(&location, Retention::new(Duration::from_secs(3600), count), [usage; 2]).await.unwrap()
    }

    async fn paths(store: &Store, query: CallQuery) -> Vec<String> {
        store.calls(query).await.unwrap().into_iter().map(|call| call.path).collect()
    }

    fn all() -> CallQuery {
        CallQuery { limit: 100, ..CallQuery::default() }
    }

    #[tokio::test]
    async fn records_are_listed_newest_first_and_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 100).await;
        let nobody =
            CallRecord { agent: None, revision: None, target: None, status: Some(407), ..record("a", "x", "/0") };
        let refused = CallRecord { refused: Some("host_not_allowed"), ..record("b", "y", "/3") };
        let (word, error) = (Some("credential_missing"), Some("it has none".to_owned()));
        let first = CallRecord { refused: word, error, ..record("a", "x", "/1") };
        store.keep(vec![CallRecord { refused: Some("identity_missing"), ..nobody }, first.clone()]).await;
        store.keep(vec![record("a", "y", "/2"), refused]).await;
        assert_eq!(paths(&store, all()).await, ["/3", "/2", "/1", "/0"]);
        assert_eq!(paths(&store, CallQuery { agent: Some(name("a")), ..all() }).await, ["/2", "/1"]);
        assert_eq!(paths(&store, CallQuery { tool: Some(name("y")), ..all() }).await, ["/3", "/2"]);
        assert_eq!(paths(&store, CallQuery { refused: true, ..all() }).await, ["/3", "/1", "/0"]);
        let page = store.calls(CallQuery { limit: 2, ..all() }).await.unwrap();
        assert_eq!(paths(&store, CallQuery { before: Some(page[1].id), ..all() }).await, ["/1", "/0"]);

        store.close().await;
        let store = self::store(dir.path(), 100).await;
        let kept = store.calls(CallQuery { agent: Some(name("a")), ..all() }).await.unwrap().remove(1);
        let expected = Call {
            id: kept.id,
            at: first.at,
            agent: first.agent,
            revision: first.revision,
            target: Some(CallTarget::Tool(name("x"))),
            method: first.method,
            origin: first.origin,
            path: first.path,
            status: Some(200),
            first_byte_ms: 1,
            duration_ms: 2,
            bytes_up: 3,
            bytes_down: 4,
            refused: Some("credential_missing".into()),
            error: Some("it has none".into()),
            broken: None,
        };
        assert_eq!(kept, expected);
    }

    #[tokio::test]
    async fn the_newest_are_kept_and_numbers_are_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 10).await;
        for number in 0..100 {
            store.keep(vec![CallRecord { at: number, ..record("a", "x", &format!("/{number}")) }]).await;
        }
        // They are all older than an hour.
        store.purge().await.unwrap();
        assert!(paths(&store, all()).await.is_empty());
        // None is of the future, in which nothing is old enough to be removed.
        let first = now_ms() - 100;
        for number in 0..100 {
            store.keep(vec![CallRecord { at: first + number, ..record("a", "x", &format!("/{number}")) }]).await;
        }
        assert!(paths(&store, all()).await.len() <= 12);
        store.purge().await.unwrap();
        let kept = store.calls(all()).await.unwrap();
        assert_eq!((kept.len(), kept[0].path.as_str(), kept[0].id), (10, "/99", 200));
    }

    #[tokio::test]
    async fn unwritable_records_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 10).await;
        store.close().await;
        store.keep(vec![record("a", "x", "/"), record("a", "x", "/")]).await;
        assert_eq!(store.lost(), 2);
    }
}
