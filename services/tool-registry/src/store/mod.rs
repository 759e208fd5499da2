//! The tables and what is done with them. Every change is one transaction together with the record of its operation.

mod column_values;
mod deploy_effects;
mod deploys;
mod egress_feed;
mod entity;
mod identity_providers;
mod model_providers;
mod reseal;
#[cfg(test)]
mod stored_json_tests;
mod tools;

use crate::{echo_url::Addresses, migrations, vault::Vault};
use hoistway_kit::{
    db::{Db, Location, db_error},
    idempotency::{self, OperationStart},
    prune::{Retention, Rows, prune},
};
use hoistway_model::{Digest, Error, Operation, OperationId, Result};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QuerySelect, Select, sea_query::Expr,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

/// Rows of one kind; creating more is refused, so that lists are complete and bounded.
const MAX_ROWS: u64 = 10_000;

/// Applications that cannot be undone any more.
const SETTLED: Rows = Rows { table: "applications", key: "operation", time: "created_at", which: "settled" };

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
    pub(crate) async fn open(location: &Location, vault: Vault, addresses: Addresses) -> Result<Self> {
        let db = Db::open(location, migrations::ALL).await?;
        let store = Self { db, vault, addresses, changed: watch::Sender::new(()) };
        let resealed = store.reseal().await?;
        if resealed > 0 {
            tracing::info!("{resealed} credentials were sealed with the new master key");
        }
        Ok(store)
    }

    /// Forgets answers, tombstones and settled applications that are not to be kept.
    pub(crate) async fn purge(&self, keep: Retention) -> Result<()> {
        idempotency::forget(&self.db, keep).await?;
        prune(&self.db, &SETTLED, keep).await.map(drop)
    }

    /// The number of rows of each kind.
    pub(crate) async fn counts(&self) -> Result<[(&'static str, u64); 3]> {
        let (db, doing) = (self.db.read(), "counting what is registered");
        let tools = entity::tool::Entity::find().count(db);
        let models = entity::model_provider::Entity::find().count(db);
        let identities = entity::identity_provider::Entity::find().count(db);
        let (tools, models, identities) = tokio::try_join!(tools, models, identities).map_err(db_error(doing))?;
        Ok([("tool", tools), ("model_provider", models), ("identity_provider", identities)])
    }

    /// The size of the database in bytes.
    pub(crate) async fn size(&self) -> Result<u64> {
        self.db.size().await
    }

    /// Fails if the database does not answer.
    pub(crate) async fn ping(&self) -> Result<()> {
        self.db.ping().await
    }

    pub(crate) async fn close(&self) {
        self.db.close().await;
    }

    async fn once<T: DeserializeOwned>(&self, operation: &Operation, kind: &str, payload: Digest) -> Result<Once<T>> {
        let txn = self.db.begin().await?;
        match idempotency::begin(&txn, operation.id, kind, payload).await? {
            // Begin and finish share one transaction, so an unfinished one cannot be found.
            OperationStart::New | OperationStart::Unfinished => Ok(Once::First(txn)),
            OperationStart::Done(answer) => {
                let answer = serde_json::from_slice(&answer).map_err(|e| Error::internal("reading an answer", e))?;
                Ok(Once::Again(answer))
            }
        }
    }

    /// Keeps the answer and commits.
    async fn finish(&self, txn: DatabaseTransaction, id: OperationId, answer: &impl Serialize) -> Result<()> {
        let answer = serde_json::to_vec(answer).map_err(|e| Error::internal("writing an answer", e))?;
        idempotency::finish(&txn, id, &answer).await?;
        self.commit(txn).await
    }

    async fn commit(&self, txn: DatabaseTransaction) -> Result<()> {
        txn.commit().await.map_err(db_error("committing"))?;
        self.changed.send_replace(());
        Ok(())
    }
}

/// The number of bytes that rows hold, as `measure`, an expression of the database, has it.
async fn held<E: EntityTrait>(rows: Select<E>, measure: &'static str, txn: &impl ConnectionTrait) -> Result<i64> {
    let measured = rows.select_only().column_as(Expr::cust(measure), "bytes").into_tuple();
    let held: Option<Option<i64>> = measured.one(txn).await.map_err(db_error("measuring what is stored"))?;
    Ok(held.flatten().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::{db::DatabaseConfig, secrets::MasterKey};
    use hoistway_model::{
        Code, Name,
        page::PageQuery,
        tool::{Connection, NewTool, ToolUpdate},
    };
    use sea_orm::{ConnectionTrait, EntityTrait};
    use std::{collections::BTreeMap, path::Path, time::Duration};

    pub(super) async fn opened(dir: &Path) -> Store {
        let vault = Vault::new(MasterKey::from_bytes(&[7; 32]).unwrap());
        let addresses = Addresses::new(None, None, "127.0.0.1:1".parse().unwrap()).unwrap();
        let config = DatabaseConfig::from(hoistway_testing::database_url(dir));
        Store::open(&config.location("tool-registry", dir).await.unwrap(), vault, addresses).await.unwrap()
    }

    pub(super) fn named(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[tokio::test]
    async fn records_above_the_bounds_are_listed_changed_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(dir.path()).await;
        let new = |name: &str, description: String| NewTool {
            name: named(name),
            description,
            connection: store.addresses.echo(),
            labels: BTreeMap::new(),
            credentials: BTreeMap::new(),
        };
        for i in 0..300 {
            store.create_tool(&Operation::new(), &new(&format!("t{i:03}"), String::new())).await.unwrap();
        }
        let long = format!("UPDATE tools SET description = '{}'", "x".repeat(65_536));
        store.db.write().execute_unprepared(&long).await.unwrap();

        let (mut query, mut listed) = (PageQuery::FIRST, 0);
        loop {
            let page = store.list_tools(query).await.unwrap();
            listed += page.items.len();
            query = PageQuery { after: page.items.last().map(|tool| tool.name.clone()), limit: u32::MAX };
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, 300);
        let e = store.create_tool(&Operation::new(), &new("new", String::new())).await.unwrap_err();
        assert_eq!(e.code, Code::ResourceExhausted);

        // A description that is not touched stays, however long it is.
        let long = "x".repeat(65_536);
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let update = |tool| ToolUpdate { tool, version: None };
        let kept = update(NewTool { labels, ..new("t000", long.clone()) });
        assert_eq!(store.update_tool(&Operation::new(), &kept).await.unwrap_err().code, Code::ResourceExhausted);
        let moved =
            NewTool { connection: Connection { port: 1, ..store.addresses.echo() }, ..new("t000", long.clone()) };
        assert_eq!(store.update_tool(&Operation::new(), &update(moved)).await.unwrap().description, long);
        let e = store.update_tool(&Operation::new(), &update(new("t000", long.replace('x', "y")))).await.unwrap_err();
        assert_eq!(e.field.as_deref(), Some("description"));
        for i in 100..300 {
            store.delete_tool(&Operation::new(), &named(&format!("t{i:03}"))).await.unwrap();
        }
        store.create_tool(&Operation::new(), &new("new", String::new())).await.unwrap();
    }

    #[tokio::test]
    async fn effects_of_settled_deploys_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(dir.path()).await;
        for (id, settled) in [("1", true), ("2", false), ("3", true), ("4", false), ("5", true)] {
            let text = format!("INSERT INTO applications VALUES ('{id}', 'a', '{{}}', {settled}, {id})");
            store.db.write().execute_unprepared(&text).await.unwrap();
        }
        let left = async || {
            let rows = entity::application::Entity::find().all(store.db.read()).await.unwrap();
            rows.into_iter().map(|row| row.operation).collect::<Vec<_>>()
        };
        store.purge(Retention::new(Duration::MAX, 1)).await.unwrap();
        assert_eq!(left().await, ["2", "4", "5"]);
        store.purge(idempotency::kept(3600, 10)).await.unwrap();
        assert_eq!(left().await, ["2", "4"]);
    }
}
