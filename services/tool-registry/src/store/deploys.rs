//! The calls of deploys about tools and bindings: look, apply, settle, undo, release.

use super::{
    Once, Store, column_values,
    deploy_effects::{self, Effects, Previous},
    entity::{application, binding, tool},
    identity_providers,
    model_providers::registered,
    tools,
};
use crate::{
    deploy_plan::{self, Changes, Snapshot, Update},
    stored_tool::{Builtin, Content, StoredTool},
    vault::plan_value,
};
use hoistway_kit::{db::db_error, idempotency, time::now_ms};
use hoistway_model::{
    Code, Error, Name, Operation, OperationId, Result,
    tool::{AppliedTools, Resolved, ToolPlan},
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::Expr,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

impl Store {
    /// The effects that [`Store::apply`] would have, as of one moment.
    pub(crate) async fn resolve(
        &self,
        plan: &ToolPlan,
        providers: Vec<String>,
        identity_provider: Option<Name>,
    ) -> Result<Resolved> {
        let doing = "looking up tools";
        let txn = self.db.snapshot().await?;
        let snapshot = snapshot(&txn, plan).await?;
        let providers = registered(&txn, providers).await?;
        let identity_provider_known = match &identity_provider {
            None => true,
            Some(name) => identity_providers::find(&txn, name).await?.is_some(),
        };
        txn.rollback().await.map_err(db_error(doing))?;
        let changes = deploy_plan::changes(&snapshot, plan, &self.addresses, &self.vault)?;
        Ok(Resolved {
            tools: deploy_plan::bound_tools(&snapshot, plan, &changes, &self.addresses),
            changed: !changes.is_empty(),
            providers,
            identity_provider_known,
        })
    }

    /// Makes the plan's changes, all or nothing.
    pub(crate) async fn apply(&self, operation: &Operation, plan: &ToolPlan) -> Result<AppliedTools> {
        const KIND: &str = "tools.apply";
        let payload = self.vault.fingerprint(KIND, &plan_value(plan));
        let txn = match self.once::<AppliedTools>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let snapshot = snapshot(&txn, plan).await?;
        let changes = deploy_plan::changes(&snapshot, plan, &self.addresses, &self.vault)?;
        let applied = AppliedTools {
            created: changes.create.iter().map(|(tool, _)| tool.name.clone()).collect(),
            tools: deploy_plan::bound_tools(&snapshot, plan, &changes, &self.addresses),
        };
        if !changes.is_empty() {
            write(&txn, operation.id, &plan.agent, changes).await?;
        }
        self.finish(txn, operation.id, &applied).await?;
        Ok(applied)
    }

    /// Makes what `applied` did permanent. Without a record of it there is nothing that it changed.
    pub(crate) async fn settle(&self, agent: &Name, applied: OperationId) -> Result<()> {
        let doing = "settling a deploy's tools";
        let txn = self.db.begin().await?;
        let Some((row, effects)) = deploy_effects::of(&txn, applied).await? else { return Ok(()) };
        if row.agent != agent.as_str() {
            let text = format!("operation {applied} is of the agent \"{}\", not \"{agent}\"", row.agent);
            return Err(Error::new(Code::Conflict, text));
        }
        if row.settled {
            return Ok(());
        }
        if effects.bound {
            binding::Entity::delete_many()
                .filter(binding::Column::Agent.eq(agent.as_str()))
                .filter(binding::Column::Operation.ne(applied.to_string()))
                .exec(&txn)
                .await
                .map_err(db_error(doing))?;
            binding::Entity::update_many()
                .col_expr(binding::Column::Settled, Expr::value(true))
                .filter(binding::Column::Agent.eq(agent.as_str()))
                .exec(&txn)
                .await
                .map_err(db_error(doing))?;
        }
        tool::Entity::update_many()
            .col_expr(tool::Column::CreatedByOperation, Expr::value(Option::<String>::None))
            .filter(tool::Column::CreatedByOperation.eq(applied.to_string()))
            .exec(&txn)
            .await
            .map_err(db_error(doing))?;
        application::Entity::update_many()
            .col_expr(application::Column::Settled, Expr::value(true))
            .filter(application::Column::Operation.eq(applied.to_string()))
            .exec(&txn)
            .await
            .map_err(db_error(doing))?;
        self.commit(txn).await
    }

    /// Takes back what `applied` did and nobody has built upon since.
    pub(crate) async fn undo(&self, applied: OperationId) -> Result<()> {
        let doing = "undoing a deploy's tools";
        let txn = self.db.begin().await?;
        idempotency::undo(&txn, applied).await?;
        let Some((row, effects)) = deploy_effects::of(&txn, applied).await? else { return self.commit(txn).await };
        if row.settled {
            let text = format!("operation {applied} has settled: what it did cannot be undone any more");
            return Err(Error::new(Code::Conflict, text));
        }
        binding::Entity::delete_many()
            .filter(binding::Column::Operation.eq(applied.to_string()))
            .exec(&txn)
            .await
            .map_err(db_error(doing))?;
        for previous in effects.updated {
            put_back(&txn, applied, previous).await?;
        }
        delete_created(&txn, applied, &row.agent, &effects.created).await?;
        application::Entity::delete_by_id(applied.to_string()).exec(&txn).await.map_err(db_error(doing))?;
        self.commit(txn).await
    }

    /// The agents that have settled bindings.
    pub(crate) async fn bound_agents(&self) -> Result<Vec<Name>> {
        let agents: Vec<String> = binding::Entity::find()
            .filter(binding::Column::Settled.eq(true))
            .select_only()
            .column(binding::Column::Agent)
            .distinct()
            .order_by_asc(binding::Column::Agent)
            .into_tuple()
            .all(self.db.read())
            .await
            .map_err(db_error("listing bindings"))?;
        agents.into_iter().map(column_values::name).collect()
    }

    /// Drops the settled bindings of an agent.
    pub(crate) async fn release(&self, operation: &Operation, agent: &Name) -> Result<()> {
        const KIND: &str = "agents.release";
        let payload = self.vault.fingerprint(KIND, &json!(agent));
        let txn = match self.once::<()>(operation, KIND, payload).await? {
            Once::Again(()) => return Ok(()),
            Once::First(txn) => txn,
        };
        binding::Entity::delete_many()
            .filter(binding::Column::Agent.eq(agent.as_str()))
            // Those of a deploy that is on its way are its own to settle or to undo.
            .filter(binding::Column::Settled.eq(true))
            .exec(&txn)
            .await
            .map_err(db_error("releasing an agent's tools"))?;
        self.finish(txn, operation.id, &()).await
    }
}

async fn snapshot(db: &impl ConnectionTrait, plan: &ToolPlan) -> Result<Snapshot> {
    let doing = "looking up tools";
    let created: BTreeSet<&str> = plan.create.iter().map(|t| t.name.as_str()).collect();
    let named: BTreeSet<&str> = created.iter().copied().chain(plan.bind.iter().map(Name::as_str)).collect();
    let mut snapshot = Snapshot::default();
    if !named.is_empty() {
        let rows = tool::Entity::find().filter(tool::Column::Name.is_in(named)).all(db).await;
        for row in rows.map_err(db_error(doing))? {
            let tool = StoredTool::try_from(row)?;
            snapshot.tools.insert(tool.name.clone(), tool);
        }
    }
    let mut concerned = Condition::any().add(binding::Column::Agent.eq(plan.agent.as_str()));
    if !created.is_empty() {
        concerned = concerned.add(binding::Column::Tool.is_in(created));
    }
    let rows = binding::Entity::find().filter(concerned).all(db).await.map_err(db_error(doing))?;
    let mut others: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
    for row in rows {
        let (agent, tool) = (column_values::name(row.agent)?, column_values::name(row.tool)?);
        if agent != plan.agent {
            others.entry(tool).or_default().insert(agent);
        } else if row.settled {
            snapshot.bound.insert(tool);
        } else {
            snapshot.unsettled = true;
        }
    }
    snapshot.others = others;
    Ok(snapshot)
}

async fn write(txn: &impl ConnectionTrait, id: OperationId, agent: &Name, changes: Changes) -> Result<()> {
    let doing = "applying a deploy's tools";
    let effects = Effects::from(&changes);
    if !changes.create.is_empty() {
        let new = changes.create.into_iter().map(|(tool, credentials)| {
            let content = tools::new_content(&tool, None, credentials);
            tools::new_row(&tool, content, Some(id), id)
        });
        tools::insert(txn, new.collect()).await?;
    }
    for Update { before, content } in changes.update {
        tools::update(txn, before, content, id).await?;
    }
    for name in &changes.adopt {
        tools::adopt(txn, name).await?;
    }
    let rows: Vec<_> = changes
        .bind
        .into_iter()
        .flatten()
        .map(|tool| binding::ActiveModel {
            agent: Set(agent.to_string()),
            tool: Set(tool.into()),
            operation: Set(id.to_string()),
            settled: Set(false),
        })
        .collect();
    if !rows.is_empty() {
        binding::Entity::insert_many(rows).exec_without_returning(txn).await.map_err(db_error(doing))?;
    }
    let row = application::ActiveModel {
        operation: Set(id.to_string()),
        agent: Set(agent.to_string()),
        effects: Set(column_values::write(&effects)?),
        settled: Set(false),
        created_at: Set(now_ms()),
    };
    application::Entity::insert(row).exec_without_returning(txn).await.map_err(db_error(doing))?;
    Ok(())
}

/// Gives a tool the content back that it had before `applied`, if that is still the last one who wrote it.
async fn put_back(txn: &impl ConnectionTrait, applied: OperationId, previous: Previous) -> Result<()> {
    let Some(have) = tools::find(txn, &previous.tool).await?.filter(|have| have.written_by == applied) else {
        return Ok(());
    };
    let content = Content {
        description: previous.description,
        connection: previous.connection,
        builtin: previous.builtin.as_deref().and_then(Builtin::parse),
        credentials: have.content.credentials.clone().filter(|_| !previous.without_credentials),
    };
    tools::put(txn, have, content, previous.written_by).await.map(drop)
}

/// Deletes the tools that `applied` created, but for those that somebody else adopted, changed or bound since. Settled
/// bindings that are older than it do not count: they waited for the tool to be registered.
async fn delete_created(txn: &impl ConnectionTrait, applied: OperationId, agent: &str, created: &[Name]) -> Result<()> {
    let doing = "undoing a deploy's tools";
    if created.is_empty() {
        return Ok(());
    }
    let names = || created.iter().map(Name::as_str);
    let bound = binding::Entity::find()
        .filter(binding::Column::Tool.is_in(names()))
        .filter(
            // Ids of operations sort by time: an older binding waited for the tool while there was none.
            Condition::any()
                .add(
                    Condition::all()
                        .add(binding::Column::Agent.ne(agent))
                        .add(binding::Column::Operation.gt(applied.to_string())),
                )
                .add(binding::Column::Settled.eq(false)),
        )
        .all(txn)
        .await
        .map_err(db_error(doing))?;
    tool::Entity::delete_many()
        .filter(tool::Column::Name.is_in(names()))
        .filter(tool::Column::Name.is_not_in(bound.iter().map(|row| row.tool.as_str())))
        .filter(tool::Column::CreatedByOperation.eq(applied.to_string()))
        .filter(tool::Column::WrittenByOperation.eq(applied.to_string()))
        .exec(txn)
        .await
        .map_err(db_error(doing))?;
    Ok(())
}
