//! Manifests, tags and which blobs a repository has, in the build service's database.
//!
//! The functions take any connection, so that the build service can write an image and its own rows in one
//! transaction; [`SqlManifestStore`] wraps them for the registry's HTTP interface.

use super::{
    manifest::Manifest,
    name::{Reference, RepoName, Tag},
};
use async_trait::async_trait;
use bytes::Bytes;
use hoistway_kit::{
    db::{Db, db_error},
    time::now_ms,
};
use hoistway_model::{Digest, Error, Result};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};
use std::collections::HashSet;

mod manifests {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "registry_manifests")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub repo: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub digest: String,
        pub media_type: String,
        pub bytes: Vec<u8>,
        pub pushed_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod tags {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "registry_tags")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub repo: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub tag: String,
        pub digest: String,
        pub immutable: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod blobs {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "registry_blobs")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub repo: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub digest: String,
        pub linked_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Makes the registry's tables.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_registry"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Written out rather than taken from the entities, which may change later; a migration never does.
        let tables = "
            CREATE TABLE registry_manifests (
                repo TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, bytes BLOB NOT NULL,
                pushed_at BIGINT NOT NULL, PRIMARY KEY (repo, digest));
            CREATE TABLE registry_tags (
                repo TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, immutable BOOLEAN NOT NULL,
                PRIMARY KEY (repo, tag));
            CREATE TABLE registry_blobs (
                repo TEXT NOT NULL, digest TEXT NOT NULL, linked_at BIGINT NOT NULL, PRIMARY KEY (repo, digest));";
        manager.get_connection().execute_unprepared(tables).await.map(drop)
    }
}

/// The name that a manifest is stored under.
#[derive(Debug, Clone)]
pub struct NewTag {
    /// The tag.
    pub tag: Tag,
    /// Never moves again, and is not taken if it holds something else already. The tags of agents' images are such.
    pub immutable: bool,
}

/// What became of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is stored, and tagged if that was asked for.
    Stored,
    /// Nothing was written: these blobs or manifests are not in the repository.
    Missing(Vec<Digest>),
    /// Nothing was written: the tag holds another manifest and may not be moved.
    TagTaken,
}

/// A manifest as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// What it was pushed as.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Stores an image whose blobs are in the blob store: links them to the repository, tags and stores the manifest.
/// Three statements, for the build service's transaction. On [`PutOutcome::TagTaken`] the blobs are linked and nothing
/// else is written.
pub async fn publish_image<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifest: &Manifest,
    tag: &NewTag,
) -> Result<PutOutcome> {
    link_blobs(conn, repo, manifest.blobs()).await?;
    write_manifest(conn, repo, manifest, Some(tag)).await
}

/// Stores a manifest if everything it needs is in the repository. Needs a transaction, so that nothing is removed
/// between looking and writing.
pub async fn put_manifest<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    manifest: &Manifest,
    tag: Option<&NewTag>,
) -> Result<PutOutcome> {
    let missing = missing(conn, repo, manifest).await?;
    if !missing.is_empty() {
        return Ok(PutOutcome::Missing(missing));
    }
    write_manifest(conn, repo, manifest, tag).await
}

/// Makes blobs readable in a repository.
pub async fn link_blobs<C: ConnectionTrait>(conn: &C, repo: &RepoName, digests: &[Digest]) -> Result<()> {
    let now = now_ms();
    let row = |digest: &Digest| blobs::ActiveModel {
        repo: Set(repo.to_string()),
        digest: Set(digest.to_string()),
        linked_at: Set(now),
    };
    blobs::Entity::insert_many(digests.iter().map(row))
        .on_conflict(OnConflict::columns([blobs::Column::Repo, blobs::Column::Digest]).do_nothing().to_owned())
        .exec_without_returning(conn)
        .await
        .map_err(db_error("linking blobs"))?;
    Ok(())
}

/// Whether a blob is readable in a repository.
pub async fn has_blob<C: ConnectionTrait>(conn: &C, repo: &RepoName, digest: &Digest) -> Result<bool> {
    let found = blobs::Entity::find_by_id((repo.to_string(), digest.to_string())).one(conn).await;
    Ok(found.map_err(db_error("looking for a blob"))?.is_some())
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
    Ok(Some(StoredManifest { digest: stored(&row.digest)?, media_type: row.media_type, bytes: row.bytes.into() }))
}

/// At most `limit` tags of a repository in byte order, those after `last`.
pub async fn list_tags<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    limit: u64,
    last: Option<&str>,
) -> Result<Vec<String>> {
    let mut query = tags::Entity::find().filter(tags::Column::Repo.eq(repo.as_str()));
    if let Some(last) = last {
        query = query.filter(tags::Column::Tag.gt(last));
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

/// What a manifest needs and its repository does not have.
async fn missing<C: ConnectionTrait>(conn: &C, repo: &RepoName, manifest: &Manifest) -> Result<Vec<Digest>> {
    let texts = |digests: &[Digest]| digests.iter().map(Digest::to_string).collect::<Vec<_>>();
    let mut found = Vec::new();
    if !manifest.blobs().is_empty() {
        let query = blobs::Entity::find()
            .filter(blobs::Column::Repo.eq(repo.as_str()))
            .filter(blobs::Column::Digest.is_in(texts(manifest.blobs())));
        let query = query.select_only().column(blobs::Column::Digest).into_tuple();
        found = query.all(conn).await.map_err(db_error("looking for blobs"))?;
    }
    if !manifest.children().is_empty() {
        let query = manifests::Entity::find()
            .filter(manifests::Column::Repo.eq(repo.as_str()))
            .filter(manifests::Column::Digest.is_in(texts(manifest.children())));
        let query = query.select_only().column(manifests::Column::Digest).into_tuple();
        found = query.all(conn).await.map_err(db_error("looking for manifests"))?;
    }
    let found: HashSet<String> = found.into_iter().collect();
    let needed = manifest.blobs().iter().chain(manifest.children()).copied();
    Ok(needed.filter(|digest| !found.contains(&digest.to_string())).collect())
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
    let row = manifests::ActiveModel {
        repo: Set(repo.to_string()),
        digest: Set(manifest.digest().to_string()),
        media_type: Set(manifest.media_type().to_owned()),
        bytes: Set(manifest.bytes().to_vec()),
        pushed_at: Set(now_ms()),
    };
    let key = [manifests::Column::Repo, manifests::Column::Digest];
    manifests::Entity::insert(row)
        .on_conflict(OnConflict::columns(key).do_nothing().to_owned())
        .exec_without_returning(conn)
        .await
        .map_err(db_error("storing a manifest"))?;
    Ok(PutOutcome::Stored)
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

/// What the registry's HTTP interface needs to know and keep. Blobs themselves are in the blob store.
#[async_trait]
pub trait ManifestStore: Send + Sync {
    /// Stores a manifest if everything it needs is in the repository.
    async fn put_manifest(&self, repo: &RepoName, manifest: &Manifest, tag: Option<&NewTag>) -> Result<PutOutcome>;
    /// The manifest that a reference names.
    async fn get_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Option<StoredManifest>>;
    /// At most `limit` tags in byte order, those after `last`.
    async fn list_tags(&self, repo: &RepoName, limit: u64, last: Option<&str>) -> Result<Vec<String>>;
    /// Whether anything was ever pushed to a repository.
    async fn repo_exists(&self, repo: &RepoName) -> Result<bool>;
    /// Makes a blob readable in a repository.
    async fn link_blob(&self, repo: &RepoName, digest: &Digest) -> Result<()>;
    /// Whether a blob is readable in a repository.
    async fn has_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool>;
}

/// The store in the build service's database.
#[derive(Debug, Clone)]
pub struct SqlManifestStore {
    db: Db,
}

impl SqlManifestStore {
    /// On a database whose migrations include [`Migration`].
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl ManifestStore for SqlManifestStore {
    async fn put_manifest(&self, repo: &RepoName, manifest: &Manifest, tag: Option<&NewTag>) -> Result<PutOutcome> {
        let txn = self.db.begin().await?;
        let outcome = put_manifest(&txn, repo, manifest, tag).await?;
        if outcome == PutOutcome::Stored {
            txn.commit().await.map_err(db_error("storing a manifest"))?;
        }
        Ok(outcome)
    }

    async fn get_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Option<StoredManifest>> {
        find_manifest(self.db.read(), repo, reference).await
    }

    async fn list_tags(&self, repo: &RepoName, limit: u64, last: Option<&str>) -> Result<Vec<String>> {
        list_tags(self.db.read(), repo, limit, last).await
    }

    async fn repo_exists(&self, repo: &RepoName) -> Result<bool> {
        repo_exists(self.db.read(), repo).await
    }

    async fn link_blob(&self, repo: &RepoName, digest: &Digest) -> Result<()> {
        link_blobs(self.db.write(), repo, &[*digest]).await
    }

    async fn has_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool> {
        has_blob(self.db.read(), repo, digest).await
    }
}
