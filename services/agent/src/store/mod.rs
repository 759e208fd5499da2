//! The tables and what is done with them. A start is one commit, a switch is one commit.

mod changes;
mod entity;
mod history;
mod lifecycle;
mod record;
mod reseal;

pub(crate) use changes::{Begin, Switched, Undo};
pub(crate) use record::{AgentRecord, ImageFacts, Revision, StoredPhase};

use crate::migrations;
use entity::{agent, revision};
use hoistway_kit::{
    db::{Db, Location, db_error},
    idempotency,
    prune::{Pruned, Retention},
    secrets::MasterKey,
};
use hoistway_model::{Digest, Name, Result, RevisionId, image::StoredImage};
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use std::collections::{BTreeSet, HashMap};

/// Revisions that are read at a time.
const PAGE: u64 = 200;

/// The limits of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreLimits {
    /// Superseded revisions of each agent.
    pub revisions: u32,
    /// Agents.
    pub agents: u32,
    /// Answers of calls and tombstones.
    pub operations: Retention,
}

/// The database of the agent service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Db,
    key: MasterKey,
    limits: StoreLimits,
}

impl Store {
    pub(crate) async fn open(location: &Location, key: MasterKey, limits: StoreLimits) -> Result<Self> {
        let store = Self { db: Db::open(location, migrations::ALL).await?, key, limits };
        let resealed = store.reseal().await?;
        if resealed > 0 {
            tracing::info!("{resealed} revisions were sealed with the new master key");
        }
        Ok(store)
    }

    pub(crate) async fn agent(&self, name: &Name) -> Result<Option<AgentRecord>> {
        let row = agent::Entity::find_by_id(name.as_str()).one(self.db.read()).await;
        row.map_err(db_error("reading an agent"))?.map(AgentRecord::read).transpose()
    }

    /// Agents by name, at most `limit` of those after `after`.
    pub(crate) async fn agents_after(&self, after: Option<&Name>, limit: u32) -> Result<Vec<AgentRecord>> {
        let mut query = agent::Entity::find().order_by_asc(agent::Column::Name).limit(u64::from(limit));
        if let Some(after) = after {
            query = query.filter(agent::Column::Name.gt(after.as_str()));
        }
        let rows = query.all(self.db.read()).await;
        rows.map_err(db_error("listing agents"))?.into_iter().map(AgentRecord::read).collect()
    }

    /// All agents by name.
    pub(crate) async fn agents(&self) -> Result<Vec<AgentRecord>> {
        let rows = agent::Entity::find().order_by_asc(agent::Column::Name).all(self.db.read()).await;
        rows.map_err(db_error("listing agents"))?.into_iter().map(AgentRecord::read).collect()
    }

    pub(crate) async fn revision(&self, id: &RevisionId) -> Result<Option<Revision>> {
        let row = revision::Entity::find_by_id(id.to_string()).one(self.db.read()).await;
        row.map_err(db_error("reading a revision"))?.map(|row| Revision::read(row, &self.key)).transpose()
    }

    /// The revision that an agent is shown by: the desired one, else the newest.
    pub(crate) async fn shown_revision(&self, agent: &AgentRecord) -> Result<Option<Revision>> {
        if let Some(desired) = &agent.desired {
            return self.revision(desired).await;
        }
        let row = revision::Entity::find()
            .filter(revision::Column::Agent.eq(agent.name.as_str()))
            .order_by_desc(revision::Column::CreatedAt)
            .one(self.db.read())
            .await;
        row.map_err(db_error("reading a revision"))?.map(|row| Revision::read(row, &self.key)).transpose()
    }

    /// The same for many agents: one query for those that have a desired revision.
    pub(crate) async fn shown_revisions(&self, agents: &[AgentRecord]) -> Result<HashMap<Name, Revision>> {
        let desired = agents.iter().filter_map(|agent| agent.desired).map(|id| id.to_string());
        let rows = revision::Entity::find().filter(revision::Column::Id.is_in(desired)).all(self.db.read()).await;
        let mut shown = HashMap::new();
        for row in rows.map_err(db_error("reading revisions"))? {
            let revision = Revision::read(row, &self.key)?;
            shown.insert(revision.spec.agent.clone(), revision);
        }
        for agent in agents.iter().filter(|agent| agent.desired.is_none()) {
            shown.extend(self.shown_revision(agent).await?.map(|revision| (agent.name.clone(), revision)));
        }
        Ok(shown)
    }

    /// Every revision that is not retired, by agent, oldest first.
    pub(crate) async fn current_revisions(&self) -> Result<HashMap<Name, Vec<Revision>>> {
        let rows = revision::Entity::find()
            .filter(revision::Column::Phase.ne(StoredPhase::Retired.as_str()))
            .order_by_asc(revision::Column::CreatedAt)
            .all(self.db.read())
            .await
            .map_err(db_error("listing revisions"))?;
        let mut by_agent: HashMap<Name, Vec<Revision>> = HashMap::new();
        for row in rows {
            let revision = Revision::read(row, &self.key)?;
            by_agent.entry(revision.spec.agent.clone()).or_default().push(revision);
        }
        Ok(by_agent)
    }

    /// The ids of all instances of an agent.
    pub(crate) async fn revision_ids(&self, name: &Name) -> Result<Vec<RevisionId>> {
        let rows = revision::Entity::find()
            .filter(revision::Column::Agent.eq(name.as_str()))
            .all(self.db.read())
            .await
            .map_err(db_error("listing revisions"))?;
        rows.into_iter().map(|row| row.id.parse()).collect()
    }

    /// The platform's images that any revision names, retired ones too.
    pub(crate) async fn images(&self) -> Result<Vec<StoredImage>> {
        let mut images = BTreeSet::new();
        let mut pages = revision::Entity::find().order_by_asc(revision::Column::Id).paginate(self.db.read(), PAGE);
        while let Some(rows) = pages.fetch_and_next().await.map_err(db_error("listing images"))? {
            for row in rows {
                let revision = Revision::read(row, &self.key)?;
                images.extend(StoredImage::of(&revision.spec.image, revision.image.map(|facts| facts.digest)));
            }
        }
        Ok(images.into_iter().collect())
    }

    /// The layers of every retired revision.
    pub(crate) async fn retired_layers(&self) -> Result<Vec<(RevisionId, Vec<Digest>)>> {
        let rows = revision::Entity::find()
            .filter(revision::Column::Phase.eq(StoredPhase::Retired.as_str()))
            .all(self.db.read())
            .await
            .map_err(db_error("listing revisions"))?;
        rows.into_iter().map(|row| Ok((row.id.parse()?, record::read_json(row.layers.as_bytes())?))).collect()
    }

    /// Forgets answers and tombstones that are not to be kept.
    pub(crate) async fn purge(&self) -> Result<Pruned> {
        idempotency::forget(&self.db, self.limits.operations).await
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
}
