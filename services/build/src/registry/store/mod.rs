//! Manifests, tags and which blobs a repository has, in the build service's database.
//!
//! The functions take any connection, so that the build service can write an image and its own rows in one
//! transaction; [`ManifestStore`] wraps them for the registry's HTTP interface.
//!
//! Three things hold at any moment, also after a crash, because each change is one transaction: a manifest has a link
//! in its repository for every blob it needs; a blob that is linked anywhere is in the blob store; and a link that a
//! manifest needs is never removed. `collect` removes what is left.

mod collect;
mod delete;
mod entity;
mod lists;
mod own_referrers;
mod pins;
mod sql;

pub use collect::{BATCH, Retention, collect_images, has_dead_links, linked, remove_links};
pub use delete::{Base, Deletion, delete_blob, delete_manifest, delete_tag};
pub use lists::{Referrer, list_referrers, list_repos, list_tags, repo_exists};
pub use pins::{pin_images, replace_pins};

use super::{
    manifest::Manifest,
    name::{Reference, RepoName, Tag},
};
use bytes::Bytes;
use entity::{blobs, manifests, references, tags};
use hoistway_kit::{
    db::{Db, db_error, storable},
    time::now_ms,
};
use hoistway_model::{Digest, Error, Result};
use own_referrers::remove_own_referrers;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, ExprTrait, QueryFilter, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};
use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

/// The name that a manifest is stored under.
#[derive(Debug, Clone)]
pub struct NewTag {
    /// The tag.
    pub tag: Tag,
    /// Never moves again, and is not taken if it holds something else already. The tags of agents' images are such.
    pub immutable: bool,
}

/// The outcome of storing a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is stored, and tagged if that was requested.
    Stored,
    /// Nothing was written: these blobs or manifests are not in the repository.
    Missing(Vec<Digest>),
    /// Nothing was written: these manifests have another size than it says.
    WrongSizes(Vec<Digest>),
    /// Nothing was written: the tag holds another manifest and may not be moved.
    TagTaken,
}

/// A manifest as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// The media type with which it was pushed.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// When it was last pushed, built or asked for, in milliseconds since the epoch.
    pub used_at: i64,
}

/// Stores an image whose blobs are in the blob store: links them to the repository, tags and stores the manifest. The
/// image's own `referrers`, whose subject it is, are stored with it, replace those of an earlier build of it, and stay
/// for as long as it does. Five statements, for the build service's transaction. On [`PutOutcome::TagTaken`] the blobs
/// are linked and nothing else is written.
pub async fn publish_image<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifest: &Manifest,
    referrers: &[Manifest],
    tag: &NewTag,
) -> Result<PutOutcome> {
    let all: Vec<&Manifest> = std::iter::once(manifest).chain(referrers).collect();
    // PostgreSQL refuses a row twice in one statement, and artifacts have their empty configuration in common.
    let needed: BTreeSet<Digest> = all.iter().flat_map(|manifest| manifest.blobs()).copied().collect();
    link_blobs(conn, repo, &Vec::from_iter(needed)).await?;
    // The tag first: if it is taken, nothing is written.
    if !write_tag(conn, repo, tag, manifest.digest()).await? {
        return Ok(PutOutcome::TagTaken);
    }
    let own = referrers.iter().map(|referrer| (manifest.digest(), referrer.digest()));
    write_manifests(conn, repo, &all, own).await?;
    remove_own_referrers(conn, repo.as_str(), manifest.digest(), referrers).await?;
    Ok(PutOutcome::Stored)
}

/// Stores a manifest if everything it needs is in the repository. Needs a transaction, so that nothing is removed
/// between looking and writing.
pub async fn put_manifest<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifest: &Manifest,
    tag: Option<&NewTag>,
) -> Result<PutOutcome> {
    let (missing, wrong) = missing(conn, repo, manifest).await?;
    if !missing.is_empty() {
        return Ok(PutOutcome::Missing(missing));
    }
    if !wrong.is_empty() {
        return Ok(PutOutcome::WrongSizes(wrong));
    }
    write_manifest(conn, repo, manifest, tag).await
}

/// Makes blobs, which the caller knows to be in the blob store, readable in a repository.
pub async fn link_blobs<C: ConnectionTrait>(conn: &C, repo: &RepoName, digests: &[Digest]) -> Result<()> {
    let now = now_ms();
    let row = |digest: &Digest| blobs::ActiveModel {
        repo: Set(repo.to_string()),
        digest: Set(digest.to_string()),
        linked_at: Set(now),
    };
    blobs::Entity::insert_many(digests.iter().map(row))
        .on_conflict(
            OnConflict::columns([blobs::Column::Repo, blobs::Column::Digest])
                .update_column(blobs::Column::LinkedAt)
                .to_owned(),
        )
        .exec_without_returning(conn)
        .await
        .map_err(db_error("linking blobs"))?;
    Ok(())
}

/// Makes a blob that another repository has readable in `repo`; false when the other one does not have it. Without
/// `from`, any repository will do. One statement, so that what is collected meanwhile is either there or not.
pub async fn mount_blob<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    digest: &Digest,
    from: Option<&RepoName>,
) -> Result<bool> {
    let text = "INSERT INTO registry_blobs (repo, digest, linked_at)
        SELECT $1, digest, $2 FROM registry_blobs WHERE digest = $3 AND ($4 IS NULL OR repo = $4) LIMIT 1
        ON CONFLICT (repo, digest) DO UPDATE SET linked_at = excluded.linked_at";
    let from = from.map(RepoName::to_string);
    let values = [repo.to_string().into(), now_ms().into(), digest.to_string().into(), from.into()];
    Ok(sql::execute(conn, "mounting a blob", text, values).await? > 0)
}

/// When a blob of a repository was last used, if the repository has it.
async fn linked_at<C: ConnectionTrait>(conn: &C, repo: &RepoName, digest: &Digest) -> Result<Option<i64>> {
    let found = blobs::Entity::find_by_id((repo.to_string(), digest.to_string())).one(conn).await;
    Ok(found.map_err(db_error("looking for a blob"))?.map(|link| link.linked_at))
}

/// The manifest that a reference names.
pub async fn find_manifest<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    reference: &Reference,
) -> Result<Option<StoredManifest>> {
    let query = manifests::Entity::find().filter(manifests::Column::Repo.eq(repo.as_str()));
    let query = match reference {
        Reference::Digest(digest) => query.filter(manifests::Column::Digest.eq(digest.to_string())),
        Reference::Tag(tag) => {
            let tagged = tags::Entity::find_by_id((repo.to_string(), tag.to_string()));
            let digest = tagged.select_only().column(tags::Column::Digest).into_query();
            query.filter(manifests::Column::Digest.in_subquery(digest))
        }
    };
    let Some(row) = query.one(conn).await.map_err(db_error("reading a manifest"))? else { return Ok(None) };
    Ok(Some(StoredManifest {
        digest: stored(&row.digest)?,
        media_type: row.media_type,
        bytes: row.bytes.into(),
        used_at: row.used_at,
    }))
}

/// Notes that a manifest is used now; false when it is not there.
pub async fn touch_manifest<C: ConnectionTrait>(conn: &C, repo: &RepoName, digest: &Digest) -> Result<bool> {
    let text = "UPDATE registry_manifests SET used_at = $1 WHERE repo = $2 AND digest = $3";
    let values = [now_ms().into(), repo.to_string().into(), digest.to_string().into()];
    Ok(sql::execute(conn, "noting an image's use", text, values).await? > 0)
}

/// The digests that a manifest needs and its repository does not have, and the manifests that are there with another
/// size than it says. The sizes of blobs are those of their files.
async fn missing<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifest: &Manifest,
) -> Result<(Vec<Digest>, Vec<Digest>)> {
    let texts = |digests: &[Digest]| digests.iter().map(Digest::to_string).collect::<Vec<_>>();
    let mut found: Vec<String> = Vec::new();
    let mut wrong = Vec::new();
    if !manifest.blobs().is_empty() {
        let query = blobs::Entity::find()
            .filter(blobs::Column::Repo.eq(repo.as_str()))
            .filter(blobs::Column::Digest.is_in(texts(manifest.blobs())));
        let query = query.select_only().column(blobs::Column::Digest).into_tuple();
        found = query.all(conn).await.map_err(db_error("looking for blobs"))?;
    }
    if !manifest.manifests().is_empty() {
        let query = manifests::Entity::find()
            .filter(manifests::Column::Repo.eq(repo.as_str()))
            .filter(manifests::Column::Digest.is_in(texts(manifest.manifests())));
        let size = Expr::cust("CAST(length(bytes) AS BIGINT)");
        let query = query.select_only().column(manifests::Column::Digest).column_as(size, "size").into_tuple();
        let rows: Vec<(String, i64)> = query.all(conn).await.map_err(db_error("looking for manifests"))?;
        for (digest, size) in rows {
            let known = stored(&digest)?;
            if manifest.size_of(&known) != u64::try_from(size).ok() {
                wrong.push(known);
            }
            found.push(digest);
        }
    }
    let found: HashSet<String> = found.into_iter().collect();
    let needed = manifest.blobs().iter().chain(manifest.manifests()).copied();
    Ok((needed.filter(|digest| !found.contains(&digest.to_string())).collect(), wrong))
}

async fn write_manifest<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifest: &Manifest,
    tag: Option<&NewTag>,
) -> Result<PutOutcome> {
    // The tag first: if it is taken, nothing is written.
    if let Some(tag) = tag
        && !write_tag(conn, repo, tag, manifest.digest()).await?
    {
        return Ok(PutOutcome::TagTaken);
    }
    write_manifests(conn, repo, &[manifest], []).await?;
    Ok(PutOutcome::Stored)
}

/// Writes manifests with what they need, and `more` pairs of a manifest and a digest that it needs besides.
async fn write_manifests<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifests: &[&Manifest],
    more: impl IntoIterator<Item = (Digest, Digest)>,
) -> Result<()> {
    let now = now_ms();
    let row = |manifest: &&Manifest| manifests::ActiveModel {
        repo: Set(repo.to_string()),
        digest: Set(manifest.digest().to_string()),
        media_type: Set(manifest.media_type().to_owned()),
        bytes: Set(manifest.bytes().to_vec()),
        pushed_at: Set(now),
        used_at: Set(now),
        subject: Set(manifest.subject().map(ToString::to_string)),
        artifact_type: Set(manifest.artifact_type().map(|text| storable(text).into_owned())),
    };
    let key = [manifests::Column::Repo, manifests::Column::Digest];
    manifests::Entity::insert_many(manifests.iter().map(row))
        .on_conflict(OnConflict::columns(key).update_column(manifests::Column::UsedAt).to_owned())
        .exec_without_returning(conn)
        .await
        .map_err(db_error("storing a manifest"))?;
    let needs = |manifest: Digest, digest: Digest| references::ActiveModel {
        repo: Set(repo.to_string()),
        manifest: Set(manifest.to_string()),
        digest: Set(digest.to_string()),
    };
    let stated = |manifest: &&Manifest| {
        let of = manifest.digest();
        manifest.blobs().iter().chain(manifest.manifests()).map(move |digest| (of, *digest)).collect::<Vec<_>>()
    };
    let needed: Vec<_> = manifests.iter().flat_map(stated).chain(more).map(|(of, digest)| needs(of, digest)).collect();
    if !needed.is_empty() {
        use references::Column as C;
        references::Entity::insert_many(needed)
            .on_conflict(OnConflict::columns([C::Repo, C::Manifest, C::Digest]).do_nothing().to_owned())
            .exec_without_returning(conn)
            .await
            .map_err(db_error("storing a manifest"))?;
    }
    Ok(())
}

/// Sets a tag; false if it holds something else and may not be moved.
async fn write_tag<C: ConnectionTrait>(conn: &C, repo: &RepoName, new: &NewTag, digest: Digest) -> Result<bool> {
    let column = |column| Expr::col((tags::Entity, column));
    let same = column(tags::Column::Digest).eq(digest.to_string());
    let allowed = if new.immutable { same } else { same.or(column(tags::Column::Immutable).eq(false)) };
    let mut conflict = OnConflict::columns([tags::Column::Repo, tags::Column::Tag]);
    conflict.update_column(tags::Column::Digest);
    if new.immutable {
        // Only ever set: the same image pushed by somebody else does not make the tag movable.
        conflict.update_column(tags::Column::Immutable);
    }
    conflict.action_and_where(allowed);
    let row = tags::ActiveModel {
        repo: Set(repo.to_string()),
        tag: Set(new.tag.to_string()),
        digest: Set(digest.to_string()),
        immutable: Set(new.immutable),
    };
    let insert = tags::Entity::insert(row).on_conflict(conflict).exec_without_returning(conn);
    Ok(insert.await.map_err(db_error("setting a tag"))? == 1)
}

fn stored(digest: &str) -> Result<Digest> {
    digest.parse().map_err(|e: Error| Error::internal("reading a stored digest", e))
}

/// The same on the build service's database, for the registry's HTTP interface.
#[derive(Debug, Clone)]
pub struct ManifestStore {
    db: Db,
    /// A use within this time is not recorded again.
    note_after: Duration,
}

impl ManifestStore {
    /// On a database with the registry's migrations. What nobody has used for `grace` may be collected.
    pub fn new(db: Db, grace: Duration) -> Self {
        Self { db, note_after: grace / 2 }
    }

    /// The database, for queries.
    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    /// Whether a use at `then` is long enough ago to note another one.
    fn is_due(&self, then: i64) -> bool {
        then <= now_ms() - i64::try_from(self.note_after.as_millis()).unwrap_or(i64::MAX)
    }

    /// Stores a manifest if everything it needs is in the repository.
    pub async fn put_manifest(&self, repo: &RepoName, manifest: &Manifest, tag: Option<&NewTag>) -> Result<PutOutcome> {
        let txn = self.db.begin().await?;
        let outcome = put_manifest(&txn, repo, manifest, tag).await?;
        if outcome == PutOutcome::Stored {
            txn.commit().await.map_err(db_error("storing a manifest"))?;
        }
        Ok(outcome)
    }

    /// The manifest that a reference names. Whoever got it has the grace time to do something with it.
    pub async fn get_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Option<StoredManifest>> {
        let Some(found) = find_manifest(self.db.read(), repo, reference).await? else { return Ok(None) };
        let is_there = !self.is_due(found.used_at)
            || self.change(async |txn| touch_manifest(txn, repo, &found.digest).await).await?;
        Ok(is_there.then_some(found))
    }

    /// Whether a blob is readable in a repository. A client then has the grace time to push its manifest.
    pub async fn has_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool> {
        let Some(used) = linked_at(self.db.read(), repo, digest).await? else { return Ok(false) };
        if !self.is_due(used) {
            return Ok(true);
        }
        let text = "UPDATE registry_blobs SET linked_at = $1 WHERE repo = $2 AND digest = $3";
        let values = [now_ms().into(), repo.to_string().into(), digest.to_string().into()];
        let touched = self.change(async |txn| sql::execute(txn, "noting a blob's use", text, values).await);
        Ok(touched.await? > 0)
    }

    /// Makes a blob readable in a repository.
    pub async fn link_blob(&self, repo: &RepoName, digest: &Digest) -> Result<()> {
        self.change(async |txn| link_blobs(txn, repo, &[*digest]).await).await
    }

    /// Makes a blob of another repository readable in this one, if that has it.
    pub async fn mount_blob(&self, repo: &RepoName, digest: &Digest, from: Option<&RepoName>) -> Result<bool> {
        self.change(async |txn| mount_blob(txn, repo, digest, from).await).await
    }

    /// Makes a change in a transaction of its own, so that nothing is collected meanwhile.
    async fn change<T>(&self, change: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T>) -> Result<T> {
        let txn = self.db.begin().await?;
        let changed = change(&txn).await?;
        txn.commit().await.map_err(db_error("changing the registry"))?;
        Ok(changed)
    }
}
