//! What is known of locks, packages and their layers.

use super::{KeptLock, READING, Store, WRITING, layer, lock, package, set};
use crate::{image::ImageLayer, layer::Layer};
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{Digest, Error, Name, Result};
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::OnConflict};
use std::collections::HashMap;

/// How many keys one query asks for.
const CHUNK: usize = 500;

impl Store {
    /// The lock that these requirements were resolved to for this agent: under this interpreter, or else the newest.
    pub async fn lock(&self, agent: &Name, requirements: Digest, interpreter: &str) -> Result<Option<KeptLock>> {
        let rows = lock::Entity::find()
            .filter(lock::Column::Agent.eq(agent.as_str()))
            .filter(lock::Column::Requirements.eq(requirements.to_string()))
            .order_by_desc(lock::Column::CreatedAt)
            .all(self.0.read())
            .await
            .map_err(db_error(READING))?;
        let at = rows.iter().position(|row| row.interpreter == interpreter).unwrap_or(0);
        let kept = |row: lock::Model| KeptLock { requirements, interpreter: row.interpreter, text: row.lock };
        Ok(rows.into_iter().nth(at).map(kept))
    }

    /// The layers that this whole lock made before.
    pub async fn layer_set(&self, inputs: Digest) -> Result<Option<Vec<ImageLayer>>> {
        let found = set::Entity::find_by_id(inputs.to_string()).one(self.0.read()).await.map_err(db_error(READING))?;
        let read = |row: set::Model| serde_json::from_str(&row.layers).map_err(|e| Error::internal(READING, e));
        found.map(read).transpose()
    }

    /// Remembers the layers that a whole lock makes.
    pub async fn remember_set(&self, inputs: Digest, layers: &[ImageLayer]) -> Result<()> {
        let layers = serde_json::to_string(layers).map_err(|e| Error::internal(WRITING, e))?;
        let row = set::ActiveModel { inputs: Set(inputs.to_string()), layers: Set(layers), created_at: Set(now_ms()) };
        let newer = OnConflict::column(set::Column::Inputs).update_column(set::Column::Layers).to_owned();
        let written = set::Entity::insert(row).on_conflict(newer).exec_without_returning(self.0.write()).await;
        written.map(drop).map_err(db_error(WRITING))
    }

    /// The unpacked sizes of those packages that were installed before.
    pub async fn package_sizes(&self, keys: impl Iterator<Item = Digest>) -> Result<HashMap<Digest, u64>> {
        let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
        let mut found = HashMap::new();
        for keys in keys.chunks(CHUNK) {
            let rows = package::Entity::find().filter(package::Column::Inputs.is_in(keys)).all(self.0.read()).await;
            for row in rows.map_err(db_error(READING))? {
                found.insert(row.inputs.parse()?, u64::try_from(row.size).unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Those of the layers that were made before.
    pub async fn layers(&self, keys: impl Iterator<Item = Digest>) -> Result<HashMap<Digest, Layer>> {
        let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
        let mut found = HashMap::new();
        for keys in keys.chunks(CHUNK) {
            let rows = layer::Entity::find().filter(layer::Column::Inputs.is_in(keys)).all(self.0.read()).await;
            for row in rows.map_err(db_error(READING))? {
                let size = u64::try_from(row.size).unwrap_or_default();
                let layer = Layer { digest: row.digest.parse()?, diff_id: row.diff_id.parse()?, size };
                found.insert(row.inputs.parse()?, layer);
            }
        }
        Ok(found)
    }

    /// Remembers sizes of packages and the layers that were made of them.
    pub async fn remember_packages(&self, sizes: &[(Digest, u64)], layers: &[(Digest, Layer)]) -> Result<()> {
        let (now, signed) = (now_ms(), |n: u64| i64::try_from(n).unwrap_or(i64::MAX));
        let txn = self.0.begin().await?;
        for sizes in sizes.chunks(CHUNK) {
            let rows = sizes.iter().map(|(key, size)| package::ActiveModel {
                inputs: Set(key.to_string()),
                size: Set(signed(*size)),
                created_at: Set(now),
            });
            let newer = OnConflict::column(package::Column::Inputs).update_column(package::Column::Size).to_owned();
            let written = package::Entity::insert_many(rows).on_conflict(newer).exec_without_returning(&txn).await;
            written.map_err(db_error(WRITING))?;
        }
        for layers in layers.chunks(CHUNK) {
            let rows = layers.iter().map(|(key, layer)| layer::ActiveModel {
                inputs: Set(key.to_string()),
                digest: Set(layer.digest.to_string()),
                diff_id: Set(layer.diff_id.to_string()),
                size: Set(signed(layer.size)),
                created_at: Set(now),
            });
            let newer = OnConflict::column(layer::Column::Inputs)
                .update_columns([layer::Column::Digest, layer::Column::DiffId, layer::Column::Size])
                .to_owned();
            let written = layer::Entity::insert_many(rows).on_conflict(newer).exec_without_returning(&txn).await;
            written.map_err(db_error(WRITING))?;
        }
        txn.commit().await.map_err(db_error(WRITING))
    }
}
