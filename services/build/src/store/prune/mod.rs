//! Letting go of what no image has: answers, records of builds that left nothing, locks of former requirements, and
//! what was known of packages.

use super::{Store, WRITING};
use hoistway_kit::{
    db::{db_error, query_raw},
    idempotency,
    prune::{Retention, Rows, prune},
};
use hoistway_model::Result;
use sea_orm::Value;
use std::time::Duration;

/// The time for which failed builds are shown.
const FAILED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Rows of one statement.
const BATCH: i64 = 200;

const FAILED: Rows = Rows { table: "builds", key: "attempt", time: "completed_at", which: "status = 'FAILED'" };
/// The image is the newer build's as well, and goes with that one.
const REPLACED: Rows = Rows {
    table: "builds",
    key: "attempt",
    time: "completed_at",
    which: "status = 'SUCCEEDED' AND EXISTS (
        SELECT 1 FROM builds newer WHERE newer.public_id = builds.public_id AND newer.status = 'SUCCEEDED'
            AND newer.attempt > builds.attempt)",
};
const PACKAGES: Rows = Rows { table: "packages", key: "inputs", time: "created_at", which: "TRUE" };

/// The amount that is kept of records that no image has.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Answers and tombstones.
    pub operations: Retention,
    /// Failed builds, and as many of those whose image a later build made again.
    pub records: u64,
    /// Locks of each agent.
    pub locks: u32,
    /// Sizes of packages.
    pub packages: u64,
}

impl Store {
    /// Forgets what is not to be kept.
    pub async fn purge(&self, keep: Bounds) -> Result<()> {
        idempotency::forget(&self.0, keep.operations).await?;
        prune(&self.0, &FAILED, Retention::new(FAILED_FOR, keep.records)).await?;
        prune(&self.0, &REPLACED, Retention::new(Duration::MAX, keep.records)).await?;
        // Without its size a package is installed once more before it is known which layer it is in.
        prune(&self.0, &PACKAGES, Retention::new(Duration::MAX, keep.packages)).await?;
        // A build makes its lock the newest one, and so does one that is answered with its image.
        let surplus = "SELECT agent, requirements, interpreter FROM (
            SELECT agent, requirements, interpreter,
                ROW_NUMBER() OVER (PARTITION BY agent ORDER BY created_at DESC, requirements, interpreter) AS place
            FROM locks) AS ordered
            WHERE place > $1";
        self.delete("locks", "agent, requirements, interpreter", surplus, [keep.locks.into()]).await
    }

    /// Forgets dependency layers, noted before the moment `before`, that no repository has, and sets that such a layer
    /// is missing of. The next build that wants them finds out anew.
    pub async fn forget_unmade(&self, before: i64) -> Result<()> {
        let layers = "SELECT inputs FROM dependency_layers l WHERE created_at < $1
            AND NOT EXISTS (SELECT 1 FROM registry_blobs b WHERE b.digest = l.digest)";
        self.delete("dependency_layers", "inputs", layers, [before.into()]).await?;
        let elements =
            self.0.dialect("json_each(s.layers) AS layer", "json_array_elements(s.layers::JSON) AS layer (value)");
        let sets = format!(
            "SELECT inputs FROM layer_sets s WHERE created_at < $1 AND (layers = '[]' OR EXISTS (
                SELECT 1 FROM {elements}
                WHERE layer.value -> 'layer' ->> 'digest' NOT IN (SELECT digest FROM dependency_layers)))"
        );
        self.delete("layer_sets", "inputs", &sets, [before.into()]).await
    }

    /// Deletes the rows that a query finds, a few at a time. Most of the time there are none, and looking for them
    /// needs no writer.
    async fn delete<const N: usize>(&self, table: &str, key: &str, which: &str, values: [Value; N]) -> Result<()> {
        let any = format!("{which} LIMIT 1");
        let some = format!("DELETE FROM {table} WHERE ({key}) IN ({which} LIMIT {BATCH})");
        while !query_raw(self.0.read(), &any, values.clone()).await.map_err(db_error(WRITING))?.is_empty() {
            // Not beside a build that renews one of the rows.
            self.0.execute_alone(WRITING, &some, values.clone()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
