//! Stopping, starting and restarting agents: new instances of the revision that they have.

use super::{
    ACK_LIMIT, Service,
    start::{Start, new_instance},
    switch::{Settled, Switch},
};
use hoistway_model::{
    Code, Error, Name, Operation, Result,
    agent::{Agent, AgentSpec},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The time in which a stopped agent may finish its requests.
const STOP_GRACE: Duration = Duration::from_secs(30);

impl Service {
    /// Ends an agent's instances once no gateway sends anything there. That it is stopped is durable before.
    pub(super) async fn stop_agent(self: Arc<Self>, operation: Operation, name: Name) -> Result<Agent> {
        let settled = {
            let _lock = self.lock(&name).await;
            let record = self.record(&name).await?;
            if record.desired.is_none() {
                return Err(unfinished(&name));
            }
            if !self.reserve.for_freeing(|| self.store.stop(&operation, &name)).await? {
                return self.view(self.record(&name).await?).await;
            }
            let mut retired: BTreeSet<_> = [record.active, record.desired].into_iter().flatten().collect();
            for id in &retired {
                // It is started again from what is on this machine.
                if let Some(image) = self.supervisor(id).and_then(|supervisor| supervisor.condition().image) {
                    self.kept_layers().insert(*id, self.images.store().pin(&image.layers));
                }
            }
            // An instance that only starts is not wanted any more, and what is finishing has no longer than the rest.
            retired.extend(self.starting(&name).into_iter().chain(self.draining.of(&name)));
            Settled { version: self.settle(&name).await?.version, retired: retired.into_iter().collect() }
        };
        if !self.hub.wait_acked(settled.version, ACK_LIMIT).await {
            tracing::warn!(agent = %name, "a gateway has not noticed a stop within {} s", ACK_LIMIT.as_secs());
        }
        self.drain(settled, STOP_GRACE);
        self.view(self.record(&name).await?).await
    }

    /// Brings up what a stopped agent is to run, and waits for what comes of it.
    pub(super) async fn start_agent(self: Arc<Self>, operation: Option<Operation>, name: Name) -> Result<Agent> {
        let supervisors = {
            let _lock = self.lock(&name).await;
            let before = self.record(&name).await?;
            if before.desired.is_none() {
                return Err(unfinished(&name));
            }
            let renewed = self.store.start(operation.as_ref(), &name).await?;
            let active = self.record(&name).await?.active;
            let mut supervisors: Vec<_> = renewed
                .into_iter()
                .map(|revision| {
                    let proven = active == Some(revision.id);
                    self.start_supervisor(revision, proven)
                })
                .collect();
            if let Some(idle) = self.idle_supervisor(&before) {
                self.store.unmark_idle(&name, &idle.revision.id).await?;
                supervisors.push(self.start_idle(&idle));
            }
            if !supervisors.is_empty() {
                for id in [before.active, before.desired].into_iter().flatten() {
                    self.kept_layers().remove(&id);
                }
            }
            let settled = self.settle(&name).await?;
            self.drain(settled, self.drain);
            supervisors
        };
        for supervisor in supervisors {
            if let Err(e) = supervisor.settled().await {
                // The agent's phase says it, and it is tried again.
                tracing::info!(agent = %name, cause = e.chain(), "the agent was started and does not run: {e}");
            }
        }
        self.view(self.record(&name).await?).await
    }

    /// Puts a new instance in the place of the present one, which stays if the new one does not start.
    pub(super) async fn restart_agent(self: Arc<Self>, operation: Operation, name: Name) -> Result<Agent> {
        let record = self.record(&name).await?;
        if record.desired.is_none() {
            return Err(unfinished(&name));
        }
        if self.store.restart_begin(&operation, &name).await? {
            return self.view(record).await;
        }
        if record.stopped {
            Arc::clone(&self).start_agent(None, name.clone()).await?;
        } else {
            match Arc::clone(&self).swap_instance(&name, Some).await {
                Ok(_) => {}
                // Somebody else replaced it, which is a restart too.
                Err(e) if e.code == Code::Aborted => {}
                Err(e) => return Err(e.prefixed("the agent was not restarted: ")),
            }
        }
        self.store.restart_finish(&operation).await?;
        self.view(self.record(&name).await?).await
    }

    /// Replaces an agent's instance, as a redeploy would, by one whose specification `change` makes of the present
    /// one. Nothing happens when it makes none; whether something did.
    pub(super) async fn swap_instance(
        self: Arc<Self>,
        name: &Name,
        change: impl FnOnce(AgentSpec) -> Option<AgentSpec>,
    ) -> Result<bool> {
        let (before, id, supervisor) = {
            let _lock = self.lock(name).await;
            let Some(agent) = self.store.agent(name).await? else { return Ok(false) };
            let Some(revision) = self.store.shown_revision(&agent).await?.filter(|_| agent.desired.is_some()) else {
                return Ok(false);
            };
            let Some(spec) = change(revision.spec.clone()) else { return Ok(false) };
            if agent.stopped {
                self.store.respecify_stopped(name, &revision.id, spec).await?;
                return Ok(true);
            }
            // A restart has the same specification, and starts it.
            let idle = self.idle_supervisor(&agent).filter(|idle| idle.revision.id == revision.id);
            if idle.is_some() && spec != revision.spec {
                let renewed = self.store.respecify_stopped(name, &revision.id, spec).await?;
                self.park(renewed);
                self.supervisors().remove(&revision.id);
                let settled = self.settle(name).await?;
                self.drain(settled, self.drain);
                return Ok(true);
            }
            let image = self
                .supervisor(&revision.id)
                .and_then(|supervisor| supervisor.condition().image)
                .or(revision.image.clone());
            let before = revision.id;
            let new = new_instance(revision, spec, image)?;
            self.store.begin_instance(&new).await?;
            (before, new.id, self.start_supervisor(new, false))
        };
        let switched = match self.outcome(Start::RevisionSupervisor(supervisor)).await {
            Ok(_) => Arc::clone(&self).switch(Switch::Instance { of: before }, name.clone(), id).await,
            Err(e) => Err(e),
        };
        match switched {
            Ok(_) => Ok(true),
            Err(e) => {
                self.undo(None, name.clone(), id).await?;
                Err(e)
            }
        }
    }
}

fn unfinished(name: &Name) -> Error {
    Error::new(Code::Conflict, format!("the first deploy of agent \"{name}\" is not finished yet"))
}
