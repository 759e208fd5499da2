//! Deleting what was pushed, and refusing to delete what is in use. All of it needs a transaction.

use super::{
    entity::{blobs, manifests, references, tags},
    pins::is_pinned,
    sql,
};
use crate::registry::name::{Reference, RepoName, Tag};
use hoistway_kit::db::db_error;
use hoistway_model::{Digest, Result};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter};

const DOING: &str = "deleting from the registry";

/// The outcome of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Done,
    /// There is no such thing.
    Unknown,
    /// It is in use; the text says by what.
    Kept(String),
}

/// The image that builds begin with, if the operator named one.
pub type Base = Option<(RepoName, Reference)>;

/// Deletes a tag; the manifest that it names stays.
pub async fn delete_tag<C: ConnectionTrait>(conn: &C, repo: &RepoName, tag: &Tag, base: &Base) -> Result<Deletion> {
    let key = (repo.to_string(), tag.to_string());
    let found = tags::Entity::find_by_id(key.clone()).one(conn).await.map_err(db_error(DOING))?;
    let Some(row) = found else { return Ok(Deletion::Unknown) };
    if row.immutable {
        return Ok(Deletion::Kept(format!("\"{repo}:{tag}\" is an agent's image, {BUILT}")));
    }
    if base.as_ref().is_some_and(|(of, name)| of == repo && *name == Reference::Tag(tag.clone())) {
        return Ok(Deletion::Kept(format!("\"{repo}:{tag}\" is the base image of builds")));
    }
    tags::Entity::delete_by_id(key).exec(conn).await.map_err(db_error(DOING))?;
    Ok(Deletion::Done)
}

const BUILT: &str = "which goes by itself when no agent uses it any more";

/// Deletes a manifest and every tag that names it.
pub async fn delete_manifest<C: ConnectionTrait>(
    conn: &C,
    repo: &RepoName,
    digest: &Digest,
    base: &Base,
) -> Result<Deletion> {
    let (name, text) = (repo.to_string(), digest.to_string());
    let found = manifests::Entity::find_by_id((name.clone(), text.clone())).one(conn).await.map_err(db_error(DOING))?;
    if found.is_none() {
        return Ok(Deletion::Unknown);
    }
    let tagged = tags::Entity::find().filter(tags::Column::Repo.eq(&name)).filter(tags::Column::Digest.eq(&text));
    let tagged = tagged.all(conn).await.map_err(db_error(DOING))?;
    if let Some(built) = tagged.iter().find(|tag| tag.immutable) {
        return Ok(Deletion::Kept(format!("it is the agent's image \"{repo}:{}\", {BUILT}", built.tag)));
    }
    if is_pinned(conn, &name, &text).await? {
        return Ok(Deletion::Kept("an agent uses it: delete the agent, or deploy it with another image, first".into()));
    }
    let is_base = base.as_ref().is_some_and(|(of, reference)| {
        of == repo
            && match reference {
                Reference::Digest(base) => base == digest,
                Reference::Tag(base) => tagged.iter().any(|tag| tag.tag == base.as_str()),
            }
    });
    if is_base {
        return Ok(Deletion::Kept("it is the base image of builds".into()));
    }
    if let Some(image) = owner(conn, &name, &text).await? {
        return Ok(Deletion::Kept(format!("it belongs to the agent's image {image} and goes with it")));
    }
    if let Some(index) = needed_by(conn, &name, &text).await? {
        return Ok(Deletion::Kept(format!("the index {index} lists it: delete that first")));
    }
    remove_manifest(conn, &name, &text).await?;
    Ok(Deletion::Done)
}

/// Takes a blob away from a repository.
pub async fn delete_blob<C: ConnectionTrait>(conn: &C, repo: &RepoName, digest: &Digest) -> Result<Deletion> {
    let (name, text) = (repo.to_string(), digest.to_string());
    if let Some(manifest) = needed_by(conn, &name, &text).await? {
        return Ok(Deletion::Kept(format!("the manifest {manifest} needs it: delete that first")));
    }
    let gone = blobs::Entity::delete_by_id((name, text)).exec(conn).await.map_err(db_error(DOING))?;
    Ok(if gone.rows_affected > 0 { Deletion::Done } else { Deletion::Unknown })
}

/// A manifest of the repository that refers to this digest.
async fn needed_by<C: ConnectionTrait>(conn: &C, repo: &str, digest: &str) -> Result<Option<String>> {
    let found = references::Entity::find()
        .filter(references::Column::Digest.eq(digest))
        .filter(references::Column::Repo.eq(repo))
        .one(conn);
    Ok(found.await.map_err(db_error(DOING))?.map(|row| row.manifest))
}

/// The image whose build wrote this manifest about it.
async fn owner<C: ConnectionTrait>(conn: &C, repo: &str, digest: &str) -> Result<Option<String>> {
    let text = "SELECT m.subject FROM registry_manifests m WHERE m.repo = $1 AND m.digest = $2 AND EXISTS (
        SELECT 1 FROM registry_references r WHERE r.repo = m.repo AND r.manifest = m.subject AND r.digest = m.digest)";
    let found: Vec<Owned> = sql::query(conn, DOING, text, [repo.into(), digest.into()]).await?;
    Ok(found.into_iter().next().map(|row| row.subject))
}

#[derive(FromQueryResult)]
struct Owned {
    subject: String,
}

/// Removes a manifest with its tags and all that it says it needs.
pub(super) async fn remove_manifest<C: ConnectionTrait>(conn: &C, repo: &str, digest: &str) -> Result<()> {
    for text in [
        "DELETE FROM registry_tags WHERE repo = $1 AND digest = $2",
        "DELETE FROM registry_references WHERE repo = $1 AND manifest = $2",
        "DELETE FROM registry_manifests WHERE repo = $1 AND digest = $2",
    ] {
        sql::execute(conn, DOING, text, [repo.into(), digest.into()]).await?;
    }
    Ok(())
}
