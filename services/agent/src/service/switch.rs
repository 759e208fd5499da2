//! The point of no return, and everything that follows from what is wanted and what is ready.

use super::{ACK_LIMIT, Service, draining::HURRY, revision_supervisor::RevisionHealth, start::Start};
use crate::store::{AgentRecord, ImageFacts, Revision, Switched};
use futures_util::future::join_all;
use hoistway_model::{Code, Error, Name, Operation, Result, RevisionId, agent::Agent};
use std::{sync::Arc, time::Duration};

/// The number of times that a change which the database refused is tried again, and the pause between two.
const SETTLE_TRIES: u32 = 5;
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// What a switch is for.
#[derive(Debug)]
pub(super) enum Switch {
    /// A deploy's revision takes the place of whichever there is.
    Revision(Operation),
    /// Another instance of a revision takes the place of the one before, if that one is still wanted.
    Instance {
        /// The instance before.
        of: RevisionId,
    },
}

impl Switch {
    fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Revision(operation) => Some(operation),
            Self::Instance { .. } => None,
        }
    }
}

/// The outcome of settling an agent.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The version that gateways must have seen before what is retired can go.
    pub version: u64,
    /// Instances that nothing leads to any more.
    pub retired: Vec<RevisionId>,
}

impl Service {
    pub(super) async fn switch(self: Arc<Self>, by: Switch, name: Name, id: RevisionId) -> Result<Agent> {
        let not_found = || Error::not_found("agent", &name);
        let operation = by.operation();
        if let Some(operation) = operation
            && self.store.was_switched(operation, &name, &id).await?
        {
            return self.view(self.store.agent(&name).await?.ok_or_else(not_found)?).await;
        }
        self.ensure_started(&name, &id).await?;
        let lock = self.lock(&name).await;
        let before = self.store.agent(&name).await?.ok_or_else(not_found)?;
        // Under the lock: a deploy or a stop that came in between wins, because it is newer.
        if let Switch::Instance { of } = &by
            && (before.stopped || before.desired != Some(*of))
        {
            return Err(Error::new(Code::Aborted, "the agent was stopped or deployed meanwhile"));
        }
        let retired = self.switch_record(operation, &before, &id, self.ready_image(&id).as_ref()).await?.1;
        let mut settled = self.settle(&name).await?;
        settled.retired.extend(retired);
        drop(lock);
        if !self.hub.wait_acked(settled.version, ACK_LIMIT).await {
            tracing::warn!(agent = %name, "a gateway has not taken the new route within {} s", ACK_LIMIT.as_secs());
        }
        self.drain(settled, self.drain);
        self.bind_late(&name, &id);
        self.view(self.store.agent(&name).await?.ok_or_else(not_found)?).await
    }

    /// A revision that was started before this program began is started again before it is switched to.
    async fn ensure_started(self: &Arc<Self>, name: &Name, id: &RevisionId) -> Result<()> {
        let start = {
            let _lock = self.lock(name).await;
            let revision = self.store.revision(id).await?.filter(|r| r.spec.agent == *name);
            self.resume(revision.ok_or_else(|| Error::not_found("revision", id))?)?
        };
        match start {
            Start::Known(_) => {
                Err(Error::new(Code::Conflict, format!("another revision has taken the place of {id} already")))
            }
            start => self.outcome(start).await.map(drop),
        }
    }

    /// Brings an agent to where its records and supervisors say that it should be. Under its lock.
    pub(super) async fn settle(&self, name: &Name) -> Result<Settled> {
        let Some(mut record) = self.store.agent(name).await? else {
            return Ok(Settled { version: self.hub.remove(name), retired: Vec::new() });
        };
        let mut retired = Vec::new();
        if !record.stopped
            && let Some(desired) = record.desired
            && record.active != Some(desired)
            && let Some(image) = self.ready_image(&desired)
        {
            (record, retired) = self.switch_record(None, &record, &desired, Some(&image)).await?;
        }
        // That it is idle may have been written although the answer was an error.
        if record.idle
            && let Some(active) = record.active
            && self.supervisor(&active).is_none()
            && let Some(revision) = self.store.revision(&active).await?
        {
            retired.extend(self.other_instances(&revision));
            self.park(revision);
        }
        self.supersede(&retired);
        self.report_phase(&record);
        Ok(Settled { version: self.hub.set(self.route(&record)), retired })
    }

    /// Records a switch; the record after it and the instances that it left behind. The layers of a revision that is
    /// kept stay on disk, so that a rollback needs no registry.
    async fn switch_record(
        &self,
        operation: Option<&Operation>,
        before: &AgentRecord,
        id: &RevisionId,
        ready: Option<&ImageFacts>,
    ) -> Result<(AgentRecord, Vec<RevisionId>)> {
        let revision = self.supervisor(id).map(|supervisor| supervisor.revision.public);
        let other_instance_of = revision.filter(|public| public != id);
        let Switched { record, pruned } =
            self.store.switch(operation, &before.name, id, other_instance_of.as_ref(), ready).await?;
        let retired = left_behind(before, &record);
        self.supersede(&retired);
        for id in &retired {
            let Some(supervisor) = self.supervisor(id) else { continue };
            let same = Some(supervisor.revision.public) == other_instance_of;
            if let Some(image) = supervisor.condition().image.filter(|_| !same) {
                self.kept_layers().insert(*id, self.images.store().pin(&image.layers));
            }
        }
        for id in &pruned {
            self.kept_layers().remove(id);
        }
        Ok((record, retired))
    }

    /// Other instances have taken the place of these.
    pub(super) fn supersede(&self, retired: &[RevisionId]) {
        retired.iter().filter_map(|id| self.supervisor(id)).for_each(|supervisor| supervisor.supersede());
    }

    /// The instances of a revision beside this one.
    fn other_instances(&self, of: &Revision) -> Vec<RevisionId> {
        let supervisors = self.supervisors();
        let revisions = supervisors.values().map(|supervisor| &supervisor.revision);
        revisions.filter(|other| other.public == of.public && other.id != of.id).map(|other| other.id).collect()
    }

    /// Settles an agent soon, and on its own: whoever noticed a change does not wait.
    pub(super) fn refresh_soon(self: &Arc<Self>, name: &Name) {
        if self.stopping.is_cancelled() {
            return;
        }
        let (service, name) = (Arc::clone(self), name.clone());
        self.tasks.spawn(async move {
            for _ in 0..SETTLE_TRIES {
                let settled = {
                    let _lock = service.lock(&name).await;
                    service.settle(&name).await
                };
                match settled {
                    Ok(settled) => return service.drain(settled, service.drain),
                    Err(e) => tracing::warn!(agent = %name, cause = e.chain(), "following a change: {e}"),
                }
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        });
    }

    /// Ends what nothing leads to any more, once no gateway sends anything there; each may finish its requests within
    /// `grace`.
    pub(super) fn drain(self: &Arc<Self>, settled: Settled, grace: Duration) {
        if settled.retired.is_empty() {
            return;
        }
        let service = Arc::clone(self);
        self.tasks.spawn(async move {
            service.hub.wait_acked(settled.version, ACK_LIMIT).await;
            join_all(settled.retired.iter().map(|id| service.finish(id, grace))).await;
            service.sweep().await;
        });
    }

    /// Lets an instance finish. The oldest of an agent that has many of them is hurried.
    async fn finish(&self, id: &RevisionId, grace: Duration) {
        let Some(agent) = self.supervisor(id).map(|supervisor| supervisor.revision.spec.agent.clone()) else {
            return self.stop_revision(id, grace).await;
        };
        let surplus = self.draining.begin(&agent, *id);
        let hurried = join_all(surplus.iter().map(|old| self.stop_revision(old, HURRY)));
        tokio::join!(self.stop_revision(id, grace), hurried);
        self.draining.end(&agent, id);
    }

    /// The image of a revision that is ready now.
    fn ready_image(&self, id: &RevisionId) -> Option<ImageFacts> {
        let condition = self.supervisor(id)?.condition();
        condition.image.filter(|_| matches!(condition.life, RevisionHealth::Ready))
    }
}

/// The revisions that an agent had and has no more.
fn left_behind(before: &AgentRecord, after: &AgentRecord) -> Vec<RevisionId> {
    let has = |id: &RevisionId| after.active == Some(*id) || after.desired == Some(*id);
    let mut left: Vec<RevisionId> =
        [before.active, before.desired].into_iter().flatten().filter(|id| !has(id)).collect();
    left.dedup();
    left
}
