//! Tags, repositories and referrers, page by page.

use super::{
    entity::{blobs, manifests, tags},
    sql, stored,
};
use crate::registry::name::RepoName;
use hoistway_kit::db::{db_error, storable};
use hoistway_model::{Digest, Result};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

/// At most `limit` tags of a repository in byte order, those after `last`.
pub async fn list_tags<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    limit: u64,
    last: Option<&str>,
) -> Result<Vec<String>> {
    let mut query = tags::Entity::find().filter(tags::Column::Repo.eq(repo.as_str()));
    if let Some(last) = last {
        query = query.filter(tags::Column::Tag.gt(&*storable(last)));
    }
    let found = query.select_only().column(tags::Column::Tag).order_by_asc(tags::Column::Tag).limit(limit);
    found.into_tuple().all(conn).await.map_err(db_error("listing tags"))
}

/// Whether anything was ever pushed to a repository.
pub async fn repo_exists<C: ConnectionTrait>(conn: &C, repo: &RepoName) -> Result<bool> {
    let blob = blobs::Entity::find().filter(blobs::Column::Repo.eq(repo.as_str())).limit(1);
    if blob.one(conn).await.map_err(db_error("looking for a repository"))?.is_some() {
        return Ok(true);
    }
    // An index without manifests needs no blob.
    let manifest = manifests::Entity::find().filter(manifests::Column::Repo.eq(repo.as_str()));
    let digest = manifest.select_only().column(manifests::Column::Digest).limit(1).into_tuple::<String>();
    Ok(digest.one(conn).await.map_err(db_error("looking for a repository"))?.is_some())
}

/// At most `limit` repositories that have manifests, in byte order, those after `last`.
pub async fn list_repos<C: ConnectionTrait>(conn: &C, limit: u64, last: Option<&str>) -> Result<Vec<String>> {
    let mut query = manifests::Entity::find().select_only().column(manifests::Column::Repo).distinct();
    if let Some(last) = last {
        query = query.filter(manifests::Column::Repo.gt(&*storable(last)));
    }
    let found = query.order_by_asc(manifests::Column::Repo).limit(limit).into_tuple().all(conn).await;
    found.map_err(db_error("listing repositories"))
}

/// A manifest that says something about another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its artifact type.
    pub artifact_type: Option<String>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

#[derive(FromQueryResult)]
struct ReferrerRow {
    digest: String,
    media_type: String,
    artifact_type: Option<String>,
    bytes: Vec<u8>,
}

/// At most `limit` manifests of a repository whose subject is `subject`, by digest, those after `last`; only those of
/// an artifact type if one is given.
pub async fn list_referrers<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    subject: &Digest,
    artifact_type: Option<&str>,
    last: Option<&str>,
    limit: u64,
) -> Result<Vec<Referrer>> {
    let text = "SELECT digest, media_type, artifact_type, bytes FROM registry_manifests
        WHERE repo = $1 AND subject = $2 AND ($3 IS NULL OR artifact_type = $3) AND digest > $4
        ORDER BY digest LIMIT $5";
    let values = [
        repo.to_string().into(),
        subject.to_string().into(),
        artifact_type.map(|text| storable(text).into_owned()).into(),
        storable(last.unwrap_or_default()).into_owned().into(),
        i64::try_from(limit).unwrap_or(i64::MAX).into(),
    ];
    let rows: Vec<ReferrerRow> = sql::query(conn, "listing referrers", text, values).await?;
    let read = |row: ReferrerRow| {
        let ReferrerRow { digest, media_type, artifact_type, bytes } = row;
        Ok(Referrer { digest: stored(&digest)?, media_type, artifact_type, bytes })
    };
    rows.into_iter().map(read).collect()
}
