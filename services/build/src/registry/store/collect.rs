//! Garbage collection in the database: images that nobody uses, then links that no manifest needs.
//! Blobs without a link are the blob store's to remove.

use super::{delete::remove_manifest, own_referrers::remove_own_referrers, sql, stored};
use hoistway_kit::db::Db;
use hoistway_model::{Digest, Result, image::StoredImage};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, QueryResult, Value};
use std::collections::HashSet;

const DOING: &str = "collecting garbage";
/// Rows of one statement or transaction, so that none keeps others waiting for long.
pub const BATCH: usize = 200;

/// Since when something must not have been used to be removed, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Images that builds made.
    pub built_before: i64,
    /// Manifests without a tag that somebody pushed.
    pub untagged_before: i64,
}

struct Row(StoredImage);

impl FromQueryResult for Row {
    fn from_query_result(row: &QueryResult, prefix: &str) -> Result<Self, DbErr> {
        let digest: String = row.try_get(prefix, "digest")?;
        let digest = stored(&digest).map_err(|e| DbErr::Type(e.to_string()))?;
        Ok(Self(StoredImage { repository: row.try_get(prefix, "repo")?, digest }))
    }
}

/// Removes up to [`BATCH`] images that no agent uses: those that builds made and nobody tagged besides, and manifests
/// without any tag. What an index lists stays with the index, and what says something about an image with that image;
/// what the build wrote about its image goes in the same step.
/// `base` is kept. Needs a transaction in which the pins are complete; returns what is gone.
pub async fn collect_images<C: ConnectionTrait>(
    conn: &C,
    retention: Retention,
    base: Option<&StoredImage>,
) -> Result<Vec<StoredImage>> {
    let text = "SELECT repo, digest FROM registry_manifests m
        WHERE NOT EXISTS (SELECT 1 FROM registry_pins p WHERE p.repo = m.repo AND p.digest = m.digest)
          AND NOT EXISTS (SELECT 1 FROM registry_references r WHERE r.repo = m.repo AND r.digest = m.digest)
          AND NOT (m.repo = $3 AND m.digest = $4)
          AND CASE WHEN EXISTS (SELECT 1 FROM registry_tags t WHERE t.repo = m.repo AND t.digest = m.digest)
            THEN m.used_at < $1 AND NOT EXISTS (
                SELECT 1 FROM registry_tags t WHERE t.repo = m.repo AND t.digest = m.digest AND NOT t.immutable)
            ELSE m.used_at < $2 AND NOT EXISTS (
                SELECT 1 FROM registry_manifests s WHERE s.repo = m.repo AND s.digest = m.subject) END
        LIMIT $5";
    let (repo, digest) = base.map(|b| (b.repository.clone(), b.digest.to_string())).unwrap_or_default();
    let values: [Value; 5] = [
        retention.built_before.into(),
        retention.untagged_before.into(),
        repo.into(),
        digest.into(),
        i64::try_from(BATCH).unwrap_or(i64::MAX).into(),
    ];
    let unused: Vec<Row> = sql::query(conn, DOING, text, values).await?;
    for Row(image) in &unused {
        remove_own_referrers(conn, &image.repository, image.digest, &[]).await?;
        remove_manifest(conn, &image.repository, &image.digest.to_string()).await?;
    }
    Ok(unused.into_iter().map(|Row(image)| image).collect())
}

/// Removes up to [`BATCH`] links that no manifest of their repository needs and nobody has used since `before`; how
/// many. No manifest comes in between.
pub async fn remove_links(db: &Db, before: i64) -> Result<usize> {
    let text = "DELETE FROM registry_blobs WHERE (repo, digest) IN (
        SELECT b.repo, b.digest FROM registry_blobs b WHERE b.linked_at < $1 AND NOT EXISTS (
            SELECT 1 FROM registry_references r WHERE r.repo = b.repo AND r.digest = b.digest)
        LIMIT $2)";
    let batch = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let removed = db.execute_alone(DOING, text, [before.into(), batch.into()]).await?;
    Ok(usize::try_from(removed).unwrap_or(usize::MAX))
}

/// Whether [`remove_links`] would find any; a look that needs no writer.
pub async fn has_dead_links<C: ConnectionTrait>(conn: &C, before: i64) -> Result<bool> {
    let text = "SELECT b.repo AS text FROM registry_blobs b WHERE b.linked_at < $1 AND NOT EXISTS (
        SELECT 1 FROM registry_references r WHERE r.repo = b.repo AND r.digest = b.digest) LIMIT 1";
    let found: Vec<Text> = sql::query(conn, DOING, text, [before.into()]).await?;
    Ok(!found.is_empty())
}

#[derive(FromQueryResult)]
struct Text {
    text: String,
}

/// Those of `digests` that some repository has.
pub async fn linked<C: ConnectionTrait>(conn: &C, digests: &[Digest]) -> Result<HashSet<Digest>> {
    let marks: Vec<String> = (1..=digests.len()).map(|n| format!("${n}")).collect();
    let text = format!("SELECT DISTINCT digest AS text FROM registry_blobs WHERE digest IN ({})", marks.join(", "));
    let values = digests.iter().map(|digest| digest.to_string().into());
    let found: Vec<Text> = sql::query(conn, DOING, &text, values).await?;
    found.into_iter().map(|Text { text }| stored(&text)).collect()
}
