//! Revisions as users look at them: by number or id, newest first. Instances that are only coming up in the place of
//! another one of the same revision are not among them.

use super::{
    AgentRecord, Revision, Store, StoredPhase,
    entity::{agent, revision},
};
use hoistway_kit::db::db_error;
use hoistway_model::{Code, Error, Result, revision::RevisionRef};
use sea_orm::{ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select};

const LISTING: &str = "listing revisions";
/// The number of stored revisions that an error names.
const TOLD: u64 = 20;

impl Store {
    /// One revision of an agent.
    pub(crate) async fn find_revision(&self, agent: &AgentRecord, wanted: RevisionRef) -> Result<Revision> {
        let found = match wanted {
            RevisionRef::Current => {
                let id = agent.desired.map(|id| id.to_string()).unwrap_or_default();
                self.one(visible(agent).filter(revision::Column::Id.eq(id))).await?
            }
            RevisionRef::Previous => self.previous(agent).await?,
            RevisionRef::Number(number) => {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                self.one(visible(agent).filter(revision::Column::Number.eq(number))).await?
            }
            RevisionRef::Id(id) => {
                self.one(visible(agent).filter(revision::Column::PublicId.eq(id.to_string()))).await?
            }
        };
        match found {
            Some(found) => Ok(found),
            None => Err(self.not_kept(agent, wanted).await?),
        }
    }

    /// The one that served before the current one: what serves while the current one is still on its way, else the
    /// newest older one that ever served.
    async fn previous(&self, agent: &AgentRecord) -> Result<Option<Revision>> {
        if let Some(active) = agent.active.filter(|active| agent.desired != Some(*active)) {
            return self.revision(&active).await;
        }
        let current = match agent.desired {
            Some(id) => self.revision(&id).await?,
            None => None,
        };
        let Some(current) = current else { return Ok(None) };
        let before = i64::try_from(current.number).unwrap_or(i64::MAX);
        let older =
            visible(agent).filter(revision::Column::Number.lt(before)).filter(revision::Column::ServedAt.is_not_null());
        self.one(older).await
    }

    /// The revision whose number comes before that of `revision`.
    pub(crate) async fn numbered_before(&self, agent: &AgentRecord, number: u64) -> Result<Option<Revision>> {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.one(visible(agent).filter(revision::Column::Number.lt(number))).await
    }

    /// Newest first, at most `limit`.
    pub(crate) async fn revisions(
        &self,
        agent: &AgentRecord,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Revision>> {
        let mut query = visible(agent).limit(u64::from(limit));
        if let Some(before) = before {
            query = query.filter(revision::Column::Number.lt(i64::try_from(before).unwrap_or(i64::MAX)));
        }
        let rows = query.all(self.db.read()).await.map_err(db_error(LISTING))?;
        rows.into_iter().map(|row| Revision::read(row, &self.key)).collect()
    }

    /// Whether one more agent may be made.
    pub(crate) async fn has_room(&self) -> Result<()> {
        let count = agent::Entity::find().count(self.db.read()).await.map_err(db_error("counting agents"))?;
        if count < u64::from(self.limits.agents) { Ok(()) } else { Err(full(self.limits.agents)) }
    }

    async fn one(&self, query: Select<revision::Entity>) -> Result<Option<Revision>> {
        let row = query.one(self.db.read()).await;
        row.map_err(db_error("reading a revision"))?.map(|row| Revision::read(row, &self.key)).transpose()
    }

    async fn not_kept(&self, agent: &AgentRecord, wanted: RevisionRef) -> Result<Error> {
        let numbers: Vec<i64> = visible(agent)
            .select_only()
            .column(revision::Column::Number)
            .limit(TOLD)
            .into_tuple()
            .all(self.db.read())
            .await
            .map_err(db_error(LISTING))?;
        let kept: Vec<String> = numbers.iter().map(i64::to_string).collect();
        let name = &agent.name;
        let what = match wanted {
            RevisionRef::Previous => format!("agent \"{name}\" has no earlier revision that served and is kept"),
            wanted => format!("revision {wanted} of agent \"{name}\" is not kept"),
        };
        let kept = if kept.is_empty() { "none is".to_owned() } else { format!("kept are {}", kept.join(", ")) };
        Ok(Error::new(Code::NotFound, format!("{what}; {kept}")))
    }
}

/// As many agents as allowed are there.
pub(super) fn full(limit: u32) -> Error {
    let message = format!(
        "there are {limit} agents, which is as many as HOISTWAY_AGENT_MAX_AGENTS allows: delete one, or raise the setting"
    );
    Error::new(Code::ResourceExhausted, message)
}

/// An agent's revisions as users see them, newest first: all but instances that this service is bringing up by itself.
fn visible(agent: &AgentRecord) -> Select<revision::Entity> {
    let current = [agent.desired, agent.active].into_iter().flatten().map(|id| id.to_string());
    let shown = Condition::any()
        .add(revision::Column::Operation.is_not_null())
        .add(revision::Column::Phase.eq(StoredPhase::Retired.as_str()))
        .add(revision::Column::Id.is_in(current));
    revision::Entity::find()
        .filter(revision::Column::Agent.eq(agent.name.as_str()))
        .filter(shown)
        .order_by_desc(revision::Column::Number)
}
