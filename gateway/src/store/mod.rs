//! The journal of deployments, the API keys and the audit log, in one database. sea-orm stays in here.

mod audit;
mod deployment;
mod key;

pub use audit::AuditStore;
pub use key::KeyStore;

use crate::{
    audit::Entry,
    deploy::{self, Deployment, DeploymentQuery, DeploymentStatus, DeploymentStep},
    migration,
    saga::steps::{
        Position,
        log::{Log, State, Timing},
    },
    seen::Seen,
};
use hoistway_kit::{
    db::{Db, db_error},
    prune::{Keep, Pruned, prune},
};
use hoistway_model::{Code, DeploymentId, Error, Name, Result, RevisionId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};
use std::{path::Path, sync::Arc};

/// One deployment in the journal, but for its request: that may be large, and is read when its turn has come.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: DeploymentId,
    pub agent: Name,
    pub state: State,
    pub log: Log,
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
    }

    /// The failure as an error again.
    pub fn error(&self) -> Error {
        match &self.failure {
            Some(f) => Error::new(Code::parse(&f.code).unwrap_or(Code::Internal), f.message.clone())
                .with_details(f.details.clone()),
            None => Error::new(Code::Internal, "the deployment failed"),
        }
    }

    /// The revision that it made or is making; none while the agent needs no new one.
    pub fn revision(&self) -> Option<RevisionId> {
        let decided = self.log.step > Position::PLAN && self.log.changes_agent;
        decided.then_some(self.log.ids.revision)
    }

    /// As the API shows it.
    pub fn into_public(self) -> Deployment {
        let status = match (self.state, self.log.step) {
            (State::Running, Position::PLAN) => DeploymentStatus::Pending,
            (State::Running, _) => DeploymentStatus::Running,
            (State::Undoing, _) => DeploymentStatus::Undoing,
            (State::Succeeded, _) => DeploymentStatus::Succeeded,
            (State::Failed, _) => DeploymentStatus::Failed,
        };
        let revision_id = self.revision();
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
            step: timings.last().map(|t| t.step.name().to_owned()),
            tools_created: self.log.tools.iter().flat_map(|t| &t.created).map(Name::to_string).collect(),
            image: self.log.image,
            error,
            revision_id,
            warnings: self.warnings,
            request_id: self.log.request_id,
            steps: timings.iter().map(|t| step(t, status)).collect(),
            created_at: self.created_at,
            updated_at: self.completed_at.or_else(|| timings.last().map(|t| t.started_at)).unwrap_or(self.created_at),
            completed_at: self.completed_at,
        }
    }
}

/// A step as the API shows it.
fn step(timing: &Timing, status: DeploymentStatus) -> DeploymentStep {
    let of_step = match (timing.completed_at, status) {
        (Some(_), _) => "SUCCEEDED",
        // It was the last one.
        (None, DeploymentStatus::Undoing | DeploymentStatus::Failed) => "FAILED",
        (None, _) if timing.step == Position::PLAN => "PENDING",
        (None, _) => "RUNNING",
    };
    DeploymentStep {
        step: timing.step.name(),
        status: of_step,
        started_at: timing.started_at,
        completed_at: timing.completed_at,
    }
}

const WRITING: &str = "writing the deployment journal";
const READING: &str = "reading the deployment journal";

/// The journal.
#[derive(Debug, Clone)]
pub struct Journal {
    db: Db,
    /// Who is told of every record that is written.
    seen: Option<Arc<Seen>>,
}

impl Journal {
    /// Opens the journal's database, making or migrating it.
    pub async fn open(path: &Path) -> Result<Self> {
        Ok(Self { db: Db::open(path, migration::all()).await?, seen: None })
    }

    /// The same, telling `seen` of every record once it is durable.
    pub fn seen_by(self, seen: Arc<Seen>) -> Self {
        Self { seen: Some(seen), ..self }
    }

    fn tell(&self, record: &Record) {
        if let Some(seen) = &self.seen {
            seen.deployment(record);
        }
    }

    /// The API keys in the same database.
    pub fn keys(&self) -> KeyStore {
        KeyStore(self.db.clone())
    }

    /// The audit log in the same database.
    pub fn audit(&self) -> AuditStore {
        AuditStore(self.db.clone())
    }

    /// Writes a new deployment with its sealed request and, in the same commit, the audit log's entry of it; returns
    /// once both are durable. The request is written once, and dropped when the deployment ends.
    pub async fn insert(&self, record: &Record, request: Vec<u8>, entry: Option<&Entry>) -> Result<()> {
        let row = deployment::new_row(record, request, entry)?;
        let inserted = deployment::Entity::insert(row).exec_without_returning(self.db.write()).await;
        inserted.map_err(db_error(WRITING))?;
        self.tell(record);
        Ok(())
    }

    /// Writes how a deployment stands; returns once it is durable. When it ended, the audit log is told in the same
    /// commit.
    pub async fn update(&self, record: &Record) -> Result<()> {
        let updated = deployment::Entity::update_many()
            .set(deployment::changed_row(record)?)
            .filter(deployment::Column::Id.eq(record.id.to_string()))
            .exec(self.db.write())
            .await;
        updated.map_err(db_error(WRITING))?;
        self.tell(record);
        Ok(())
    }

    /// Puts the same request, sealed anew, into the place of the one that is there.
    pub async fn replace_request(&self, id: DeploymentId, sealed: Vec<u8>) -> Result<()> {
        let updated = deployment::Entity::update_many()
            .col_expr(deployment::Column::Request, Expr::value(sealed))
            .filter(deployment::Column::Id.eq(id.to_string()))
            .filter(deployment::Column::Request.is_not_null())
            .exec(self.db.write())
            .await;
        updated.map(drop).map_err(db_error(WRITING))
    }

    /// Closes the journal, once nothing uses it any more.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// One deployment.
    pub async fn get(&self, id: DeploymentId) -> Result<Option<Record>> {
        let found = deployment::records().filter(deployment::Column::Id.eq(id.to_string())).one(self.db.read()).await;
        found.map_err(db_error(READING))?.map(deployment::from_row).transpose()
    }

    /// The sealed request of one that has not ended.
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

    /// How large that is.
    pub async fn request_bytes(&self, id: DeploymentId) -> Result<usize> {
        let found: Option<Option<i64>> = deployment::Entity::find_by_id(id.to_string())
            .select_only()
            .column_as(Expr::cust("octet_length(request)"), "bytes")
            .into_tuple()
            .one(self.db.read())
            .await
            .map_err(db_error(READING))?;
        Ok(found.flatten().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0))
    }

    /// Deployments, newest first.
    pub async fn list(&self, wanted: &DeploymentQuery) -> Result<Vec<Record>> {
        let mut query = deployment::records().order_by_desc(deployment::Column::Id).limit(u64::from(wanted.limit));
        if let Some(agent) = &wanted.agent {
            query = query.filter(deployment::Column::Agent.eq(agent.as_str()));
        }
        if let Some(before) = wanted.before {
            query = query.filter(deployment::Column::Id.lt(before.to_string()));
        }
        if let Some(status) = wanted.status {
            query = query.filter(deployment::has_status(status));
        }
        let rows = query.all(self.db.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(deployment::from_row).collect()
    }

    /// Every deployment that has not ended, in the order in which they were accepted. Ids have the time of a clock in
    /// them, which may have been set back.
    pub async fn unfinished(&self) -> Result<Vec<Record>> {
        let rows = deployment::records()
            .filter(deployment::Column::CompletedAt.is_null())
            .order_by_asc(deployment::Column::Place)
            .all(self.db.read())
            .await
            .map_err(db_error(READING))?;
        rows.into_iter().map(deployment::from_row).collect()
    }

    /// Forgets deployments that ended and are not to be kept.
    pub async fn purge(&self, keep: Keep) -> Result<Pruned> {
        prune(&self.db, &deployment::ENDED, keep).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::revision::Reason;

    #[tokio::test]
    async fn what_is_taken_up_again_is_in_its_order_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.db");
        let journal = Journal::open(&path).await.unwrap();
        let new = |now| {
            let log = Log::accepted(Reason::Deploy, true, now);
            Record::new(Name::parse("agent", "a").unwrap(), log, Vec::new(), now)
        };
        let (earlier, later) = (new(1), new(2));
        // Ids rise with time: the one accepted last has the lowest.
        for record in [&later, &earlier] {
            journal.insert(record, Vec::new(), None).await.unwrap();
        }
        journal.close().await;
        let again = Journal::open(&path).await.unwrap();
        let order: Vec<DeploymentId> = again.unfinished().await.unwrap().iter().map(|record| record.id).collect();
        assert_eq!(order, [later.id, earlier.id]);
    }
}
