//! Stored facts about locks, packages and their layers.

use super::{
    KeptLock, READING, Store, WRITING,
    entity::{layer, layer_set, lock, package},
};
use crate::{image::ImageLayer, layer::Layer};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{Digest, Error, Name, Result, source::Requirements};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::OnConflict,
};
use std::collections::{BTreeMap, HashMap};

/// The number of keys that one query asks for.
const CHUNK: usize = 500;

/// The layers of a whole lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSet {
    /// Lowest first.
    pub layers: Vec<ImageLayer>,
    /// Sentences about files that several of the packages have.
    pub clashes: Vec<String>,
}

/// A package that was installed before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownPackage {
    /// Unpacked bytes; 0 when nothing of it is installed on this platform.
    pub size: u64,
    /// Its files, each with the beginning of its checksum.
    pub files: BTreeMap<String, String>,
}

impl Store {
    /// The lock that these requirements were resolved to for this agent: under this interpreter, or else the newest.
    pub async fn lock(&self, agent: &Name, requirements: &Requirements, interpreter: &str) -> Result<Option<KeptLock>> {
        let rows = lock::Entity::find()
            .filter(lock::Column::Agent.eq(agent.as_str()))
            .filter(lock::Column::Requirements.eq(requirements.digest().to_string()))
            .order_by_desc(lock::Column::CreatedAt)
            .all(self.0.read())
            .await
            .map_err(db_error(READING))?;
        let at = rows.iter().position(|row| row.interpreter == interpreter).unwrap_or(0);
        let kept = |row: lock::Model| {
            let requirements = requirements.clone();
            KeptLock { requirements, interpreter: row.interpreter, text: row.lock }
        };
        Ok(rows.into_iter().nth(at).map(kept))
    }

    /// The lock of what was built or reused last for an agent; none where its requirements are not known.
    pub async fn newest_lock(&self, agent: &Name) -> Result<Option<KeptLock>> {
        let newest = lock::Entity::find()
            .filter(lock::Column::Agent.eq(agent.as_str()))
            .order_by_desc(lock::Column::CreatedAt)
            .order_by_asc(lock::Column::Requirements)
            .order_by_asc(lock::Column::Interpreter)
            .one(self.0.read())
            .await
            .map_err(db_error(READING))?;
        // An earlier version of Hoistway did not keep them.
        let Some(row) = newest.filter(|row| !row.requirements_text.is_empty()) else { return Ok(None) };
        match Requirements::parse("requirements", &row.requirements_text) {
            Ok(requirements) => Ok(Some(KeptLock { requirements, interpreter: row.interpreter, text: row.lock })),
            Err(e) => {
                tracing::warn!("the last requirements of {agent} are not known, so versions may change: {e}");
                Ok(None)
            }
        }
    }

    /// The layers that this whole lock made before.
    pub async fn layer_set(&self, inputs: Digest) -> Result<Option<PackageSet>> {
        let found =
            layer_set::Entity::find_by_id(inputs.to_string()).one(self.0.read()).await.map_err(db_error(READING))?;
        let Some(row) = found else { return Ok(None) };
        let failed = |e| Error::internal(READING, e);
        let layers = serde_json::from_str(&row.layers).map_err(failed)?;
        let clashes = serde_json::from_str(&row.clashes).map_err(failed)?;
        Ok(Some(PackageSet { layers, clashes }))
    }

    /// Remembers what a whole lock makes.
    pub async fn remember_set(&self, inputs: Digest, made: &PackageSet) -> Result<()> {
        let failed = |e| Error::internal(WRITING, e);
        let row = layer_set::ActiveModel {
            inputs: Set(inputs.to_string()),
            layers: Set(serde_json::to_string(&made.layers).map_err(failed)?),
            clashes: Set(serde_json::to_string(&made.clashes).map_err(failed)?),
            created_at: Set(now_ms()),
        };
        let newer = OnConflict::column(layer_set::Column::Inputs)
            .update_columns([layer_set::Column::Layers, layer_set::Column::Clashes])
            .to_owned();
        let written = layer_set::Entity::insert(row).on_conflict(newer).exec_without_returning(self.0.write()).await;
        written.map(drop).map_err(db_error(WRITING))
    }

    /// Those of the packages that were installed before.
    pub async fn packages(&self, keys: impl Iterator<Item = Digest>) -> Result<HashMap<Digest, KnownPackage>> {
        let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
        let mut rows = Vec::new();
        for keys in keys.chunks(CHUNK) {
            let found = package::Entity::find().filter(package::Column::Inputs.is_in(keys)).all(self.0.read()).await;
            rows.extend(found.map_err(db_error(READING))?);
        }
        let read = move || rows.into_iter().map(|row| Ok((row.inputs.parse()?, known(&row)?))).collect();
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal(READING, e))?
    }

    /// Whether something of each package is installed on this platform, for those that were installed before.
    pub async fn are_installed(&self, keys: impl Iterator<Item = Digest>) -> Result<HashMap<Digest, bool>> {
        let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
        let mut found = HashMap::new();
        for keys in keys.chunks(CHUNK) {
            let query = package::Entity::find().filter(package::Column::Inputs.is_in(keys)).select_only();
            let columns = query.column(package::Column::Inputs).column(package::Column::Size).into_tuple();
            let rows: Vec<(String, i64)> = columns.all(self.0.read()).await.map_err(db_error(READING))?;
            for (inputs, size) in rows {
                found.insert(inputs.parse()?, size > 0);
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

    /// Remembers packages and the layers that were made of them.
    pub async fn remember_packages(
        &self,
        packages: &[(Digest, KnownPackage)],
        layers: &[(Digest, Layer)],
    ) -> Result<()> {
        let (now, signed) = (now_ms(), |n: u64| i64::try_from(n).unwrap_or(i64::MAX));
        let packages = packages.to_vec();
        let rows = move || {
            let row = |(key, package): &(Digest, KnownPackage)| {
                Ok(package::ActiveModel {
                    inputs: Set(key.to_string()),
                    size: Set(signed(package.size)),
                    files: Set(packed(&package.files)?),
                    created_at: Set(now),
                })
            };
            packages.iter().map(row).collect::<Result<Vec<_>>>()
        };
        let rows = tokio::task::spawn_blocking(rows).await.map_err(|e| Error::internal(WRITING, e))??;
        let txn = self.0.begin().await?;
        for rows in rows.chunks(CHUNK) {
            let newer = OnConflict::column(package::Column::Inputs)
                .update_columns([package::Column::Size, package::Column::Files])
                .to_owned();
            let insert = package::Entity::insert_many(rows.to_vec()).on_conflict(newer);
            insert.exec_without_returning(&txn).await.map_err(db_error(WRITING))?;
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

fn known(row: &package::Model) -> Result<KnownPackage> {
    let files = serde_json::from_reader(GzDecoder::new(&row.files[..])).map_err(|e| Error::internal(READING, e))?;
    Ok(KnownPackage { size: u64::try_from(row.size).unwrap_or_default(), files })
}

fn packed(files: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    serde_json::to_writer(&mut packed, files).map_err(|e| Error::internal(WRITING, e))?;
    packed.finish().map_err(|e| Error::internal(WRITING, e))
}
