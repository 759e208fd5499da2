//! The tables and what is done with them. Every change is one transaction together with the record of its operation.

mod access;
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
    prune::{Keep, Rows, prune},
};
use hoistway_model::{Digest, Error, Operation, OperationId, Result};
use sea_orm::{DatabaseTransaction, EntityTrait, PaginatorTrait};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;
use tokio::sync::watch;

/// Rows of one kind; creating more is refused, so that lists are complete and bounded.
const MAX_ROWS: u64 = 10_000;

/// What deploys did that cannot be undone any more.
const SETTLED: Rows = Rows { table: "applications", time: "created_at", which: "settled" };

/// The database of the tool registry. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Db,
    vault: Vault,
    addresses: Addresses,
    /// Wakes followers after each commit.
    changed: watch::Sender<()>,
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
        let db = Db::open(path, migration::all()).await?;
        let store = Self { db, vault, addresses, changed: watch::Sender::new(()) };
        let resealed = store.reseal().await?;
        if resealed > 0 {
            tracing::info!("{resealed} credentials were sealed with the new master key");
        }
        Ok(store)
    }

    /// Forgets answers, tombstones and settled applications that are not to be kept.
    pub(crate) async fn purge(&self, keep: Keep) -> Result<()> {
        operations::forget(&self.db, keep).await?;
        prune(&self.db, &SETTLED, keep).await.map(drop)
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

    /// Keeps the answer and commits.
    async fn finish(&self, txn: DatabaseTransaction, id: OperationId, answer: &impl Serialize) -> Result<()> {
        let answer = serde_json::to_vec(answer).map_err(|e| Error::internal("writing an answer", e))?;
        operations::finish(&txn, id, &answer).await?;
        self.commit(txn).await
    }

    async fn commit(&self, txn: DatabaseTransaction) -> Result<()> {
        txn.commit().await.map_err(db_error("committing"))?;
        self.changed.send_replace(());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::secrets::MasterKey;
    use sea_orm::{ConnectionTrait, EntityTrait};
    use std::time::Duration;

    #[tokio::test]
    async fn what_old_deploys_did_is_forgotten_once_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(MasterKey::from_bytes(&[7; 32]).unwrap());
        let addresses = Addresses::new(None, None, "127.0.0.1:1".parse().unwrap()).unwrap();
        let store = Store::open(&dir.path().join("tools.db"), vault, addresses).await.unwrap();
        for (id, settled) in [("1", true), ("2", false), ("3", true), ("4", false), ("5", true)] {
            let text = format!("INSERT INTO applications VALUES ('{id}', 'a', '{{}}', {settled}, {id})");
            store.db.write().execute_unprepared(&text).await.unwrap();
        }
        let left = async || {
            let rows = entity::application::Entity::find().all(store.db.read()).await.unwrap();
            rows.into_iter().map(|row| row.operation).collect::<Vec<_>>()
        };
        store.purge(Keep::new(Duration::MAX, 1)).await.unwrap();
        assert_eq!(left().await, ["2", "4", "5"]);
        store.purge(operations::kept(3600, 10)).await.unwrap();
        assert_eq!(left().await, ["2", "4"]);
    }
}
