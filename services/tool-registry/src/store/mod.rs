//! The tables and what is done with them. Every change is one transaction together with the record of its operation.

mod deploys;
mod entity;
mod identities;
mod providers;
mod reseal;
mod text;
mod tools;

use crate::{address::Addresses, migration, vault::Vault};
use hoistway_kit::{
    db::{Db, db_error},
    operations::{self, Begun},
};
use hoistway_model::{Digest, Error, Operation, OperationId, Result};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// Rows of one kind; creating more is refused, so that lists are complete and bounded.
const MAX_ROWS: u64 = 10_000;

/// The database of the tool registry. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Db,
    vault: Vault,
    addresses: Addresses,
}

/// A call that is done once.
enum Once<T> {
    /// Do it in this transaction, then [`finish`].
    First(DatabaseTransaction),
    /// It was done; this is what it answered.
    Again(T),
}

impl Store {
    pub(crate) async fn open(path: &Path, vault: Vault, addresses: Addresses) -> Result<Self> {
        let store = Self { db: Db::open(path, migration::all()).await?, vault, addresses };
        let resealed = store.reseal().await?;
        if resealed > 0 {
            tracing::info!("{resealed} credentials were sealed with the new master key");
        }
        Ok(store)
    }

    /// Forgets answers, tombstones and settled applications from before the moment `before`.
    pub(crate) async fn purge(&self, before: i64) -> Result<()> {
        operations::purge(self.db.write(), before).await?;
        entity::application::Entity::delete_many()
            .filter(entity::application::Column::Settled.eq(true))
            .filter(entity::application::Column::CreatedAt.lt(before))
            .exec(self.db.write())
            .await
            .map_err(db_error("forgetting old deploys"))?;
        Ok(())
    }

    /// How many rows there are of each kind.
    pub(crate) async fn counts(&self) -> Result<[(&'static str, u64); 3]> {
        let (db, doing) = (self.db.read(), "counting what is registered");
        let tools = entity::tool::Entity::find().count(db);
        let models = entity::model_provider::Entity::find().count(db);
        let identities = entity::identity_provider::Entity::find().count(db);
        let (tools, models, identities) = tokio::try_join!(tools, models, identities).map_err(db_error(doing))?;
        Ok([("tool", tools), ("model_provider", models), ("identity_provider", identities)])
    }

    pub(crate) async fn close(&self) {
        self.db.close().await;
    }

    async fn once<T: DeserializeOwned>(&self, operation: &Operation, kind: &str, payload: Digest) -> Result<Once<T>> {
        let txn = self.db.begin().await?;
        match operations::begin(&txn, operation.id, kind, payload).await? {
            // Begin and finish share one transaction, so an unfinished one cannot be found.
            Begun::New | Begun::Unfinished => Ok(Once::First(txn)),
            Begun::Done(answer) => {
                let answer = serde_json::from_slice(&answer).map_err(|e| Error::internal("reading an answer", e))?;
                Ok(Once::Again(answer))
            }
        }
    }
}

/// Keeps the answer and commits.
async fn finish(txn: DatabaseTransaction, id: OperationId, answer: &impl Serialize) -> Result<()> {
    let answer = serde_json::to_vec(answer).map_err(|e| Error::internal("writing an answer", e))?;
    operations::finish(&txn, id, &answer).await?;
    commit(txn).await
}

async fn commit(txn: DatabaseTransaction) -> Result<()> {
    txn.commit().await.map_err(db_error("committing"))
}
