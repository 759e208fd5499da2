//! Every change of the tables, each one transaction.

use super::{
    AgentRecord, ImageFacts, Revision, Store, StoredPhase,
    entity::{agent, revision},
    history::full,
    record::{failure_text, layers_text},
};
use hoistway_kit::{
    db::{db_error, storable},
    idempotency::{self, OperationStart, Undone},
    time::now_ms,
};
use hoistway_model::{Code, Digest, Error, Name, Operation, OperationId, Result, RevisionId};
use sea_orm::{
    ActiveModelTrait,
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict},
};

const START: &str = "agents.start";
const SWITCH: &str = "agents.switch";

/// The outcome of recording a start.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It is recorded now, with its number.
    New(Box<Revision>),
    /// It was recorded before; this is what is kept of it.
    Again(Box<Revision>),
}

/// The outcome of taking a start back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The revision is forgotten, and its agent with it.
    AgentToo,
    /// The revision is forgotten, if it was there; its agent has others, or is not there either.
    Revision,
}

/// The outcome of a switch.
#[derive(Debug)]
pub(crate) struct Switched {
    pub record: AgentRecord,
    /// Older revisions that are not kept any more.
    pub pruned: Vec<RevisionId>,
}

impl Store {
    /// The digest by which a repeated start is recognised.
    pub(crate) fn start_payload(&self, new: &Revision) -> Result<Digest> {
        new.fingerprint(&self.key)
    }

    /// Records a new revision with the agent's next number, and its agent if that is new, before anything is done
    /// for it.
    pub(crate) async fn begin_start(&self, operation: &Operation, payload: Digest, new: Revision) -> Result<Begin> {
        let txn = self.db.begin().await?;
        // The base of a derivation is not in its specification.
        let is_derived = new.of.is_some();
        if is_derived {
            idempotency::begin(&txn, operation.id, START, payload).await?;
        }
        if let Some(row) = find(&txn, &new.id).await? {
            let kept = Revision::read(row, &self.key)?;
            // Compared by meaning: another version of this program may have written it in another form.
            if kept.operation != Some(operation.id) || kept.spec != new.spec {
                return Err(Error::new(Code::Conflict, "this revision id was used by another call"));
            }
            return Ok(Begin::Again(Box::new(kept)));
        }
        if !is_derived {
            idempotency::begin(&txn, operation.id, START, payload).await?;
        }
        let now = now_ms();
        let row = agent::ActiveModel {
            name: Set(new.spec.agent.to_string()),
            desired_revision: Set(None),
            active_revision: Set(None),
            last_number: Set(1),
            stopped: Set(false),
            idle: Set(false),
            created_at: Set(now),
            updated_at: Set(now),
        };
        let next = Expr::col((agent::Entity, agent::Column::LastNumber)).add(1);
        let exists = OnConflict::column(agent::Column::Name).value(agent::Column::LastNumber, next).to_owned();
        let row = agent::Entity::insert(row).on_conflict(exists).exec_with_returning(&txn).await.map_err(failed)?;
        if row.last_number == 1 {
            let count = agent::Entity::find().count(&txn).await.map_err(failed)?;
            if count > u64::from(self.limits.agents) {
                return Err(full(self.limits.agents));
            }
        }
        let new = Revision { number: row.last_number.unsigned_abs(), ..new };
        self.insert(&txn, &new).await?;
        commit(txn).await?;
        Ok(Begin::New(Box::new(new)))
    }

    /// The record of a revision that this very call has begun; refuses a call that was undone.
    pub(crate) async fn begun_before(&self, operation: &Operation, id: &RevisionId) -> Result<Option<Revision>> {
        Ok(self.revision(id).await?.filter(|kept| kept.operation == Some(operation.id)))
    }

    /// Records another instance of a revision before it is started.
    pub(crate) async fn begin_instance(&self, new: &Revision) -> Result<()> {
        let row = new.write(&self.key)?.into_active_model();
        let inserted = revision::Entity::insert(row).exec_without_returning(self.db.write()).await;
        inserted.map(drop).map_err(failed)
    }

    async fn insert(&self, txn: &DatabaseTransaction, new: &Revision) -> Result<()> {
        let row = new.write(&self.key)?.into_active_model();
        revision::Entity::insert(row).exec_without_returning(txn).await.map(drop).map_err(failed)
    }

    /// Keeps what a start has come to. What was forgotten meanwhile stays forgotten.
    pub(crate) async fn keep_outcome(
        &self,
        id: &RevisionId,
        phase: StoredPhase,
        message: &str,
        failure: Option<&Error>,
    ) -> Result<()> {
        let failure = failure.map(failure_text).transpose()?;
        revision::Entity::update_many()
            .set(revision::ActiveModel {
                phase: Set(phase.as_str().to_owned()),
                message: Set(storable(message).into_owned()),
                failure: Set(failure),
                ..Default::default()
            })
            .filter(revision::Column::Id.eq(id.to_string()))
            .exec(self.db.write())
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Makes an instance the desired one and, with the facts of its image, also the active one. What was switched
    /// away from is retired, or forgotten if it was another instance of the same revision, which `of` names then. The
    /// same operation again changes nothing.
    pub(crate) async fn switch(
        &self,
        operation: Option<&Operation>,
        name: &Name,
        id: &RevisionId,
        of: Option<&RevisionId>,
        ready: Option<&ImageFacts>,
    ) -> Result<Switched> {
        let txn = self.db.begin().await?;
        let row = agent::Entity::find_by_id(name.as_str()).one(&txn).await.map_err(failed)?;
        let row = row.ok_or_else(|| Error::not_found("agent", name))?;
        let mut change = agent::ActiveModel { name: Set(row.name.clone()), ..Default::default() };
        if let Some(operation) = operation {
            match idempotency::begin(&txn, operation.id, SWITCH, switch_payload(name, id)).await? {
                OperationStart::Done(_) => return Ok(Switched { record: AgentRecord::read(row)?, pruned: Vec::new() }),
                OperationStart::New | OperationStart::Unfinished => {
                    idempotency::finish(&txn, operation.id, b"").await?
                }
            }
            // Whoever deploys an agent wants it to run.
            change.stopped = Set(false);
        }
        change.desired_revision = Set(Some(id.to_string()));
        change.updated_at = Set(now_ms());
        if let Some(facts) = ready {
            change.active_revision = Set(Some(id.to_string()));
            // Idle is only the instance before.
            change.idle = Set(false);
            let changed = revision::Entity::update_many()
                .set(revision::ActiveModel {
                    phase: Set(StoredPhase::Ready.as_str().to_owned()),
                    message: Set(String::new()),
                    failure: Set(None),
                    image_digest: Set(Some(facts.digest.to_string())),
                    layers: Set(layers_text(&facts.layers)?),
                    python: Set(Some(facts.python.clone())),
                    image_layout: Set(Some(facts.layout.clone())),
                    image_has_base: Set(facts.has_base),
                    entry_point: Set(facts.entry_point.as_deref().map(|text| storable(text).into_owned())),
                    served_at: Set(Some(now_ms())),
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
        let mut pruned = Vec::new();
        for other in [row.active_revision, row.desired_revision].into_iter().flatten() {
            if Some(&other) == after.active_revision.as_ref() || Some(&other) == after.desired_revision.as_ref() {
                continue;
            }
            if !forget_instance(&txn, &other, of).await? {
                pruned.extend(self.retire(&txn, name, other).await?);
            }
        }
        commit(txn).await?;
        Ok(Switched { record: AgentRecord::read(after)?, pruned })
    }

    /// Another revision took this one's place. The last few are kept, without what only a running one needs.
    async fn retire(&self, txn: &DatabaseTransaction, name: &Name, id: String) -> Result<Vec<RevisionId>> {
        let retired = StoredPhase::Retired.as_str();
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
            .order_by_desc(revision::Column::Number)
            .offset(u64::from(self.limits.revisions))
            .limit(100)
            .into_tuple()
            .all(txn)
            .await
            .map_err(failed)?;
        if old.is_empty() {
            return Ok(Vec::new());
        }
        let pruned = old.iter().map(|id| id.parse()).collect();
        revision::Entity::delete_many().filter(revision::Column::Id.is_in(old)).exec(txn).await.map_err(failed)?;
        pruned
    }

    /// Whether a switch was done before.
    pub(crate) async fn was_switched(&self, operation: &Operation, name: &Name, id: &RevisionId) -> Result<bool> {
        let done = idempotency::lookup(self.db.read(), operation.id, SWITCH, switch_payload(name, id)).await?;
        Ok(done.is_some())
    }

    /// Forgets a revision that was not switched to, and its agent if it has no other one.
    pub(crate) async fn undo_start(&self, started: Option<OperationId>, name: &Name, id: &RevisionId) -> Result<Undo> {
        let txn = self.db.begin().await?;
        if let Some(started) = started
            && idempotency::undo(&txn, started).await? == Undone::Already
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
        if let OperationStart::Done(_) = idempotency::begin(&txn, operation.id, "agents.delete", payload).await? {
            return Ok(false);
        }
        let deleted = agent::Entity::delete_by_id(name.as_str()).exec(&txn).await.map_err(failed)?;
        if deleted.rows_affected == 0 {
            return Err(Error::not_found("agent", name));
        }
        let revisions = revision::Entity::delete_many().filter(revision::Column::Agent.eq(name.as_str()));
        revisions.exec(&txn).await.map_err(failed)?;
        idempotency::finish(&txn, operation.id, b"").await?;
        commit(txn).await?;
        Ok(true)
    }

    /// The answer of a binding that was made before.
    pub(crate) async fn bind_begin(&self, operation: &Operation, payload: Digest) -> Result<Option<Vec<Name>>> {
        let done = match idempotency::begin(self.db.write(), operation.id, "agents.bind", payload).await? {
            OperationStart::Done(answer) => answer,
            OperationStart::New | OperationStart::Unfinished => return Ok(None),
        };
        serde_json::from_slice(&done).map(Some).map_err(|e| Error::internal("reading an answer", e))
    }

    /// Keeps the answer of binding a tool.
    pub(crate) async fn bind_finish(&self, operation: &Operation, names: &[Name]) -> Result<()> {
        let answer = serde_json::to_vec(names).map_err(|e| Error::internal("writing an answer", e))?;
        idempotency::finish(self.db.write(), operation.id, &answer).await
    }
}

fn switch_payload(name: &Name, id: &RevisionId) -> Digest {
    Digest::of(format!("{name} {id}").as_bytes())
}

pub(super) async fn find(db: &impl ConnectionTrait, id: &RevisionId) -> Result<Option<revision::Model>> {
    revision::Entity::find_by_id(id.to_string()).one(db).await.map_err(failed)
}

/// Forgets an instance whose place another one of the same revision took; whether it was one.
async fn forget_instance(txn: &DatabaseTransaction, id: &str, of: Option<&RevisionId>) -> Result<bool> {
    let Some(of) = of else { return Ok(false) };
    let deleted = revision::Entity::delete_many()
        .filter(revision::Column::Id.eq(id))
        .filter(revision::Column::PublicId.eq(of.to_string()))
        .exec(txn)
        .await
        .map_err(failed)?;
    Ok(deleted.rows_affected > 0)
}

pub(super) async fn commit(txn: DatabaseTransaction) -> Result<()> {
    txn.commit().await.map_err(failed)
}

pub(super) fn failed(e: DbErr) -> Error {
    db_error("changing an agent")(e)
}
