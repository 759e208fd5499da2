//! Policies as the tool registry and the agent service say them, kept in memory. Both are followed; a change replaces
//! the table, so that calls look it up without waiting. When a service is lost, what it said last stays in force, and
//! it is called again until it answers; then whatever it does not name any more is gone.

use crate::{
    forward::models::provider::{ModelProviderPolicy, model_policies},
    origin::Origin,
    policy::tool_access::{PrivateHosts, tool_policy},
    policy::{AgentPolicy, Policies, PolicyError, RegisteredModels, ToolPolicy},
};
use async_trait::async_trait;
use futures_util::StreamExt;
use hoistway_kit::backoff::Backoff;
use hoistway_model::{
    AgentIdentities, Code, Error, Name, Result, RevisionId, ToolCredentials,
    egress::{AgentIdentity, EgressStatus, ModelProviderAccess, PolicySource, ToolAccess},
    watch::{Update, Updates},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// The time that a call waits while it is not known what its agent may do: at the start, and after a service was lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time that a call waits while its agent is not known: a revision is published before it is started, and its first
/// call may come sooner than the news of it.
const NEW_PATIENCE: Duration = Duration::from_millis(250);
/// The pauses before a lost service is called again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// The policies of all agents of the installation.
pub struct WatchedPolicies {
    tool_credentials: Arc<dyn ToolCredentials>,
    agent_identities: Arc<dyn AgentIdentities>,
    private: PrivateHosts,
    /// The state that both services have reported so far.
    reported: Mutex<Reported>,
    /// The policies that follow from it.
    table: RwLock<Arc<Table>>,
    /// Wakes calls that wait for another table.
    changed: watch::Sender<()>,
    /// Cancelled when the services are about to end.
    stopping: CancellationToken,
}

#[derive(Default)]
struct Reported {
    tools: Records<Name, Arc<ToolPolicy>>,
    model_providers: Records<Name, Arc<ModelProviderPolicy>>,
    identities: Records<RevisionId, AgentIdentity>,
}

/// The records of one service.
struct Records<K, V> {
    by_key: BTreeMap<K, V>,
    complete: bool,
    connected: bool,
}

impl<K, V> Default for Records<K, V> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), complete: false, connected: false }
    }
}

impl<K, V> Records<K, V> {
    fn status(&self) -> PolicySource {
        let Self { by_key, complete, connected } = self;
        PolicySource { complete: *complete, connected: *connected, records: by_key.len() as u64 }
    }
}

#[derive(Default)]
struct Table {
    status: EgressStatus,
    policies: HashMap<RevisionId, Arc<AgentPolicy>>,
    /// Every registered tool, by the text of its origin.
    by_origin: HashMap<String, Name>,
}

impl Table {
    fn of(reported: &Reported) -> Self {
        let policy = |identity: &AgentIdentity| {
            let tools = identity.required_tools.iter().filter_map(|tool| reported.tools.by_key.get(tool));
            Arc::new(AgentPolicy {
                agent: identity.agent.clone(),
                revision: identity.revision,
                tools: tools.map(|tool| ToolPolicy::clone(tool)).collect(),
                models: model_policies(&identity.llm, &reported.model_providers.by_key),
                own_key_origins: identity.own_key_origins.iter().filter_map(|text| own_key_origin(text)).collect(),
                open_network: identity.open_network,
            })
        };
        let policies = reported.identities.by_key.iter().map(|(revision, identity)| (*revision, policy(identity)));
        // Of several tools at one origin the first by name is as good as any.
        let tools = reported.tools.by_key.values().rev();
        Self {
            status: EgressStatus {
                tools: reported.tools.status(),
                identities: reported.identities.status(),
                model_providers: reported.model_providers.status(),
            },
            policies: policies.collect(),
            by_origin: tools.map(|tool| (tool.origin.to_string(), tool.name.clone())).collect(),
        }
    }

    /// `None`: it cannot be said yet.
    fn policy(&self, revision: RevisionId) -> Option<Result<Arc<AgentPolicy>, PolicyError>> {
        if !self.status.is_complete() {
            return None;
        }
        match self.policies.get(&revision) {
            Some(policy) => Some(Ok(Arc::clone(policy))),
            // It may have been started since the agent service was lost.
            None if !self.status.identities.connected => None,
            None => Some(Err(PolicyError::Unknown)),
        }
    }
}

/// Selects the records that a subscription's updates go to.
type Select<K, V> = fn(&mut Reported) -> &mut Records<K, V>;

impl WatchedPolicies {
    /// Policies made of what the two services say. `private_domains` are those whose names may lead to private
    /// networks. They are empty until [`Policies::keep_current`] runs.
    pub fn new(
        tool_credentials: Arc<dyn ToolCredentials>,
        agent_identities: Arc<dyn AgentIdentities>,
        private_domains: &[String],
    ) -> Result<Self> {
        Ok(Self {
            tool_credentials,
            agent_identities,
            private: PrivateHosts::new(private_domains)?,
            reported: Mutex::default(),
            table: RwLock::default(),
            changed: watch::Sender::new(()),
            stopping: CancellationToken::new(),
        })
    }

    /// From when `stopping` is cancelled, the services are expected to end before egress does, and that is no warning.
    pub fn stopping(self, stopping: CancellationToken) -> Self {
        Self { stopping, ..self }
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a service says, and what follows from it.
    fn note(&self, change: impl FnOnce(&mut Reported)) {
        {
            let mut reported = self.reported();
            change(&mut reported);
            // Under the lock: the table never goes back.
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Table::of(&reported));
        }
        self.changed.send_replace(());
    }

    /// Follows one service, which is `name` in the log, for as long as it is polled.
    async fn follow<K: Ord, R, V, F>(
        &self,
        name: &str,
        subscribe: impl Fn() -> F,
        select: Select<K, V>,
        convert: impl Fn(&R) -> Option<V>,
    ) where
        F: Future<Output = Result<Updates<K, R>>>,
    {
        let mut backoff = BACKOFF;
        // In a row. One may be a service that is restarted, or this program's own end.
        let mut failures = 0_u32;
        loop {
            let lost = match subscribe().await {
                Ok(updates) => self.read(updates, select, &convert).await,
                Err(e) => e,
            };
            let was_connected = select(&mut self.reported()).connected;
            if was_connected {
                self.note(|reported| select(reported).connected = false);
                backoff.reset();
                failures = 0;
            }
            failures = failures.saturating_add(1);
            match failures {
                2 if !self.stopping.is_cancelled() => {
                    tracing::warn!(cause = lost.chain(), "the {name} cannot be followed; its last word counts: {lost}")
                }
                _ => tracing::debug!(cause = lost.chain(), "the {name} cannot be followed: {lost}"),
            }
            tokio::time::sleep(backoff.jittered_pause()).await;
        }
    }

    /// Reads one subscription to its end; why it ended.
    async fn read<K: Ord, R, V>(
        &self,
        mut updates: Updates<K, R>,
        select: Select<K, V>,
        convert: impl Fn(&R) -> Option<V>,
    ) -> Error {
        // Until everything is there, what an earlier subscription said stays in force.
        let mut first = Some(BTreeMap::new());
        while let Some(update) = updates.next().await {
            let update = match update {
                Ok(update) => update,
                Err(e) => return e,
            };
            let apply = |records: &mut BTreeMap<K, V>, update| match update {
                Update::Set(key, record) => match convert(&record) {
                    Some(value) => drop(records.insert(key, value)),
                    None => drop(records.remove(&key)),
                },
                Update::Removed(key) => drop(records.remove(&key)),
                Update::Complete => {}
            };
            match (&mut first, update) {
                (Some(_), Update::Complete) => {
                    let by_key = first.take().unwrap_or_default();
                    self.note(|reported| *select(reported) = Records { by_key, complete: true, connected: true });
                }
                (Some(records), update) => apply(records, update),
                (None, update) => self.note(|reported| apply(&mut select(reported).by_key, update)),
            }
        }
        Error::new(Code::Unavailable, "the service ended the subscription")
    }

    fn tool(&self, access: &ToolAccess) -> Option<Arc<ToolPolicy>> {
        match tool_policy(access, &self.private) {
            Ok(tool) => Some(Arc::new(tool)),
            Err(e) => {
                tracing::warn!(tool = %access.name, "the tool cannot be called: {e}");
                None
            }
        }
    }
}

#[async_trait]
impl Policies for WatchedPolicies {
    async fn policy(&self, revision: RevisionId) -> Result<Arc<AgentPolicy>, PolicyError> {
        let mut changed = self.changed.subscribe();
        let until = Instant::now() + PATIENCE;
        let mut unknown_until = None;
        loop {
            changed.borrow_and_update();
            let (until, outcome) = match self.table().policy(revision) {
                Some(Ok(policy)) => return Ok(policy),
                Some(Err(e)) => (*unknown_until.get_or_insert_with(|| Instant::now() + NEW_PATIENCE), e),
                None => (until, PolicyError::Unavailable),
            };
            match timeout_at(until, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(outcome),
            }
        }
    }

    async fn registered_at(&self, origin: &Origin) -> Option<Name> {
        self.table().by_origin.get(&origin.to_string()).cloned()
    }

    /// Reads the registry anew: a credential that was stored a moment ago counts already.
    async fn tool(&self, name: &Name) -> Result<ToolPolicy> {
        let mut updates = self.tool_credentials.watch_tools().await?;
        while let Some(update) = updates.next().await {
            match update? {
                Update::Set(found, access) if found == *name => return tool_policy(&access, &self.private),
                Update::Set(..) | Update::Removed(_) => {}
                Update::Complete => return Err(Error::not_found("tool", name)),
            }
        }
        Err(Error::new(Code::Unavailable, "the tool registry ended the answer early"))
    }

    /// Reads the registry anew, as above.
    async fn model_provider(&self, name: &Name) -> Result<RegisteredModels> {
        let mut updates = self.tool_credentials.watch_model_providers().await?;
        while let Some(update) = updates.next().await {
            match update? {
                Update::Set(found, access) if found == *name => {
                    return Ok(ModelProviderPolicy::new(&access, &self.private).into_registered());
                }
                Update::Set(..) | Update::Removed(_) => {}
                Update::Complete => return Err(Error::not_found("model provider", name)),
            }
        }
        Err(Error::new(Code::Unavailable, "the tool registry ended the answer early"))
    }

    fn agents(&self) -> Option<BTreeSet<Name>> {
        let table = self.table();
        let agents = || table.policies.values().map(|policy| policy.agent.clone()).collect();
        table.status.identities.complete.then(agents)
    }

    async fn keep_current(&self, shutdown: CancellationToken) {
        let tools = self.follow(
            "tool registry",
            || self.tool_credentials.watch_tools(),
            |reported| &mut reported.tools,
            |access| self.tool(access),
        );
        let model_providers = self.follow(
            "tool registry's model providers",
            || self.tool_credentials.watch_model_providers(),
            |reported| &mut reported.model_providers,
            |access: &ModelProviderAccess| Some(Arc::new(ModelProviderPolicy::new(access, &self.private))),
        );
        let identities = self.follow(
            "agent service",
            || self.agent_identities.watch_identities(),
            |reported| &mut reported.identities,
            |identity: &AgentIdentity| Some(identity.clone()),
        );
        shutdown.run_until_cancelled(async { tokio::join!(tools, model_providers, identities) }).await;
    }

    fn status(&self) -> EgressStatus {
        self.table().status
    }
}

impl fmt::Debug for WatchedPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedPolicies").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Where an agent calls with a key of its own; nothing but public APIs of models may be named.
fn own_key_origin(text: &str) -> Option<Origin> {
    Origin::of_url(text).ok().map(|(origin, _)| origin).filter(Origin::is_public_model_api)
}
