//! The table `audit`.

use crate::audit::entry::{Entry, Filter, Outcome};
use hoistway_kit::{
    db::{Db, db_error},
    prune::{Pruned, Retention, Rows, prune},
};
use hoistway_model::{Error, Result};
use sea_orm::{ActiveValue::Set, QueryOrder, QuerySelect, entity::prelude::*};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub at: i64,
    pub key_id: String,
    pub key_name: String,
    pub action: String,
    pub target: Option<String>,
    pub deployment: Option<String>,
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: String,
    pub outcome: String,
    pub status: Option<i32>,
    pub code: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const READING: &str = "reading the audit log";
const WRITING: &str = "writing the audit log";

/// Entries whose changes have ended.
const ENDED: Rows = Rows { table: "audit", key: "id", time: "at", which: "outcome <> 'pending'" };

/// The audit log in the gateway's database.
#[derive(Debug, Clone)]
pub struct AuditStore(pub(super) Db);

impl AuditStore {
    /// Adds an entry; returns once it is durable.
    pub async fn insert(&self, entry: &Entry) -> Result<()> {
        let row = ActiveModel {
            id: Set(entry.id.to_string()),
            at: Set(entry.at),
            key_id: Set(entry.key_id.clone()),
            key_name: Set(entry.key_name.clone()),
            action: Set(entry.action.clone()),
            target: Set(entry.target.clone()),
            deployment: Set(entry.deployment.clone()),
            address: Set(entry.address.clone()),
            user_agent: Set(entry.user_agent.clone()),
            request_id: Set(entry.request_id.clone()),
            outcome: Set(entry.outcome.as_str().to_owned()),
            status: Set(entry.status.map(i32::from)),
            code: Set(entry.code.clone()),
        };
        let inserted = Entity::insert(row).exec_without_returning(self.0.write()).await;
        inserted.map(drop).map_err(db_error(WRITING))
    }

    /// Writes the outcome of an entry's change.
    pub async fn end(&self, entry: &Entry) -> Result<()> {
        let changed = ActiveModel {
            id: Set(entry.id.to_string()),
            target: Set(entry.target.clone()),
            deployment: Set(entry.deployment.clone()),
            outcome: Set(entry.outcome.as_str().to_owned()),
            status: Set(entry.status.map(i32::from)),
            code: Set(entry.code.clone()),
            ..Default::default()
        };
        let ended = Entity::update_many().set(changed).filter(Column::Id.eq(entry.id.to_string()));
        ended.exec(self.0.write()).await.map(drop).map_err(db_error(WRITING))
    }

    /// Returns entries, newest first.
    pub async fn list(&self, filter: Filter, limit: u32) -> Result<Vec<Entry>> {
        let mut query = Entity::find().order_by_desc(Column::Id).limit(u64::from(limit));
        if let Some(target) = filter.target {
            query = query.filter(Column::Target.eq(target));
        }
        if filter.agents_only {
            query = query.filter(Column::Action.starts_with("agent."));
        }
        if let Some(action) = filter.action {
            query = query.filter(match action.ends_with('.') {
                true => Column::Action.starts_with(&action),
                false => Column::Action.eq(action),
            });
        }
        if let Some(key) = filter.key {
            query = query.filter(Column::KeyId.eq(key));
        }
        if let Some(before) = filter.before {
            query = query.filter(Column::Id.lt(before.to_string()));
        }
        let rows = query.all(self.0.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(from_row).collect()
    }

    /// Marks entries from before `before` without an outcome as unknown. A resumed deployment still ends its own entry.
    pub async fn give_up(&self, before: i64) -> Result<()> {
        let lost = Entity::update_many()
            .col_expr(Column::Outcome, Expr::value(Outcome::Unknown.as_str()))
            .filter(Column::Outcome.eq(Outcome::Pending.as_str()))
            .filter(Column::Deployment.is_null())
            .filter(Column::At.lt(before));
        lost.exec(self.0.write()).await.map(drop).map_err(db_error(WRITING))
    }

    /// Returns the size of the database in bytes.
    pub async fn database_size(&self) -> Result<u64> {
        self.0.size().await
    }

    /// Removes entries beyond the retention.
    pub async fn purge(&self, keep: Retention) -> Result<Pruned> {
        prune(&self.0, &ENDED, keep).await
    }
}

fn from_row(row: Model) -> Result<Entry> {
    let outcome =
        Outcome::parse(&row.outcome).ok_or_else(|| Error::internal(READING, format!("outcome \"{}\"", row.outcome)))?;
    Ok(Entry {
        id: row.id.parse()?,
        at: row.at,
        key_id: row.key_id,
        key_name: row.key_name,
        action: row.action,
        target: row.target,
        deployment: row.deployment,
        address: row.address,
        user_agent: row.user_agent,
        request_id: row.request_id,
        outcome,
        status: row.status.and_then(|status| u16::try_from(status).ok()),
        code: row.code,
    })
}
