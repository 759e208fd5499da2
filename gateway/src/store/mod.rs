//! The journal of deployments, the API keys and the audit log, in one database. sea-orm stays in here.

mod audit;
mod deployment;
mod key;

pub use audit::AuditStore;
pub use key::KeyStore;

use crate::{
    audit::Entry,
    deploy::{self, Deployment, DeploymentStatus},
    migration,
    saga::log::{Log, State, Step},
};
use hoistway_kit::db::{Db, db_error};
use hoistway_model::{Code, DeploymentId, Error, Name, Result};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};
use std::path::Path;

/// One deployment in the journal.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: DeploymentId,
    pub agent: Name,
    pub state: State,
    pub log: Log,
    /// The request, sealed; written once, and dropped when the deployment ends, since nothing reads it after that.
    pub request: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub failure: Option<Failure>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub completed_at: Option<i64>,
}

/// Why a deployment failed: the public half of its error.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub details: Vec<String>,
}

impl Record {
    /// A deployment that is accepted now.
    pub fn new(agent: Name, log: Log, warnings: Vec<String>, now: i64) -> Self {
        Self {
            id: DeploymentId::mint(),
            agent,
            state: State::Running,
            log,
            request: None,
            warnings,
            failure: None,
            created_at: now,
            completed_at: None,
        }
    }

    /// Keeps why it failed.
    pub fn fail(&mut self, error: &Error) {
        self.failure = Some(Failure {
            code: error.code.as_str().to_owned(),
            message: error.message.clone(),
            details: error.details.clone(),
        });
    }

    /// Ends it.
    pub fn finish(&mut self, state: State, now: i64) {
        self.state = state;
        self.completed_at = Some(now);
        self.request = None;
    }

    /// The failure as an error again.
    pub fn error(&self) -> Error {
        match &self.failure {
            Some(f) => Error::new(Code::parse(&f.code).unwrap_or(Code::Internal), f.message.clone())
                .with_details(f.details.clone()),
            None => Error::new(Code::Internal, "the deployment failed"),
        }
    }

    /// As the API shows it.
    pub fn into_public(self) -> Deployment {
        let status = match (self.state, self.log.step) {
            (State::Running, Step::Plan) => DeploymentStatus::Pending,
            (State::Running, _) => DeploymentStatus::Running,
            (State::Undoing, _) => DeploymentStatus::Undoing,
            (State::Succeeded, _) => DeploymentStatus::Succeeded,
            (State::Failed, _) => DeploymentStatus::Failed,
        };
        let error = self.failure.map(|f| deploy::Failure {
            code: Code::parse(&f.code).unwrap_or(Code::Internal),
            message: f.message,
            details: f.details,
        });
        let timings = &self.log.timings;
        Deployment {
            id: self.id,
            agent: self.agent,
            kind: self.log.reason,
            revision: self.log.made.map(|(_, number)| number),
            status,
            step: timings.last().map(|t| t.step.as_str().to_owned()),
            tools_created: self.log.tools.iter().flat_map(|t| &t.created).map(Name::to_string).collect(),
            image: self.log.image.map(Into::into),
            error,
            created_at: self.created_at,
            updated_at: self.completed_at.or_else(|| timings.last().map(|t| t.started_at)).unwrap_or(self.created_at),
            completed_at: self.completed_at,
        }
    }
}

/// The journal.
#[derive(Debug, Clone)]
pub struct Journal(Db);

impl Journal {
    /// Opens the journal's database, making or migrating it.
    pub async fn open(path: &Path) -> Result<Self> {
        Ok(Self(Db::open(path, migration::all()).await?))
    }

    /// The API keys in the same database.
    pub fn keys(&self) -> KeyStore {
        KeyStore(self.0.clone())
    }

    /// The audit log in the same database.
    pub fn audit(&self) -> AuditStore {
        AuditStore(self.0.clone())
    }

    /// Writes a new deployment and, in the same commit, the audit log's entry of it; returns once both are durable.
    pub async fn insert(&self, record: &Record, entry: Option<&Entry>) -> Result<()> {
        let row = deployment::new_row(record, entry)?;
        let inserted = deployment::Entity::insert(row).exec_without_returning(self.0.write()).await;
        inserted.map(drop).map_err(db_error("writing the deployment journal"))
    }

    /// Writes how a deployment stands; returns once it is durable. When it ended, the audit log is told in the same
    /// commit.
    pub async fn update(&self, record: &Record) -> Result<()> {
        let updated = deployment::Entity::update_many()
            .set(deployment::changed_row(record)?)
            .filter(deployment::Column::Id.eq(record.id.to_string()))
            .exec(self.0.write())
            .await;
        updated.map(drop).map_err(db_error("writing the deployment journal"))
    }

    /// Puts the same request, sealed anew, into the place of the one that is there.
    pub async fn replace_request(&self, id: DeploymentId, sealed: Vec<u8>) -> Result<()> {
        let updated = deployment::Entity::update_many()
            .col_expr(deployment::Column::Request, Expr::value(sealed))
            .filter(deployment::Column::Id.eq(id.to_string()))
            .filter(deployment::Column::Request.is_not_null())
            .exec(self.0.write())
            .await;
        updated.map(drop).map_err(db_error("writing the deployment journal"))
    }

    /// Closes the journal, once nothing uses it any more.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// One deployment.
    pub async fn get(&self, id: DeploymentId) -> Result<Option<Record>> {
        let found = deployment::Entity::find_by_id(id.to_string()).one(self.0.read()).await;
        found.map_err(db_error("reading the deployment journal"))?.map(deployment::from_row).transpose()
    }

    /// The newest deployments, newest first.
    pub async fn list(&self, agent: Option<Name>, limit: u32) -> Result<Vec<Record>> {
        let mut query = deployment::Entity::find().order_by_desc(deployment::Column::Id).limit(u64::from(limit));
        if let Some(agent) = agent {
            query = query.filter(deployment::Column::Agent.eq(agent.as_str()));
        }
        let rows = query.all(self.0.read()).await.map_err(db_error("reading the deployment journal"))?;
        rows.into_iter().map(deployment::from_row).collect()
    }

    /// Every deployment that has not ended, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<Record>> {
        let rows = deployment::Entity::find()
            .filter(deployment::Column::CompletedAt.is_null())
            .order_by_asc(deployment::Column::Id)
            .all(self.0.read())
            .await
            .map_err(db_error("reading the deployment journal"))?;
        rows.into_iter().map(deployment::from_row).collect()
    }

    /// Forgets deployments that ended before `before` (milliseconds since the epoch).
    pub async fn purge(&self, before: i64) -> Result<u64> {
        let deleted = deployment::Entity::delete_many()
            .filter(deployment::Column::CompletedAt.lt(before))
            .exec(self.0.write())
            .await
            .map_err(db_error("purging the deployment journal"))?;
        Ok(deleted.rows_affected)
    }
}
