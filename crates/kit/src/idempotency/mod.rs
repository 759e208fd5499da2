//! Stored responses of mutating calls by operation id: a repeated call gets the stored response, and a call that was
//! undone before it arrived is refused.
//!
//! A service calls [`begin`] and [`finish`] in the transaction that makes the change, so that both happen or neither
//! does. Work that is too long for one transaction begins in a first one and finishes in another.

use crate::{
    db::{Db, Migration, db_error},
    prune::{Pruned, Retention, Rows, prune},
    time::now_ms,
};
use entity::{ActiveModel, Column, Entity, Model};
use hoistway_model::{Code, Digest, Error, OperationId, Result};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, TryInsertResult, sea_query::Expr,
};
use std::time::Duration;

const DOING: &str = "keeping an operation";

/// The state of an operation when [`begin`] is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationStart {
    /// It was unknown and is recorded now: do it, then [`finish`].
    New,
    /// It was begun and has no response yet: it is still running, or its process ended in the middle.
    Unfinished,
    /// It was done with this response.
    Done(Vec<u8>),
}

/// The state of an operation when [`undo`] is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It has not arrived. A tombstone remains, which refuses it if it arrives late.
    NeverSeen,
    /// It was begun and has no response yet: revert any partial changes. It can no longer finish.
    Unfinished,
    /// It was done with this response: revert it.
    Done(Vec<u8>),
    /// It is already undone.
    Already,
}

/// Records the operation, or returns its state. The same id with another kind or payload is [`Code::Conflict`]; one
/// that was undone is [`Code::Aborted`].
pub async fn begin(txn: &impl ConnectionTrait, id: OperationId, kind: &str, payload: Digest) -> Result<OperationStart> {
    let row = ActiveModel {
        id: Set(id.to_string()),
        kind: Set(kind.to_owned()),
        payload_digest: Set(payload.to_string()),
        response: Set(None),
        undone: Set(false),
        created_at: Set(now_ms()),
    };
    if insert(txn, row).await? {
        return Ok(OperationStart::New);
    }
    let found = find(txn, id).await?.ok_or_else(|| Error::internal(DOING, "its row was purged meanwhile"))?;
    Ok(found.answer(kind, payload)?.map_or(OperationStart::Unfinished, OperationStart::Done))
}

/// Returns the stored response, without recording anything; for a check before expensive work. Refuses what [`begin`]
/// refuses.
pub async fn lookup(
    db: &impl ConnectionTrait,
    id: OperationId,
    kind: &str,
    payload: Digest,
) -> Result<Option<Vec<u8>>> {
    match find(db, id).await? {
        Some(found) => found.answer(kind, payload),
        None => Ok(None),
    }
}

/// Stores the response of an operation that was begun. [`Code::Aborted`] if it was undone meanwhile: roll back then.
pub async fn finish(txn: &impl ConnectionTrait, id: OperationId, response: &[u8]) -> Result<()> {
    let changed = Entity::update_many()
        .col_expr(Column::Response, Expr::value(response.to_vec()))
        .filter(Column::Id.eq(id.to_string()))
        .filter(Column::Undone.eq(false))
        .exec(txn)
        .await
        .map_err(db_error(DOING))?;
    if changed.rows_affected == 1 { Ok(()) } else { Err(aborted()) }
}

/// Marks the operation as undone, in the transaction that reverts its change.
pub async fn undo(txn: &impl ConnectionTrait, id: OperationId) -> Result<Undone> {
    let tombstone = ActiveModel {
        id: Set(id.to_string()),
        kind: Set(String::new()),
        payload_digest: Set(String::new()),
        response: Set(None),
        undone: Set(true),
        created_at: Set(now_ms()),
    };
    if insert(txn, tombstone).await? {
        return Ok(Undone::NeverSeen);
    }
    let found = find(txn, id).await?.ok_or_else(|| Error::internal(DOING, "its row was purged meanwhile"))?;
    if found.undone {
        return Ok(Undone::Already);
    }
    Entity::update_many()
        .col_expr(Column::Undone, Expr::value(true))
        .filter(Column::Id.eq(id.to_string()))
        .exec(txn)
        .await
        .map_err(db_error(DOING))?;
    Ok(found.response.map_or(Undone::Unfinished, Undone::Done))
}

/// Every operation and tombstone.
const ROWS: Rows = Rows { table: "operations", key: "id", time: "created_at", which: "TRUE" };
/// The shortest retention of an operation, however many there are (unless the retention of all is shorter): the caller
/// may still repeat the call.
const REPEATED_WITHIN: Duration = Duration::from_secs(60 * 60);

/// Returns the retention, by age and by number, of responses and tombstones.
pub const fn kept(seconds: u64, count: u64) -> Retention {
    let at_least = if seconds < REPEATED_WITHIN.as_secs() { Duration::from_secs(seconds) } else { REPEATED_WITHIN };
    Retention { at_least, ..Retention::new(Duration::from_secs(seconds), count) }
}

/// Removes operations and tombstones beyond the retention.
pub async fn forget(db: &Db, keep: Retention) -> Result<Pruned> {
    prune(db, &ROWS, keep).await
}

/// Inserts the row. False if there is one with this id.
async fn insert(txn: &impl ConnectionTrait, row: ActiveModel) -> Result<bool> {
    let tried = Entity::insert(row).on_conflict_do_nothing_on([Column::Id]).exec_without_returning(txn).await;
    match tried.map_err(db_error(DOING))? {
        TryInsertResult::Inserted(rows) => Ok(rows == 1),
        TryInsertResult::Conflicted | TryInsertResult::Empty => Ok(false),
    }
}

async fn find(db: &impl ConnectionTrait, id: OperationId) -> Result<Option<Model>> {
    Entity::find_by_id(id.to_string()).one(db).await.map_err(db_error(DOING))
}

fn aborted() -> Error {
    Error::new(Code::Aborted, "the operation was undone before it could finish")
}

impl Model {
    fn answer(self, kind: &str, payload: Digest) -> Result<Option<Vec<u8>>> {
        if self.undone {
            return Err(aborted());
        }
        if self.kind != kind || self.payload_digest != payload.to_string() {
            return Err(Error::new(Code::Conflict, "this operation id was used for another call"));
        }
        Ok(self.response)
    }
}

mod entity {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "operations")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub kind: String,
        pub payload_digest: String,
        pub response: Option<Vec<u8>>,
        pub undone: bool,
        pub created_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Creates the table `operations` in SQLite. Each service has it among its own migrations.
pub const SQLITE: Migration = Migration { name: "m0001_operations", sql: include_str!("sqlite/m0001_operations.sql") };

/// Creates the table `operations` in PostgreSQL.
pub const POSTGRES: Migration =
    Migration { name: "m0001_operations", sql: include_str!("postgres/m0001_operations.sql") };

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const KIND: &str = "tools.create";

    async fn db() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = crate::db::tests::operations(dir.path()).await;
        (dir, db)
    }

    fn payload(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[tokio::test]
    async fn an_answer_is_given_again() {
        let (_dir, db) = db().await;
        let id = OperationId::mint();
        let txn = db.begin().await.unwrap();
        assert_eq!(begin(&txn, id, KIND, payload("a")).await.unwrap(), OperationStart::New);
        assert_eq!(begin(&txn, id, KIND, payload("a")).await.unwrap(), OperationStart::Unfinished);
        assert_eq!(lookup(&txn, id, KIND, payload("a")).await.unwrap(), None);
        finish(&txn, id, b"answer").await.unwrap();
        txn.commit().await.unwrap();

        let txn = db.begin().await.unwrap();
        assert_eq!(begin(&txn, id, KIND, payload("a")).await.unwrap(), OperationStart::Done(b"answer".to_vec()));
        assert_eq!(lookup(db.read(), id, KIND, payload("a")).await.unwrap(), Some(b"answer".to_vec()));
        assert_eq!(begin(&txn, id, KIND, payload("b")).await.unwrap_err().code, Code::Conflict);
        assert_eq!(begin(&txn, id, "tools.delete", payload("a")).await.unwrap_err().code, Code::Conflict);
    }

    #[tokio::test]
    async fn a_rolled_back_operation_was_never_seen() {
        let (_dir, db) = db().await;
        let id = OperationId::mint();
        let txn = db.begin().await.unwrap();
        assert_eq!(begin(&txn, id, KIND, payload("a")).await.unwrap(), OperationStart::New);
        txn.rollback().await.unwrap();
        assert_eq!(begin(db.write(), id, KIND, payload("b")).await.unwrap(), OperationStart::New);
    }

    #[tokio::test]
    async fn undo_tells_what_to_take_back_once() {
        let (_dir, db) = db().await;
        let id = OperationId::mint();
        begin(db.write(), id, KIND, payload("a")).await.unwrap();
        finish(db.write(), id, b"").await.unwrap();
        assert_eq!(undo(db.write(), id).await.unwrap(), Undone::Done(Vec::new()));
        assert_eq!(undo(db.write(), id).await.unwrap(), Undone::Already);
        assert_eq!(begin(db.write(), id, KIND, payload("a")).await.unwrap_err().code, Code::Aborted);
    }

    #[tokio::test]
    async fn a_late_call_meets_the_tombstone() {
        let (_dir, db) = db().await;
        let id = OperationId::mint();
        assert_eq!(undo(db.write(), id).await.unwrap(), Undone::NeverSeen);
        assert_eq!(undo(db.write(), id).await.unwrap(), Undone::Already);
        assert_eq!(begin(db.write(), id, KIND, payload("a")).await.unwrap_err().code, Code::Aborted);
        assert_eq!(lookup(db.read(), id, KIND, payload("a")).await.unwrap_err().code, Code::Aborted);
    }

    #[tokio::test]
    async fn what_is_undone_while_it_runs_cannot_finish() {
        let (_dir, db) = db().await;
        let id = OperationId::mint();
        begin(db.write(), id, KIND, payload("a")).await.unwrap();
        assert_eq!(undo(db.write(), id).await.unwrap(), Undone::Unfinished);
        assert_eq!(finish(db.write(), id, b"late").await.unwrap_err().code, Code::Aborted);
    }

    #[tokio::test]
    async fn old_operations_are_forgotten() {
        let (_dir, db) = db().await;
        let id = OperationId::mint();
        begin(db.write(), id, KIND, payload("a")).await.unwrap();
        // Too many of them, but none old enough to be removed.
        assert_eq!(forget(&db, kept(24 * 3600, 0)).await.unwrap(), Pruned::default());
        Entity::update_many()
            .col_expr(Column::CreatedAt, Expr::value(now_ms() - 10_000))
            .exec(db.write())
            .await
            .unwrap();
        assert_eq!(forget(&db, kept(3600, 0)).await.unwrap(), Pruned::default());
        assert_eq!(forget(&db, kept(5, 10)).await.unwrap(), Pruned { old: 1, surplus: 0 });
        assert_eq!(begin(db.write(), id, KIND, payload("b")).await.unwrap(), OperationStart::New);
    }
}
