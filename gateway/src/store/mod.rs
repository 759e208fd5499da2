//! The journal of deployments, the API keys and the audit log, in one database. sea-orm is used only here.

mod audit;
mod deployment;
mod key;

pub use audit::AuditStore;
pub use key::KeyStore;

use crate::{audit::entry::Entry, deploy::DeploymentQuery, events::Events, migrations, saga::record::Record};
use hoistway_kit::{
    db::{Db, Location, db_error},
    prune::{Pruned, Retention, prune},
};
use hoistway_model::{Code, DeploymentId, Error, Result};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};
use std::sync::Arc;

const WRITING: &str = "writing the deployment journal";
const READING: &str = "reading the deployment journal";

/// The failure to write a new deployment.
#[derive(Debug)]
pub enum InsertError {
    /// It is not written.
    Refused(Error),
    /// The answer to the commit was lost with the connection: it may be written.
    Unknown(Error),
}

/// The journal.
#[derive(Debug, Clone)]
pub struct Journal {
    db: Db,
    /// Publishes every record that is written.
    events: Option<Arc<Events>>,
}

impl Journal {
    /// Opens the journal's database, creating or migrating it.
    pub async fn open(location: &Location) -> Result<Self> {
        Ok(Self { db: Db::open(location, migrations::ALL).await?, events: None })
    }

    /// Publishes every record to `events` once it is durable.
    pub fn publishing_to(self, events: Arc<Events>) -> Self {
        Self { events: Some(events), ..self }
    }

    fn publish(&self, record: &Record) {
        if let Some(events) = &self.events {
            events.deployment_changed(record);
        }
    }

    /// Fails if the database does not answer.
    pub async fn ping(&self) -> Result<()> {
        self.db.ping().await
    }

    /// Returns the API keys in the same database.
    pub fn keys(&self) -> KeyStore {
        KeyStore(self.db.clone())
    }

    /// Returns the audit log in the same database.
    pub fn audit(&self) -> AuditStore {
        AuditStore(self.db.clone())
    }

    /// Writes a new deployment with its sealed request and, in the same commit, its entry in the audit log; returns
    /// once both are durable. The request is written once, and removed when the deployment ends.
    pub async fn insert(&self, record: &Record, request: Vec<u8>, entry: Option<&Entry>) -> Result<(), InsertError> {
        let refused = |e: DbErr| InsertError::Refused(db_error(WRITING)(e));
        let row = deployment::new_row(record, request, entry).map_err(InsertError::Refused)?;
        let txn = self.db.begin().await.map_err(InsertError::Refused)?;
        deployment::Entity::insert(row).exec_without_returning(&txn).await.map_err(refused)?;
        txn.commit().await.map_err(db_error(WRITING)).map_err(|e| match e.code {
            Code::Unavailable => InsertError::Unknown(e),
            _ => InsertError::Refused(e),
        })?;
        self.publish(record);
        Ok(())
    }

    /// Whether [`Journal::insert`] has written a deployment though its outcome was unknown.
    pub async fn was_inserted(&self, record: &Record) -> Result<bool> {
        // No other transaction is in progress then: neither can that one still commit.
        let txn = self.db.begin().await?;
        let found = deployment::records().filter(deployment::Column::Id.eq(record.id.to_string())).one(&txn).await;
        let is_there = found.map_err(db_error(READING))?.is_some();
        if is_there {
            self.publish(record);
        }
        Ok(is_there)
    }

    /// Writes the state of a deployment; returns once it is durable. When the deployment ended, the same commit updates
    /// the audit log.
    pub async fn update(&self, record: &Record) -> Result<()> {
        let updated = deployment::Entity::update_many()
            .set(deployment::changed_row(record)?)
            .filter(deployment::Column::Id.eq(record.id.to_string()))
            .exec(self.db.write())
            .await;
        updated.map_err(db_error(WRITING))?;
        self.publish(record);
        Ok(())
    }

    /// Replaces the stored request by the same one, sealed again.
    pub async fn replace_request(&self, id: DeploymentId, sealed: Vec<u8>) -> Result<()> {
        let updated = deployment::Entity::update_many()
            .col_expr(deployment::Column::Request, Expr::value(sealed))
            .filter(deployment::Column::Id.eq(id.to_string()))
            .filter(deployment::Column::Request.is_not_null())
            .exec(self.db.write())
            .await;
        updated.map(drop).map_err(db_error(WRITING))
    }

    /// Closes the journal, once it is no longer in use.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// Returns one deployment.
    pub async fn get(&self, id: DeploymentId) -> Result<Option<Record>> {
        let found = deployment::records().filter(deployment::Column::Id.eq(id.to_string())).one(self.db.read()).await;
        found.map_err(db_error(READING))?.map(deployment::from_row).transpose()
    }

    /// Returns the sealed request of a deployment that has not ended.
    pub async fn request(&self, id: DeploymentId) -> Result<Option<Vec<u8>>> {
        let found: Option<Option<Vec<u8>>> = deployment::Entity::find_by_id(id.to_string())
            .select_only()
            .column(deployment::Column::Request)
            .into_tuple()
            .one(self.db.read())
            .await
            .map_err(db_error(READING))?;
        Ok(found.flatten())
    }

    /// Returns the size of that request, in bytes.
    pub async fn request_bytes(&self, id: DeploymentId) -> Result<usize> {
        let found: Option<Option<i64>> = deployment::Entity::find_by_id(id.to_string())
            .select_only()
            .column_as(Expr::cust("CAST(octet_length(request) AS BIGINT)"), "bytes")
            .into_tuple()
            .one(self.db.read())
            .await
            .map_err(db_error(READING))?;
        Ok(found.flatten().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0))
    }

    /// Returns deployments, newest first.
    pub async fn list(&self, wanted: &DeploymentQuery) -> Result<Vec<Record>> {
        let mut query = deployment::records().order_by_desc(deployment::Column::Id).limit(u64::from(wanted.limit));
        if let Some(agent) = &wanted.agent {
            query = query.filter(deployment::Column::Agent.eq(agent.as_str()));
        }
        if let Some(before) = wanted.before {
            query = query.filter(deployment::Column::Id.lt(before.to_string()));
        }
        if let Some(status) = wanted.status {
            query = query.filter(deployment::has_status(status, &self.db));
        }
        let rows = query.all(self.db.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(deployment::from_row).collect()
    }

    /// Returns every deployment that has not ended, in the order of acceptance. The order of ids is that of the clock,
    /// which may have been set back.
    pub async fn unfinished(&self) -> Result<Vec<Record>> {
        let rows = deployment::records()
            .filter(deployment::Column::CompletedAt.is_null())
            .order_by_asc(deployment::Column::Place)
            .all(self.db.read())
            .await
            .map_err(db_error(READING))?;
        rows.into_iter().map(deployment::from_row).collect()
    }

    /// Removes ended deployments beyond the retention.
    pub async fn purge(&self, keep: Retention) -> Result<Pruned> {
        prune(&self.db, &deployment::ENDED, keep).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::saga::steps::saga_log::SagaLog;
    use hoistway_kit::db::DatabaseConfig;
    use hoistway_model::{Name, revision::Reason};

    #[tokio::test]
    async fn what_is_taken_up_again_is_in_its_order_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = DatabaseConfig::from(hoistway_testing::database_url(dir.path()));
        let location = config.location("gateway", dir.path()).await.unwrap();
        let journal = Journal::open(&location).await.unwrap();
        let new = |now| {
            let log = SagaLog::accepted(Reason::Deploy, true, now);
            Record::new(Name::parse("agent", "a").unwrap(), log, Vec::new(), now)
        };
        let (earlier, later) = (new(1), new(2));
        // Ids rise with time: the one accepted last has the lowest.
        for record in [&later, &earlier] {
            journal.insert(record, Vec::new(), None).await.unwrap();
        }
        journal.close().await;
        let again = Journal::open(&location).await.unwrap();
        let order: Vec<DeploymentId> = again.unfinished().await.unwrap().iter().map(|record| record.id).collect();
        assert_eq!(order, [later.id, earlier.id]);
    }
}
