//! Letting go what belongs to images that nobody uses.

use super::{
    Store,
    entity::{build, layer},
};
use crate::registry::store::{Retention, collect_images};
use hoistway_kit::db::db_error;
use hoistway_model::{Digest, Result, build::BuildStatus, image::StoredImage};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

const DOING: &str = "removing the records of images";

impl Store {
    /// Removes a batch of images that nobody uses, and the records of their builds with them; what is gone.
    pub async fn collect(&self, retention: Retention, base: Option<&StoredImage>) -> Result<Vec<StoredImage>> {
        let txn = self.0.begin().await?;
        let gone = collect_images(&txn, retention, base).await?;
        for image in &gone {
            build::Entity::delete_many()
                .filter(build::Column::Repository.eq(&image.repository))
                .filter(build::Column::Digest.eq(image.digest.to_string()))
                .exec(&txn)
                .await
                .map_err(db_error(DOING))?;
        }
        if !gone.is_empty() {
            txn.commit().await.map_err(db_error(DOING))?;
        }
        Ok(gone)
    }

    /// Forgets the locks, made or used before the moment `before`, of agents that have no image any more.
    pub async fn forget_locks(&self, before: i64) -> Result<()> {
        let text = "DELETE FROM locks WHERE created_at < $1 AND NOT EXISTS (
            SELECT 1 FROM builds WHERE builds.agent = locks.agent AND builds.status = $2)";
        let values = [before.into(), BuildStatus::Succeeded.as_str().into()];
        self.0.execute_alone(DOING, text, values).await.map(drop)
    }

    /// Forgets dependency layers whose blobs are gone.
    pub async fn forget_layers(&self, gone: &[Digest]) -> Result<()> {
        for batch in gone.chunks(200) {
            let digests = batch.iter().map(Digest::to_string);
            layer::Entity::delete_many()
                .filter(layer::Column::Digest.is_in(digests))
                .exec(self.0.write())
                .await
                .map_err(db_error(DOING))?;
        }
        Ok(())
    }
}
