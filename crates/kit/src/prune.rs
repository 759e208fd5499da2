//! Bounds the growth of tables: rows that have ended are removed when they are too old or too many, oldest first, in
//! small batches, so that no writer waits for long.

use crate::{
    db::{Db, db_error, query_raw},
    time::now_ms,
};
use hoistway_model::Result;
use sea_orm::Value;
use std::time::Duration;

const DOING: &str = "removing old records";
/// The rows removed by one statement.
const BATCH: u64 = 200;

/// Rows that may be removed. The texts are parts of SQL.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Their table.
    pub table: &'static str,
    /// The columns of its primary key, separated by commas.
    pub key: &'static str,
    /// The column with the relevant time, in milliseconds since the epoch.
    pub time: &'static str,
    /// The condition on the table's rows: never a live row or one that is still needed.
    pub which: &'static str,
}

/// The limits of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The longest age.
    pub time: Duration,
    /// The largest number.
    pub count: u64,
    /// The age below which a row is kept, however many there are.
    pub at_least: Duration,
}

impl Retention {
    /// Keeps up to `count` rows for up to `time`.
    pub const fn new(time: Duration, count: u64) -> Self {
        Self { time, count, at_least: Duration::ZERO }
    }
}

/// The number of removed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Rows that were too old.
    pub old: u64,
    /// Rows beyond the count.
    pub surplus: u64,
}

/// Removes rows beyond the retention.
pub async fn prune(db: &Db, rows: &Rows, keep: Retention) -> Result<Pruned> {
    let old = remove(db, rows, ago(keep.time), u64::MAX).await?;
    let surplus = count(db, rows).await?.saturating_sub(keep.count);
    let surplus = remove(db, rows, ago(keep.at_least).saturating_add(1), surplus).await?;
    Ok(Pruned { old, surplus })
}

/// Returns the moment that long ago, in milliseconds since the epoch.
pub fn ago(time: Duration) -> i64 {
    now_ms().saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Removes up to `most` of the rows older than the moment `before`, oldest first; returns their number.
async fn remove(db: &Db, rows: &Rows, before: i64, most: u64) -> Result<u64> {
    let Rows { table, key, time, which } = rows;
    let text = format!(
        "DELETE FROM {table} WHERE ({key}) IN (
            SELECT {key} FROM {table} WHERE ({which}) AND {time} < $1 ORDER BY {time} LIMIT $2)"
    );
    // A check beforehand needs no writer, and most of the time there is nothing to remove.
    let any = format!("SELECT CAST(1 AS BIGINT) FROM {table} WHERE ({which}) AND {time} < $1 LIMIT 1");
    let mut removed = 0;
    while removed < most {
        if query(db, &any, [before.into()]).await?.is_none() {
            break;
        }
        let batch = BATCH.min(most - removed);
        let values = [before.into(), i64::try_from(batch).unwrap_or(i64::MAX).into()];
        // Not beside a change that renews one of the rows.
        let now = db.execute_alone(DOING, &text, values).await?;
        removed += now;
        if now < batch {
            break;
        }
    }
    Ok(removed)
}

async fn count(db: &Db, Rows { table, which, .. }: &Rows) -> Result<u64> {
    let found = query(db, &format!("SELECT COUNT(*) FROM {table} WHERE {which}"), []).await?;
    Ok(found.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
}

async fn query<const N: usize>(db: &Db, text: &str, values: [Value; N]) -> Result<Option<i64>> {
    let found = query_raw(db.read(), text, values).await.map_err(db_error(DOING))?;
    found.first().map(|row| row.try_get_by_index(0)).transpose().map_err(db_error(DOING))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sea_orm::ConnectionTrait;

    const ROWS: Rows = Rows { table: "operations", key: "id", time: "created_at", which: "NOT undone" };
    const EVER: Duration = Duration::MAX;

    /// Returns a database with `count` rows that are a second, two seconds, … old, and as many that may not be removed.
    async fn filled(count: i64) -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = crate::db::tests::operations(dir.path()).await;
        let text = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO operations SELECT u || '-' || i, 'k', 'd', NULL, u = 'undone', {} - i * 1000
             FROM n, (SELECT 'done' AS u UNION SELECT 'undone') AS kinds",
            now_ms()
        );
        db.write().execute_unprepared(&text).await.unwrap();
        (dir, db)
    }

    async fn left(db: &Db, which: &str) -> i64 {
        query(db, &format!("SELECT COUNT(*) FROM operations WHERE {which}"), []).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_go_and_others_are_not_touched() {
        let (_dir, db) = filled(1_000).await;
        let pruned = prune(&db, &ROWS, Retention::new(EVER, 150)).await.unwrap();
        assert_eq!(pruned, Pruned { old: 0, surplus: 850 });
        assert_eq!(left(&db, "undone").await, 1_000);
        let newest = format!("NOT undone AND created_at > {}", now_ms() - 152_000 - 60_000);
        assert_eq!((left(&db, "NOT undone").await, left(&db, &newest).await), (150, 150));
        assert_eq!(prune(&db, &ROWS, Retention::new(EVER, 150)).await.unwrap(), Pruned::default());
    }

    #[tokio::test]
    async fn what_is_too_old_goes_and_what_is_too_young_stays() {
        let (_dir, db) = filled(1_000).await;
        let hours = Duration::from_secs(3600);
        let keep = Retention { at_least: hours, ..Retention::new(hours * 2, 10) };
        assert_eq!(prune(&db, &ROWS, keep).await.unwrap(), Pruned::default());
        let pruned = prune(&db, &ROWS, Retention::new(Duration::from_millis(400_500), 10_000)).await.unwrap();
        assert!((pruned.old as i64 - 600).abs() <= 60 && pruned.surplus == 0, "{pruned:?}");
        assert_eq!(left(&db, "NOT undone").await, 1_000 - i64::try_from(pruned.old).unwrap());
    }
}
