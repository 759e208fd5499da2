//! Whom egress lets out: the revisions that are up or coming up.

use crate::store::Revision;
use hoistway_kit::change_feed;
use hoistway_model::{Name, RevisionId, egress::AgentIdentity, public_model_apis::MODEL_APIS, watch::Updates};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The identities of all agents. A revision has one as long as any of its instances may call out.
#[derive(Debug)]
pub(super) struct EgressIdentities {
    /// Whether agents' network is open.
    open_network: bool,
    /// By instance.
    instances: Mutex<BTreeMap<RevisionId, AgentIdentity>>,
    /// Wakes followers.
    changed: watch::Sender<()>,
}

impl EgressIdentities {
    pub fn new(open_network: bool) -> Arc<Self> {
        Arc::new(Self { open_network, instances: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// An instance is about to be started.
    pub fn add(&self, instance: &Revision) {
        let identity = AgentIdentity {
            revision: instance.public,
            agent: instance.spec.agent.clone(),
            required_tools: instance.spec.tools.iter().map(|tool| tool.name.clone()).collect(),
            open_network: self.open_network,
            llm: instance.spec.config.llm.clone(),
            own_key_origins: MODEL_APIS
                .iter()
                .filter(|api| api.is_called_with_own_key(&instance.spec.config.env))
                .map(|api| api.origin.to_owned())
                .collect(),
        };
        self.lock().insert(instance.id, identity);
        self.changed.send_replace(());
    }

    /// An instance has ended.
    pub fn remove(&self, instance: &RevisionId) {
        if self.lock().remove(instance).is_some() {
            self.changed.send_replace(());
        }
    }

    /// An agent was deleted: nothing of it may call out any more, whatever still runs.
    pub fn remove_agent(&self, agent: &Name) {
        self.lock().retain(|_, identity| identity.agent != *agent);
        self.changed.send_replace(());
    }

    pub fn watch(self: &Arc<Self>, closed: CancellationToken) -> Updates<RevisionId, AgentIdentity> {
        let identities = Arc::clone(self);
        change_feed::follow(self.changed.subscribe(), closed, move || {
            let by_revision = identities.by_revision();
            async move { Ok(by_revision) }
        })
    }

    /// The newest instance of a revision.
    pub fn instance_of(&self, revision: RevisionId) -> Option<RevisionId> {
        let instances = self.lock();
        instances.iter().rev().find(|(_, identity)| identity.revision == revision).map(|(instance, _)| *instance)
    }

    /// Instances of one revision require the same tools.
    fn by_revision(&self) -> BTreeMap<RevisionId, AgentIdentity> {
        self.lock().values().map(|identity| (identity.revision, identity.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RevisionId, AgentIdentity>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
