//! Which images agents use. Whoever starts an agent pins its image first; a list of all images in use replaces the
//! pins now and then, so that what nobody uses any more is let go.

use super::{entity::pins, manifests, stored};
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{Code, Error, Result, image::StoredImage};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, sea_query::OnConflict};
use std::collections::HashSet;

const DOING: &str = "noting which images are in use";
/// Rows of one statement.
const BATCH: usize = 500;

/// Pins images; [`Code::ImageNotFound`] when one is not there. Needs a transaction.
pub async fn pin_images<C: ConnectionTrait>(conn: &C, images: &[StoredImage]) -> Result<()> {
    for image in images {
        let key = (image.repository.clone(), image.digest.to_string());
        if manifests::Entity::find_by_id(key).one(conn).await.map_err(db_error(DOING))?.is_none() {
            return Err(Error::new(Code::ImageNotFound, format!("the registry does not have the image {image}")));
        }
    }
    insert(conn, images).await
}

/// Replaces the pins by `in_use`, but for those that were made after `before` (milliseconds since the epoch), which
/// the list may be too old to have. Needs a transaction.
pub async fn replace_pins<C: ConnectionTrait>(conn: &C, in_use: &[StoredImage], before: i64) -> Result<()> {
    let rows = pins::Entity::find().all(conn).await.map_err(db_error(DOING))?;
    let wanted: HashSet<&StoredImage> = in_use.iter().collect();
    let mut pinned = HashSet::new();
    for row in rows {
        let image = StoredImage { repository: row.repo, digest: stored(&row.digest)? };
        if row.pinned_at < before && !wanted.contains(&image) {
            let gone = pins::Entity::delete_by_id((image.repository.clone(), image.digest.to_string())).exec(conn);
            gone.await.map_err(db_error(DOING))?;
        }
        pinned.insert(image);
    }
    let new: Vec<StoredImage> = wanted.into_iter().filter(|image| !pinned.contains(*image)).cloned().collect();
    insert(conn, &new).await
}

/// Whether an image is pinned.
pub(super) async fn is_pinned<C: ConnectionTrait>(conn: &C, repo: &str, digest: &str) -> Result<bool> {
    let found = pins::Entity::find().filter(pins::Column::Repo.eq(repo)).filter(pins::Column::Digest.eq(digest));
    Ok(found.one(conn).await.map_err(db_error(DOING))?.is_some())
}

async fn insert<C: ConnectionTrait>(conn: &C, images: &[StoredImage]) -> Result<()> {
    let now = now_ms();
    // PostgreSQL refuses a row twice in one statement.
    let images: Vec<&StoredImage> = images.iter().collect::<HashSet<_>>().into_iter().collect();
    for batch in images.chunks(BATCH) {
        let rows = batch.iter().map(|image| pins::ActiveModel {
            repo: Set(image.repository.clone()),
            digest: Set(image.digest.to_string()),
            pinned_at: Set(now),
        });
        pins::Entity::insert_many(rows)
            .on_conflict(
                OnConflict::columns([pins::Column::Repo, pins::Column::Digest])
                    .update_column(pins::Column::PinnedAt)
                    .to_owned(),
            )
            .exec_without_returning(conn)
            .await
            .map_err(db_error(DOING))?;
    }
    Ok(())
}
