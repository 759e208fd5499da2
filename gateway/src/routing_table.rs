//! The routing table: the target of each agent's invokes, received from the agent service.
//!
//! Agents whose routes ask for it are reported to the agent service when nobody invokes them; see [`IdleClock`].
//!
//! A redeploy loses no request because both sides keep an order. The agent service sends every gateway the new route
//! and ends the old revision only when each of them has acknowledged that it uses nothing older. A gateway acknowledges
//! once the table has the new route and every invoke that had picked the old one has its connection, which the old
//! revision then serves to its end.

use crate::{
    idle_clock::{IdleClock, IdleReport, Usage},
    wakes::Wakes,
};
use futures_util::StreamExt;
use hoistway_kit::backoff::Backoff;
use hoistway_model::{
    AgentService, Code, Error, Name, Result, RevisionId,
    agent::{Route, RouteEvent, Target},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The first and the longest pause before the subscription is tried again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// The most changes that may wait for invokes that picked the replaced targets.
const UNACKNOWLEDGED: usize = 256;

pub use crate::idle_clock::Slot;

/// The routing table of one gateway.
#[derive(Clone)]
pub struct RoutingTable(Arc<Inner>);

struct Inner {
    agents: Arc<dyn AgentService>,
    /// The id of this gateway for the agent service.
    watcher: String,
    table: Mutex<HashMap<Name, Entry>>,
    /// The number of changes; zero until the first snapshot has arrived.
    changes: watch::Sender<u64>,
    /// The number of snapshots.
    subscriptions: watch::Sender<u64>,
    idle: IdleClock,
    /// Whether the table follows the agent service now: what is not sure to be true is not reported.
    follows: AtomicBool,
    wakes: Wakes,
}

struct Entry {
    route: Route,
    /// Read-locked from picking this entry's target until it is connected.
    connecting: Arc<RwLock<()>>,
    usage: Arc<Usage>,
}

impl Entry {
    fn access_policy(&self) -> AccessPolicy {
        if self.route.needs_caller_identity {
            AccessPolicy::Users(self.route.identity_provider.clone())
        } else {
            AccessPolicy::Keys
        }
    }
}

/// The table's result for an agent.
#[derive(Debug)]
pub enum RouteLookup {
    /// The agent is not in the table.
    Unknown,
    /// The agent cannot answer now, with the reason.
    NotReady(String),
    /// The agent answers once it is woken. Its permitted callers may do so.
    Idle(AccessPolicy),
    /// The agent can answer.
    Ready(PickedTarget),
}

/// The callers that an agent answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessPolicy {
    /// All callers with an API key.
    Keys,
    /// Users that this identity provider authenticates; nobody when the agent service does not specify one.
    Users(Option<Name>),
}

/// A target to connect to soon: held until it is connected, and no longer.
#[derive(Debug)]
pub struct PickedTarget {
    /// The target.
    pub target: Target,
    /// Its permitted callers.
    pub access_policy: AccessPolicy,
    _connecting: OwnedRwLockReadGuard<()>,
}

impl RoutingTable {
    /// Returns an empty table; [`RoutingTable::run`] fills it.
    pub fn new(agents: Arc<dyn AgentService>) -> Self {
        let watcher = uuid::Uuid::now_v7().to_string();
        let (changes, subscriptions) = (watch::Sender::new(0), watch::Sender::new(0));
        Self(Arc::new(Inner {
            agents,
            watcher,
            table: Mutex::default(),
            changes,
            subscriptions,
            idle: IdleClock::default(),
            follows: AtomicBool::new(false),
            wakes: Wakes::default(),
        }))
    }

    /// Follows the agent service until `shutdown`, and reports idle agents to it. While it is unavailable the table stays
    /// as it was.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::join!(self.follow_until(&shutdown), shutdown.run_until_cancelled(self.report_idle()));
    }

    async fn follow_until(&self, shutdown: &CancellationToken) {
        let mut backoff = BACKOFF;
        loop {
            let before = *self.0.changes.borrow();
            let ended = shutdown.run_until_cancelled(self.follow()).await;
            self.0.follows.store(false, Ordering::Release);
            let Some(Err(e)) = ended else { return };
            if *self.0.changes.borrow() != before {
                backoff.reset();
            }
            let pause = backoff.pause();
            tracing::warn!(cause = e.chain(), "the routing table is not fed, trying again in {pause:?}: {e}");
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn report_idle(&self) {
        loop {
            let (agent, in_use) = match self.0.idle.next().await {
                IdleReport::Idle(agent) => (agent, false),
                IdleReport::Used(agent) => (agent, true),
            };
            // The agent service forgets the reports of a gateway with its subscription.
            let Some(instance) = self.ready_instance(&agent).filter(|_| self.0.follows.load(Ordering::Acquire)) else {
                continue;
            };
            // A lost report is repeated after the agent's time.
            if let Err(e) = self.0.agents.report_idle(self.0.watcher.clone(), agent.clone(), instance, in_use).await {
                tracing::debug!(%agent, cause = e.chain(), "an idle agent is reported again: {e}");
            }
        }
    }

    /// Whether there was a snapshot, so that an agent missing from the table does not exist.
    pub fn is_filled(&self) -> bool {
        *self.0.changes.borrow() > 0
    }

    /// Waits until there was a snapshot, for a gateway that has just started; `limit` at most.
    pub async fn filled_within(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.changes().wait_for(|changes| *changes > 0)).await;
    }

    /// Returns a receiver that reports every new subscription: the agent service may be another one than before.
    pub fn subscriptions(&self) -> watch::Receiver<u64> {
        self.0.subscriptions.subscribe()
    }

    /// Returns a receiver that reports every later change of the table.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Returns the present target of an invoke of `agent`.
    pub fn pick(&self, agent: &Name) -> RouteLookup {
        let table = self.table();
        let Some(entry) = table.get(agent) else { return RouteLookup::Unknown };
        // Only locks of entries that left the table are write-locked, so this never fails while the table is locked.
        match (&entry.route.target, entry.connecting.clone().try_read_owned()) {
            (Some(target), Ok(guard)) if entry.route.ready => RouteLookup::Ready(PickedTarget {
                target: target.clone(),
                access_policy: entry.access_policy(),
                _connecting: guard,
            }),
            _ if entry.route.idle => RouteLookup::Idle(entry.access_policy()),
            _ => RouteLookup::NotReady(entry.route.message.clone()),
        }
    }

    /// Returns the present access policy of `agent`; `None` when it is not in the table.
    pub fn access_policy(&self, agent: &Name) -> Option<AccessPolicy> {
        self.table().get(agent).map(Entry::access_policy)
    }

    /// Returns a slot among the `limit` concurrent invokes of `agent`, if one is free.
    pub fn slot(&self, agent: &Name, limit: usize) -> Option<Slot> {
        let usage = self.table().get(agent)?.usage.clone();
        let slot = usage.slot(limit)?;
        self.0.idle.used(agent, &usage);
        Some(slot)
    }

    /// Has an idle agent started, and returns when it is ready. All callers share one call of the agent service.
    pub async fn wake(&self, agent: &Name) -> Result<()> {
        self.0.wakes.join(&self.0.agents, agent).await
    }

    /// Returns the number of invokes in flight of each agent.
    pub fn in_flight(&self) -> Vec<(Name, usize)> {
        let table = self.table();
        table.iter().map(|(name, entry)| (name.clone(), entry.usage.in_flight())).collect()
    }

    /// Removes an agent that was deleted through this gateway: its route's removal may not have arrived yet.
    pub fn forget(&self, agent: &Name) {
        self.table().remove(agent);
        self.0.idle.forget(agent);
    }

    fn ready_instance(&self, agent: &Name) -> Option<RevisionId> {
        let table = self.table();
        let route = &table.get(agent)?.route;
        route.target.as_ref().filter(|_| route.ready).map(|target| target.revision)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        // The table is consistent after every statement, even after a panic.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows one subscription; returns the reason of its end.
    async fn follow(&self) -> Result<()> {
        let mut events = self.0.agents.watch_routes(self.0.watcher.clone()).await?;
        let (applied, to_acknowledge) = mpsc::channel(UNACKNOWLEDGED);
        let read = async {
            while let Some(event) = events.next().await {
                let event = event?;
                let begun = matches!(event.event, RouteEvent::Snapshot(_));
                let retired = self.apply(event.event);
                if begun {
                    self.0.follows.store(true, Ordering::Release);
                    self.0.subscriptions.send_modify(|count| *count += 1);
                }
                if applied.send((event.version, retired)).await.is_err() {
                    break;
                }
            }
            Err(Error::new(Code::Unavailable, "the agent service ended the subscription"))
        };
        tokio::select! {
            ended = read => ended,
            failed = self.acknowledge(to_acknowledge) => failed,
        }
    }

    async fn acknowledge(&self, mut applied: mpsc::Receiver<(u64, Vec<Arc<RwLock<()>>>)>) -> Result<()> {
        while let Some((version, retired)) = applied.recv().await {
            for connecting in retired {
                drop(connecting.write().await);
            }
            self.0.agents.ack_routes(self.0.watcher.clone(), version).await?;
        }
        Ok(())
    }

    /// Applies a change to the table. Returns the locks of targets that are no longer in it.
    fn apply(&self, event: RouteEvent) -> Vec<Arc<RwLock<()>>> {
        let mut retired = Vec::new();
        {
            let mut table = self.table();
            match event {
                RouteEvent::Snapshot(routes) => {
                    let mut old = std::mem::take(&mut *table);
                    for route in routes {
                        let before = old.remove(&route.agent);
                        table.insert(route.agent.clone(), self.entry(route, before, &mut retired));
                    }
                    old.keys().for_each(|gone| self.0.idle.forget(gone));
                    retired.extend(old.into_values().map(|gone| gone.connecting));
                }
                RouteEvent::Changed(route) => {
                    let before = table.remove(&route.agent);
                    table.insert(route.agent.clone(), self.entry(*route, before, &mut retired));
                }
                RouteEvent::Removed(agent) => {
                    self.0.idle.forget(&agent);
                    retired.extend(table.remove(&agent).map(|gone| gone.connecting));
                }
            }
        }
        self.0.changes.send_modify(|count| *count += 1);
        retired
    }

    /// Returns the entry of a route, and watches it for the time without invokes from its first readiness on.
    fn entry(&self, route: Route, before: Option<Entry>, retired: &mut Vec<Arc<RwLock<()>>>) -> Entry {
        let was_ready = before.as_ref().is_some_and(|b| b.route.ready && b.route.target == route.target);
        let entry = entry(route, before, retired);
        match entry.route.idle_after.filter(|_| entry.route.ready) {
            Some(time) => {
                if !was_ready {
                    entry.usage.touch();
                }
                self.0.idle.watch(&entry.route.agent, &entry.usage, time);
            }
            None => self.0.idle.forget(&entry.route.agent),
        }
        entry
    }
}

fn entry(route: Route, before: Option<Entry>, retired: &mut Vec<Arc<RwLock<()>>>) -> Entry {
    let Some(before) = before else {
        return Entry { route, connecting: Arc::default(), usage: Arc::default() };
    };
    // A lock belongs to a target: connections to a target that stays must still be waited for when it is removed.
    let connecting = if before.route.target == route.target {
        before.connecting
    } else {
        retired.push(before.connecting);
        Arc::default()
    };
    Entry { route, connecting, usage: before.usage }
}

impl fmt::Debug for RoutingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("agents", &self.table().len()).finish_non_exhaustive()
    }
}
