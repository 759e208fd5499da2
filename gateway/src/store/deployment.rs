//! The table `deployments`.

use crate::{
    audit::entry::Entry,
    deploy::DeploymentStatus,
    saga::{
        record::Record,
        steps::{Position, saga_log::State},
    },
};
use hoistway_kit::{
    db::{Db, storable_json},
    prune::Rows,
};
use hoistway_model::{AuditId, Error, Name, Result};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    Condition, ExprTrait, Iterable, QuerySelect,
    entity::prelude::*,
};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "deployments")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub agent: String,
    pub state: String,
    /// JSON of [`crate::saga::steps::saga_log::SagaLog`].
    pub log: String,
    pub request: Option<Vec<u8>>,
    /// JSON array of texts.
    pub warnings: String,
    /// JSON of [`crate::saga::record::Failure`].
    pub failure: Option<String>,
    pub created_at: i64,
    pub completed_at: Option<i64>,
    /// JSON of the deployment's part of the audit log; a trigger of the database writes that, see the migrations.
    pub audit: Option<String>,
    /// Its place in the order of acceptance; the database assigns it, see the migrations.
    pub place: Option<i64>,
}

/// Deployments that ended: they are read only by queries of the history.
pub const ENDED: Rows =
    Rows { table: "deployments", key: "id", time: "completed_at", which: "completed_at IS NOT NULL" };

/// The JSON that the database uses for the audit log; the rest is in other columns.
#[derive(Serialize)]
struct Audited<'a> {
    id: AuditId,
    at: i64,
    key_id: &'a str,
    key_name: &'a str,
    action: &'a str,
    address: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: &'a str,
}

impl<'a> From<&'a Entry> for Audited<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            id: entry.id,
            at: entry.at,
            key_id: &entry.key_id,
            key_name: &entry.key_name,
            action: &entry.action,
            address: entry.address.as_deref(),
            user_agent: entry.user_agent.as_deref(),
            request_id: &entry.request_id,
        }
    }
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Selects rows without their requests, which may be many MiB in total.
pub fn records() -> Select<Entity> {
    let columns = Column::iter().filter(|column| !matches!(column, Column::Request));
    Entity::find().select_only().columns(columns).column_as(Expr::value(Option::<Vec<u8>>::None), Column::Request)
}

/// Returns a row with every column.
pub fn new_row(record: &Record, request: Vec<u8>, entry: Option<&Entry>) -> Result<ActiveModel> {
    let audit = entry.map(|entry| json(&Audited::from(entry)));
    Ok(ActiveModel {
        agent: Set(record.agent.as_str().to_owned()),
        request: Set(record.completed_at.is_none().then_some(request)),
        warnings: Set(json(&record.warnings)?),
        created_at: Set(record.created_at),
        audit: Set(audit.transpose()?),
        ..changed_row(record)?
    })
}

/// Returns the columns that change while a deployment runs; of its request, which may be large, only the removal at the
/// end.
pub fn changed_row(record: &Record) -> Result<ActiveModel> {
    Ok(ActiveModel {
        id: Set(record.id.to_string()),
        state: Set(record.state.as_str().to_owned()),
        log: Set(json(&record.log)?),
        failure: Set(record.failure.as_ref().map(json).transpose()?),
        completed_at: Set(record.completed_at),
        request: if record.completed_at.is_some() { Set(None) } else { NotSet },
        ..Default::default()
    })
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map(storable_json).map_err(|e| Error::internal("writing a deployment", e))
}

/// Selects deployments with a status. Waiting ones differ from running ones by their step alone.
pub fn has_status(status: DeploymentStatus, db: &Db) -> Condition {
    let state = match status {
        DeploymentStatus::Pending | DeploymentStatus::Running => State::Running,
        DeploymentStatus::Undoing => State::Undoing,
        DeploymentStatus::Succeeded => State::Succeeded,
        DeploymentStatus::Failed => State::Failed,
    };
    let planned = Expr::cust(db.dialect("log ->> 'step'", "log::JSON ->> 'step'"));
    let all = Condition::all().add(Column::State.eq(state.as_str()));
    match status {
        DeploymentStatus::Pending => all.add(planned.eq(Position::PLAN.name())),
        DeploymentStatus::Running => all.add(planned.ne(Position::PLAN.name())),
        _ => all,
    }
}

pub fn from_row(row: Model) -> Result<Record> {
    let json = |e: serde_json::Error| Error::internal("reading a deployment", e);
    let state = State::parse(&row.state)
        .ok_or_else(|| Error::internal("reading a deployment", format!("state \"{}\"", row.state)))?;
    Ok(Record {
        id: row.id.parse()?,
        agent: Name::parse("agent", &row.agent)?,
        state,
        log: serde_json::from_str(&row.log).map_err(json)?,
        warnings: serde_json::from_str(&row.warnings).map_err(json)?,
        failure: row.failure.map(|f| serde_json::from_str(&f)).transpose().map_err(json)?,
        created_at: row.created_at,
        completed_at: row.completed_at,
    })
}
