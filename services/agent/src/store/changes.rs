//! Every change of the tables, each one transaction.

use super::{
    AgentRecord, ImageFacts, Kept, Revision, Store,
    entity::{agent, revision},
    record::{failure_text, layers_text},
};
use hoistway_kit::{
    db::db_error,
    operations::{self, Begun, Undone},
    time::now_ms,
};
use hoistway_model::{Code, Digest, Error, Name, Operation, OperationId, Result, RevisionId};
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};

/// Retired revisions that are kept for each agent.
const KEPT_RETIRED: u64 = 10;

const SWITCH: &str = "agents.switch";

/// What recording a start found.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It is recorded now.
    New,
    /// It was recorded before; this is what is kept of it.
    Again(Box<Revision>),
}

/// What taking a start back found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The revision is forgotten, and its agent with it.
    AgentToo,
    /// The revision is forgotten, if it was there; its agent has others, or is not there either.
    Revision,
}

impl Store {
    /// Records a revision, and its agent if that is new, before anything is done for it.
    pub(crate) async fn begin_start(&self, operation: Option<&Operation>, new: &Revision) -> Result<Begin> {
        let payload = new.fingerprint(&self.key)?;
        let txn = self.db.begin().await?;
        if let Some(operation) = operation {
            operations::begin(&txn, operation.id, "agents.start", payload).await?;
        }
        if let Some(row) = find(&txn, &new.id).await? {
            let kept = Revision::read(row, &self.key)?;
            if kept.fingerprint(&self.key)? != payload {
                return Err(Error::new(Code::Conflict, "this revision id was used for another specification"));
            }
            return Ok(Begin::Again(Box::new(kept)));
        }
        let now = now_ms();
        let row = agent::ActiveModel {
            name: Set(new.spec.agent.to_string()),
            desired_revision: Set(None),
            active_revision: Set(None),
            created_at: Set(now),
            updated_at: Set(now),
        };
        let inserted = agent::Entity::insert(row).on_conflict_do_nothing_on([agent::Column::Name]);
        inserted.exec_without_returning(&txn).await.map_err(failed)?;
        let row = new.write(&self.key)?.into_active_model();
        revision::Entity::insert(row).exec_without_returning(&txn).await.map_err(failed)?;
        commit(txn).await?;
        Ok(Begin::New)
    }

    /// Keeps what a start has come to. What was forgotten meanwhile stays forgotten.
    pub(crate) async fn keep_outcome(
        &self,
        id: &RevisionId,
        phase: Kept,
        message: &str,
        failure: Option<&Error>,
    ) -> Result<()> {
        let failure = failure.map(failure_text).transpose()?;
        revision::Entity::update_many()
            .set(revision::ActiveModel {
                phase: Set(phase.as_str().to_owned()),
                message: Set(message.to_owned()),
                failure: Set(failure),
                ..Default::default()
            })
            .filter(revision::Column::Id.eq(id.to_string()))
            .exec(self.db.write())
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Makes a revision the desired one and, with the facts of its image, also the active one. The same operation
    /// again changes nothing.
    pub(crate) async fn switch(
        &self,
        operation: Option<&Operation>,
        name: &Name,
        id: &RevisionId,
        ready: Option<&ImageFacts>,
    ) -> Result<AgentRecord> {
        let txn = self.db.begin().await?;
        let row = agent::Entity::find_by_id(name.as_str()).one(&txn).await.map_err(failed)?;
        let row = row.ok_or_else(|| Error::not_found("agent", name))?;
        if let Some(operation) = operation {
            match operations::begin(&txn, operation.id, SWITCH, switch_payload(name, id)).await? {
                Begun::Done(_) => return AgentRecord::read(row),
                Begun::New | Begun::Unfinished => operations::finish(&txn, operation.id, b"").await?,
            }
        }
        let mut change = agent::ActiveModel { name: Set(row.name.clone()), ..Default::default() };
        change.desired_revision = Set(Some(id.to_string()));
        change.updated_at = Set(now_ms());
        if let Some(facts) = ready {
            change.active_revision = Set(Some(id.to_string()));
            let changed = revision::Entity::update_many()
                .set(revision::ActiveModel {
                    phase: Set(Kept::Ready.as_str().to_owned()),
                    message: Set(String::new()),
                    failure: Set(None),
                    image_digest: Set(Some(facts.digest.to_string())),
                    layers: Set(layers_text(&facts.layers)?),
                    python: Set(Some(facts.python.clone())),
                    entry_point: Set(facts.entry_point.clone()),
                    ..Default::default()
                })
                .filter(revision::Column::Id.eq(id.to_string()))
                .exec(&txn)
                .await
                .map_err(failed)?;
            if changed.rows_affected == 0 {
                return Err(Error::not_found("revision", id));
            }
        }
        let after = change.update(&txn).await.map_err(failed)?;
        for other in [row.active_revision, row.desired_revision].into_iter().flatten() {
            if Some(&other) != after.active_revision.as_ref() && Some(&other) != after.desired_revision.as_ref() {
                retire(&txn, name, other).await?;
            }
        }
        commit(txn).await?;
        AgentRecord::read(after)
    }

    /// Whether a switch was done before.
    pub(crate) async fn was_switched(&self, operation: &Operation, name: &Name, id: &RevisionId) -> Result<bool> {
        let done = operations::lookup(self.db.read(), operation.id, SWITCH, switch_payload(name, id)).await?;
        Ok(done.is_some())
    }

    /// Forgets a revision that was not switched to, and its agent if it has no other one.
    pub(crate) async fn undo_start(&self, started: Option<OperationId>, name: &Name, id: &RevisionId) -> Result<Undo> {
        let txn = self.db.begin().await?;
        if let Some(started) = started
            && operations::undo(&txn, started).await? == Undone::Already
        {
            return Ok(Undo::Revision);
        }
        let row = agent::Entity::find_by_id(name.as_str()).one(&txn).await.map_err(failed)?;
        let text = Some(id.to_string());
        if row.as_ref().is_some_and(|r| r.desired_revision == text || r.active_revision == text) {
            let message = format!("revision {id} is the one of agent \"{name}\" and cannot be undone any more");
            return Err(Error::new(Code::Conflict, message));
        }
        let deleted = revision::Entity::delete_many()
            .filter(revision::Column::Id.eq(id.to_string()))
            .filter(revision::Column::Agent.eq(name.as_str()))
            .exec(&txn)
            .await
            .map_err(failed)?;
        let rest = revision::Entity::find().filter(revision::Column::Agent.eq(name.as_str())).count(&txn).await;
        let agent_too = deleted.rows_affected > 0 && rest.map_err(failed)? == 0;
        if agent_too {
            agent::Entity::delete_by_id(name.as_str()).exec(&txn).await.map_err(failed)?;
        }
        commit(txn).await?;
        Ok(if agent_too { Undo::AgentToo } else { Undo::Revision })
    }

    /// Forgets an agent and all its revisions. Whether this call did so; not if its operation was done before.
    pub(crate) async fn delete_agent(&self, operation: &Operation, name: &Name) -> Result<bool> {
        let txn = self.db.begin().await?;
        let payload = Digest::of(name.as_str().as_bytes());
        if let Begun::Done(_) = operations::begin(&txn, operation.id, "agents.delete", payload).await? {
            return Ok(false);
        }
        let deleted = agent::Entity::delete_by_id(name.as_str()).exec(&txn).await.map_err(failed)?;
        if deleted.rows_affected == 0 {
            return Err(Error::not_found("agent", name));
        }
        let revisions = revision::Entity::delete_many().filter(revision::Column::Agent.eq(name.as_str()));
        revisions.exec(&txn).await.map_err(failed)?;
        operations::finish(&txn, operation.id, b"").await?;
        commit(txn).await?;
        Ok(true)
    }

    /// What binding a tool answered when it was done before.
    pub(crate) async fn bind_begin(&self, operation: &Operation, payload: Digest) -> Result<Option<Vec<Name>>> {
        let done = match operations::begin(self.db.write(), operation.id, "agents.bind", payload).await? {
            Begun::Done(answer) => answer,
            Begun::New | Begun::Unfinished => return Ok(None),
        };
        serde_json::from_slice(&done).map(Some).map_err(|e| Error::internal("reading an answer", e))
    }

    /// Keeps the answer of binding a tool.
    pub(crate) async fn bind_finish(&self, operation: &Operation, names: &[Name]) -> Result<()> {
        let answer = serde_json::to_vec(names).map_err(|e| Error::internal("writing an answer", e))?;
        operations::finish(self.db.write(), operation.id, &answer).await
    }
}

fn switch_payload(name: &Name, id: &RevisionId) -> Digest {
    Digest::of(format!("{name} {id}").as_bytes())
}

async fn find(db: &impl ConnectionTrait, id: &RevisionId) -> Result<Option<revision::Model>> {
    revision::Entity::find_by_id(id.to_string()).one(db).await.map_err(failed)
}

/// Another revision took this one's place. The last few are kept, without what only a running one needs.
async fn retire(txn: &DatabaseTransaction, name: &Name, id: String) -> Result<()> {
    let retired = Kept::Retired.as_str();
    revision::Entity::update_many()
        .set(revision::ActiveModel { phase: Set(retired.to_owned()), ..Default::default() })
        .filter(revision::Column::Id.eq(id))
        .exec(txn)
        .await
        .map_err(failed)?;
    let old: Vec<String> = revision::Entity::find()
        .select_only()
        .column(revision::Column::Id)
        .filter(revision::Column::Agent.eq(name.as_str()))
        .filter(revision::Column::Phase.eq(retired))
        .order_by_desc(revision::Column::CreatedAt)
        .offset(KEPT_RETIRED)
        .limit(100)
        .into_tuple()
        .all(txn)
        .await
        .map_err(failed)?;
    if old.is_empty() {
        return Ok(());
    }
    revision::Entity::delete_many().filter(revision::Column::Id.is_in(old)).exec(txn).await.map_err(failed)?;
    Ok(())
}

async fn commit(txn: DatabaseTransaction) -> Result<()> {
    txn.commit().await.map_err(failed)
}

fn failed(e: DbErr) -> Error {
    db_error("changing an agent")(e)
}
