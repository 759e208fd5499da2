//! The routing table and those who follow it.
//!
//! Changes are numbered without gaps. The last [`KEPT_CHANGES`] are kept, so a watcher needs no queue of its own: one
//! that fell further behind gets the whole table again.

use futures_util::stream;
use hoistway_kit::time::now_ms;
use hoistway_model::{
    Name, RevisionId,
    agent::{Route, RouteEvent, RouteStream, VersionedRoute},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The number of changes that a watcher may fall behind before it gets a snapshot instead of the changes.
const KEPT_CHANGES: usize = 256;

/// The routing table.
#[derive(Debug)]
pub struct RoutingTable {
    table: Mutex<Table>,
    /// Wakes watchers: there are changes, or a watcher was replaced.
    changed: watch::Sender<()>,
    /// Wakes those who wait for acknowledgements.
    acked: watch::Sender<()>,
}

#[derive(Debug)]
struct Table {
    version: u64,
    routes: BTreeMap<Name, Route>,
    changes: VecDeque<VersionedRoute>,
    watchers: HashMap<String, Watcher>,
    subscriptions: u64,
    closed: bool,
}

#[derive(Debug)]
struct Watcher {
    subscription: u64,
    acked: u64,
    /// The agents whose instances it does not invoke, and the time of its last report. A change of an agent's route, or
    /// another report, ends that.
    idle: HashMap<Name, Instant>,
}

impl RoutingTable {
    /// An empty table. Its first version is the time, so that versions go on rising over restarts.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table {
                version: u64::try_from(now_ms()).unwrap_or(0),
                routes: BTreeMap::new(),
                changes: VecDeque::new(),
                watchers: HashMap::new(),
                subscriptions: 0,
                closed: false,
            }),
            changed: watch::Sender::new(()),
            acked: watch::Sender::new(()),
        })
    }

    /// Sets an agent's route and returns the version that every watcher must reach to have it. The same route again
    /// is no change.
    pub fn set(&self, route: Route) -> u64 {
        let mut table = self.lock();
        if table.routes.get(&route.agent) == Some(&route) {
            return table.version;
        }
        table.routes.insert(route.agent.clone(), route.clone());
        self.push(table, RouteEvent::Changed(Box::new(route)))
    }

    /// Takes an agent out of the table.
    pub fn remove(&self, agent: &Name) -> u64 {
        let mut table = self.lock();
        if table.routes.remove(agent).is_none() {
            return table.version;
        }
        self.push(table, RouteEvent::Removed(agent.clone()))
    }

    /// Follows the table; a newer subscription of the same watcher ends this one.
    pub fn watch(self: &Arc<Self>, watcher: String) -> RouteStream {
        let changed = self.changed.subscribe();
        let subscription = {
            let mut table = self.lock();
            table.subscriptions += 1;
            let subscription = table.subscriptions;
            // The version that a watcher knew before it came back is unknown: it counts once it has acknowledged again.
            table.watchers.insert(watcher.clone(), Watcher { subscription, acked: 0, idle: HashMap::new() });
            subscription
        };
        self.changed.send_replace(());
        let follower =
            Follower { hub: Arc::clone(self), watcher, subscription, changed, seen: None, ready: VecDeque::new() };
        Box::pin(stream::unfold(follower, |mut follower| async move {
            let next = follower.next().await?;
            Some((Ok(next), follower))
        }))
    }

    /// Records that `watcher` uses no route older than `version`.
    pub fn ack(&self, watcher: &str, version: u64) {
        let mut table = self.lock();
        let newest = table.version;
        if let Some(watcher) = table.watchers.get_mut(watcher) {
            watcher.acked = watcher.acked.max(version.min(newest));
            drop(table);
            self.acked.send_replace(());
        }
    }

    /// Records that `watcher` sends no invokes to an instance; whether every watcher has reported that within `time`. A
    /// report about an instance that is not the agent's any more, and one of a watcher that is not there, count for
    /// nothing.
    pub fn report_idle(&self, watcher: &str, agent: &Name, instance: &RevisionId, time: Duration) -> bool {
        let (mut table, now) = (self.lock(), Instant::now());
        let target = table.routes.get(agent).and_then(|route| route.target.as_ref());
        if target.is_none_or(|target| target.revision != *instance) {
            return false;
        }
        let Some(reporter) = table.watchers.get_mut(watcher) else { return false };
        reporter.idle.insert(agent.clone(), now);
        table.watchers.values().all(|w| w.idle.get(agent).is_some_and(|at| now.duration_since(*at) <= time))
    }

    /// Records that `watcher` invokes an agent again, which it has reported as idle.
    pub fn report_used(&self, watcher: &str, agent: &Name) {
        if let Some(reporter) = self.lock().watchers.get_mut(watcher) {
            reporter.idle.remove(agent);
        }
    }

    /// Waits until every watcher that is still there has acknowledged `version`; whether they all did in time.
    pub async fn wait_acked(&self, version: u64, limit: Duration) -> bool {
        let mut acked = self.acked.subscribe();
        let all = async {
            loop {
                acked.borrow_and_update();
                if self.lock().watchers.values().all(|w| w.acked >= version) {
                    return;
                }
                if acked.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }

    /// Ends every subscription, also later ones: the service is going down.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.send_replace(());
    }

    fn push(&self, mut table: MutexGuard<'_, Table>, event: RouteEvent) -> u64 {
        let agent = match &event {
            RouteEvent::Changed(route) => Some(&route.agent),
            RouteEvent::Removed(agent) => Some(agent),
            RouteEvent::Snapshot(_) => None,
        };
        if let Some(agent) = agent {
            for watcher in table.watchers.values_mut() {
                watcher.idle.remove(agent);
            }
        }
        table.version += 1;
        let version = table.version;
        if table.changes.len() == KEPT_CHANGES {
            table.changes.pop_front();
        }
        table.changes.push_back(VersionedRoute { version, event });
        drop(table);
        self.changed.send_replace(());
        version
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn is_current(&self, watcher: &str, subscription: u64) -> bool {
        !self.closed && self.watchers.get(watcher).is_some_and(|w| w.subscription == subscription)
    }

    /// The changes that a watcher lacks which has everything up to `seen`.
    fn since(&self, seen: Option<u64>) -> VecDeque<VersionedRoute> {
        let oldest = self.changes.front().map_or(self.version + 1, |c| c.version);
        match seen {
            Some(seen) if seen + 1 >= oldest => self.changes.iter().filter(|c| c.version > seen).cloned().collect(),
            _ => {
                let event = RouteEvent::Snapshot(self.routes.values().cloned().collect());
                VecDeque::from([VersionedRoute { version: self.version, event }])
            }
        }
    }
}

/// One subscription. While it lives its watcher counts.
struct Follower {
    hub: Arc<RoutingTable>,
    watcher: String,
    subscription: u64,
    changed: watch::Receiver<()>,
    seen: Option<u64>,
    ready: VecDeque<VersionedRoute>,
}

impl Follower {
    async fn next(&mut self) -> Option<VersionedRoute> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Some(next);
            }
            self.changed.borrow_and_update();
            {
                let table = self.hub.lock();
                if !table.is_current(&self.watcher, self.subscription) {
                    return None;
                }
                self.ready = match self.seen {
                    Some(seen) if seen == table.version => VecDeque::new(),
                    seen => table.since(seen),
                };
                self.seen = Some(table.version);
            }
            if self.ready.is_empty() && self.changed.changed().await.is_err() {
                return None;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut table = self.hub.lock();
        if table.watchers.get(&self.watcher).is_some_and(|w| w.subscription == self.subscription) {
            table.watchers.remove(&self.watcher);
        }
        drop(table);
        self.hub.acked.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::StreamExt;

    fn route(agent: &str, message: &str) -> Route {
        Route {
            agent: Name::parse("name", agent).unwrap(),
            target: None,
            ready: false,
            message: message.into(),
            needs_caller_identity: false,
            identity_provider: None,
            idle: false,
            idle_after: None,
        }
    }

    #[tokio::test]
    async fn a_snapshot_comes_first_then_each_change() {
        let hub = RoutingTable::new();
        hub.set(route("a", "1"));
        let mut stream = hub.watch("gateway".into());
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first.event, RouteEvent::Snapshot(vec![route("a", "1")]));
        let version = hub.set(route("a", "2"));
        assert_eq!(hub.set(route("a", "2")), version, "the same again is no change");
        hub.remove(&route("a", "").agent);
        let second = stream.next().await.unwrap().unwrap();
        assert_eq!((second.version, second.event), (first.version + 1, RouteEvent::Changed(Box::new(route("a", "2")))));
        let third = stream.next().await.unwrap().unwrap();
        assert_eq!(third.event, RouteEvent::Removed(route("a", "").agent));
    }

    #[tokio::test]
    async fn one_that_fell_behind_gets_the_table_again() {
        let hub = RoutingTable::new();
        let mut stream = hub.watch("gateway".into());
        stream.next().await.unwrap().unwrap();
        for i in 0..=KEPT_CHANGES {
            hub.set(route("a", &i.to_string()));
        }
        let next = stream.next().await.unwrap().unwrap();
        assert_eq!(next.event, RouteEvent::Snapshot(vec![route("a", &KEPT_CHANGES.to_string())]));
    }

    #[tokio::test]
    async fn a_newer_subscription_ends_the_older() {
        let hub = RoutingTable::new();
        let mut old = hub.watch("gateway".into());
        old.next().await.unwrap().unwrap();
        let mut new = hub.watch("gateway".into());
        assert!(old.next().await.is_none());
        drop(old);
        let version = hub.set(route("a", "1"));
        new.next().await.unwrap().unwrap();
        assert!(!hub.wait_acked(version, Duration::ZERO).await, "the newer one still counts");
        hub.close();
        assert!(new.next().await.is_none());
    }

    #[tokio::test]
    async fn only_connected_watchers_are_waited_for() {
        let hub = RoutingTable::new();
        let long = Duration::from_secs(60);
        let version = hub.set(route("a", "1"));
        assert!(hub.wait_acked(version, Duration::ZERO).await);
        let (one, two) = (hub.watch("one".into()), hub.watch("two".into()));
        hub.ack("one", version);
        hub.ack("stranger", version);
        assert!(!hub.wait_acked(version, Duration::ZERO).await);
        let waiting = hub.wait_acked(version, long);
        let dropping = async {
            tokio::task::yield_now().await;
            drop(two);
        };
        assert!(tokio::join!(waiting, dropping).0);
        drop(one);
        assert!(hub.wait_acked(version + 1, Duration::ZERO).await);
    }
}
