//! Stopping and starting agents, and new instances of what they run.

use super::{
    AgentRecord, Revision, Store,
    changes::{commit, failed, find},
    entity::{agent, revision},
};
use hoistway_kit::{
    idempotency::{self, OperationStart},
    time::now_ms,
};
use hoistway_model::{Digest, Error, Name, Operation, Result, RevisionId, agent::AgentSpec};
use sea_orm::{
    ActiveModelTrait,
    ActiveValue::Set,
    ColumnTrait, DatabaseTransaction, EntityTrait, IntoActiveModel, QueryFilter,
    sea_query::{ExprTrait, SimpleExpr},
};

const RESTART: &str = "agents.restart";

impl Store {
    /// Marks an agent as stopped. Whether this call did so; not if it was, or if its operation was done before.
    pub(crate) async fn stop(&self, operation: &Operation, name: &Name) -> Result<bool> {
        let txn = self.db.begin().await?;
        if let OperationStart::Done(_) = idempotency::begin(&txn, operation.id, "agents.stop", of(name)).await? {
            return Ok(false);
        }
        let row = agent_row(&txn, name).await?;
        if !row.stopped {
            let change = agent::ActiveModel {
                name: Set(row.name),
                stopped: Set(true),
                idle: Set(false),
                updated_at: Set(now_ms()),
                ..Default::default()
            };
            change.update(&txn).await.map_err(failed)?;
        }
        idempotency::finish(&txn, operation.id, b"").await?;
        commit(txn).await?;
        Ok(!row.stopped)
    }

    /// Marks a stopped agent as started and answers with the new instances that are to be kept going; nothing if it
    /// was not stopped, or if its operation was done before. New ones, because the old ones may still be ending.
    pub(crate) async fn start(&self, operation: Option<&Operation>, name: &Name) -> Result<Vec<Revision>> {
        let txn = self.db.begin().await?;
        if let Some(operation) = operation {
            if let OperationStart::Done(_) =
                idempotency::begin(&txn, operation.id, "agents.start_again", of(name)).await?
            {
                return Ok(Vec::new());
            }
            idempotency::finish(&txn, operation.id, b"").await?;
        }
        let row = agent_row(&txn, name).await?;
        if !row.stopped {
            commit(txn).await?;
            return Ok(Vec::new());
        }
        let mut change = agent::ActiveModel {
            name: Set(row.name),
            stopped: Set(false),
            updated_at: Set(now_ms()),
            ..Default::default()
        };
        let mut renewed = Vec::new();
        let same = row.active_revision == row.desired_revision;
        if let Some(active) = row.active_revision {
            let new = self.renew(&txn, &active, None).await?;
            change.active_revision = Set(Some(new.id.to_string()));
            if same {
                change.desired_revision = Set(Some(new.id.to_string()));
            }
            renewed.push(new);
        }
        if let Some(desired) = row.desired_revision.filter(|_| !same) {
            let new = self.renew(&txn, &desired, None).await?;
            change.desired_revision = Set(Some(new.id.to_string()));
            renewed.push(new);
        }
        change.update(&txn).await.map_err(failed)?;
        commit(txn).await?;
        Ok(renewed)
    }

    /// Gives the revision that an agent which is stopped will start with another specification.
    pub(crate) async fn respecify_stopped(
        &self,
        name: &Name,
        instance: &RevisionId,
        spec: AgentSpec,
    ) -> Result<Revision> {
        let txn = self.db.begin().await?;
        let row = agent_row(&txn, name).await?;
        let old = instance.to_string();
        let renewed = self.renew(&txn, &old, Some(spec)).await?;
        let new = renewed.id.to_string();
        let mut change = agent::ActiveModel { name: Set(row.name), ..Default::default() };
        if row.desired_revision.as_ref() == Some(&old) {
            change.desired_revision = Set(Some(new.clone()));
        }
        if row.active_revision.as_ref() == Some(&old) {
            change.active_revision = Set(Some(new));
        }
        change.updated_at = Set(now_ms());
        change.update(&txn).await.map_err(failed)?;
        commit(txn).await?;
        Ok(renewed)
    }

    /// Marks an agent as idle if `instance` serves it and no other one is wanted. Another instance takes its place, which
    /// an invoke will start: the old one may still be ending then.
    pub(crate) async fn mark_idle(
        &self,
        name: &Name,
        instance: &RevisionId,
    ) -> Result<Option<(AgentRecord, Revision)>> {
        let txn = self.db.begin().await?;
        let row = agent_row(&txn, name).await?;
        let id = Some(instance.to_string());
        // One that is marked already runs, if it was started for an invoke and that could not be written.
        if row.stopped || row.active_revision != id || row.desired_revision != id {
            return Ok(None);
        }
        let new = self.renew(&txn, &instance.to_string(), None).await?;
        let change = agent::ActiveModel {
            name: Set(row.name),
            active_revision: Set(Some(new.id.to_string())),
            desired_revision: Set(Some(new.id.to_string())),
            idle: Set(true),
            ..Default::default()
        };
        let after = change.update(&txn).await.map_err(failed)?;
        commit(txn).await?;
        Ok(Some((AgentRecord::read(after)?, new)))
    }

    /// Marks an idle agent as one that runs, if `instance` is still the one that serves it.
    pub(crate) async fn unmark_idle(&self, name: &Name, instance: &RevisionId) -> Result<()> {
        let serves = agent::Column::ActiveRevision.eq(instance.to_string());
        self.unmark(agent::Column::Name.eq(name.as_str()).and(serves)).await
    }

    /// Marks all idle agents as ones that run.
    pub(crate) async fn unmark_all_idle(&self) -> Result<()> {
        self.unmark(agent::Column::Idle.eq(true)).await
    }

    async fn unmark(&self, of: SimpleExpr) -> Result<()> {
        let change = agent::ActiveModel { idle: Set(false), ..Default::default() };
        agent::Entity::update_many().set(change).filter(of).exec(self.db.write()).await.map(drop).map_err(failed)
    }

    /// Whether a restart was done before; else it has begun now.
    pub(crate) async fn restart_begin(&self, operation: &Operation, name: &Name) -> Result<bool> {
        let begun = idempotency::begin(self.db.write(), operation.id, RESTART, of(name)).await?;
        Ok(matches!(begun, OperationStart::Done(_)))
    }

    /// Keeps that a restart was done.
    pub(crate) async fn restart_finish(&self, operation: &Operation) -> Result<()> {
        idempotency::finish(self.db.write(), operation.id, b"").await
    }

    /// Puts a new instance of the same revision in an instance's place.
    async fn renew(&self, txn: &DatabaseTransaction, id: &str, spec: Option<AgentSpec>) -> Result<Revision> {
        let missing = || Error::internal("starting an agent", "its revision is not there");
        let row = find(txn, &id.parse()?).await?.ok_or_else(missing)?;
        let old = Revision::read(row, &self.key)?;
        let spec = spec.unwrap_or_else(|| old.spec.clone());
        let new = Revision { id: RevisionId::mint(), operation: None, spec, ..old };
        let row = new.write(&self.key)?.into_active_model();
        revision::Entity::insert(row).exec_without_returning(txn).await.map_err(failed)?;
        revision::Entity::delete_by_id(id).exec(txn).await.map_err(failed)?;
        Ok(new)
    }
}

async fn agent_row(txn: &DatabaseTransaction, name: &Name) -> Result<agent::Model> {
    let row = agent::Entity::find_by_id(name.as_str()).one(txn).await.map_err(failed)?;
    row.ok_or_else(|| Error::not_found("agent", name))
}

fn of(name: &Name) -> Digest {
    Digest::of(name.as_str().as_bytes())
}
