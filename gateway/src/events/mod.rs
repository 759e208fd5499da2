//! Events of deployments, agents, builds, tools and outbound calls, for clients that follow them.
//!
//! The newest events are kept in memory. An event's id contains the time at which this process began, so that a client
//! that returns after a restart learns that events may be missing. Deployments are published when their journal is
//! written; events of agents, builds and calls are followed from their services.

use crate::{metrics::GatewayMetrics, saga::record::Record};
use futures_util::{Stream, StreamExt};
use hoistway_kit::{
    backoff::Backoff,
    event_log::{Next, Ring},
    quota::{QuotaExceeded, QuotaGrant, SharedQuota},
    time::{now_ms, rfc3339},
};
use hoistway_model::{
    AgentService, BuildService, Code, DeploymentId, Error, Name, Result,
    agent::{AgentChange, AgentEvent, EventPosition},
    build::{Build, BuildStatus},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

mod calls;
mod deployments;

pub use calls::{CALL_ENDED, CALLS_MISSED};

/// The number of events that are kept.
pub const KEPT_EVENTS: usize = 4_096;
/// The number of agents' calls that are kept for slow followers.
const KEPT_CALLS: usize = 1_024;
/// The most clients that may follow events and logs through one gateway, and the share of one key.
const MAX_FOLLOWERS: usize = 128;
const MAX_OWN_FOLLOWERS: usize = 32;
/// The longest text of an event, in characters.
const MAX_TEXT: usize = 1_000;
/// The first and the longest pause before a lost subscription is opened again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place among this gateway's events.
    pub place: EventPosition,
    /// Its type, such as `deployment.succeeded`.
    pub kind: &'static str,
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The agent that it is about, if it is about one.
    pub agent: Option<Name>,
    /// Further members by kind; never a secret.
    pub data: Value,
}

/// The events of one gateway.
#[derive(Debug)]
pub struct Events {
    events: Arc<Ring<Event>>,
    /// Calls have a ring of their own: they may be so many that they would displace all other events.
    calls: Arc<Ring<Event>>,
    followers: Arc<SharedQuota>,
    /// The last published states of deployments that have not ended.
    deployments: Mutex<HashMap<DeploymentId, deployments::Published>>,
    metrics: Arc<GatewayMetrics>,
}

impl Events {
    /// Returns a store without events. Ended deployments and deleted agents are reported to `metrics`.
    pub fn new(metrics: Arc<GatewayMetrics>) -> Arc<Self> {
        Arc::new(Self {
            events: Ring::new(KEPT_EVENTS),
            calls: Ring::new(KEPT_CALLS),
            followers: SharedQuota::new(MAX_FOLLOWERS, MAX_OWN_FOLLOWERS),
            deployments: Mutex::default(),
            metrics,
        })
    }

    /// Reserves a place for a client that follows events or logs; dropping it frees the place.
    pub fn follower(&self, holder: &Arc<str>) -> Result<QuotaGrant> {
        self.followers.take(holder, 1).map_err(|full| {
            let text = match full {
                QuotaExceeded::OfHolder => {
                    format!("{MAX_OWN_FOLLOWERS} logs and events are followed with this key already")
                }
                QuotaExceeded::Total => format!("{MAX_FOLLOWERS} logs and events are followed already"),
            };
            Error::new(Code::ResourceExhausted, text)
        })
    }

    /// Returns the place of the newest event: a follower of the events after it misses nothing.
    pub fn last(&self) -> EventPosition {
        self.events.last()
    }

    /// Follows the events after `after`.
    pub fn follow(&self, after: EventPosition) -> impl Stream<Item = Next<Event>> + Send + use<> {
        self.events.follow(Some(after))
    }

    /// Returns the number of clients that follow events or logs.
    pub fn followers(&self) -> usize {
        self.followers.given()
    }

    /// Returns the number of unfinished deployments that wait, run, or are undone.
    pub fn deployments_by_state(&self) -> [(&'static str, usize); 3] {
        let deployments = self.deployments();
        let count = |state: &str| deployments.values().filter(|published| published.state == state).count();
        ["waiting", "running", "undoing"].map(|state| (state, count(state)))
    }

    fn publish(&self, kind: &'static str, time_ms: i64, agent: Option<&Name>, data: Value) {
        let agent = agent.cloned();
        self.events.push(|place| Event { place, kind, time_ms, agent, data });
    }

    /// Publishes a change of a tool.
    pub fn tool_changed(&self, change: ToolChange, tool: &Name) {
        let kind = match change {
            ToolChange::Created => "tool.created",
            ToolChange::Updated => "tool.updated",
            ToolChange::Deleted => "tool.deleted",
        };
        self.publish(kind, now_ms(), None, json!({ "tool": tool }));
    }

    fn agent_changed(&self, event: AgentEvent) {
        let revision = event.revision;
        let (kind, data) = match event.change {
            AgentChange::Phase(phase, message) => {
                ("agent.phase", json!({"phase": phase.as_str(), "message": short(&message), "revision": revision}))
            }
            AgentChange::Crashed { reason, restarts } => {
                ("agent.crashed", json!({"reason": short(&reason), "restarts": restarts, "revision": revision}))
            }
            AgentChange::Deleted => {
                self.metrics.forget_agent(&event.agent);
                ("agent.deleted", json!({}))
            }
        };
        self.publish(kind, event.time_ms, Some(&event.agent), data);
    }

    fn build_changed(&self, build: &Build) {
        let (kind, time) = match build.status {
            BuildStatus::Pending | BuildStatus::Building => ("build.started", build.created_at),
            BuildStatus::Succeeded => ("build.succeeded", build.completed_at.unwrap_or_else(now_ms)),
            BuildStatus::Failed => ("build.failed", build.completed_at.unwrap_or_else(now_ms)),
        };
        let mut data = json!({"id": build.id, "attempt": build.attempt, "request_id": build.request_id});
        if let Some(end) = build.completed_at {
            data["duration_ms"] = (end - build.created_at).into();
        }
        if let Some(error) = &build.error {
            data["error"] = short(error).into();
        }
        self.publish(kind, time, Some(&build.agent), data);
    }

    /// Follows the agent service's events until `shutdown`. Events that it kept during an interruption follow
    /// afterwards.
    pub async fn follow_agents(self: Arc<Self>, agents: Arc<dyn AgentService>, shutdown: CancellationToken) {
        // Of no epoch: the events that the service has kept come first.
        let after = EventPosition { epoch: 0, sequence: 0 };
        let take = |after: &mut EventPosition, event: AgentEvent| {
            let (from, at) = (std::mem::replace(after, event.place), event.place);
            if at.epoch == from.epoch && at.sequence > from.sequence + 1 {
                self.publish("reset", now_ms(), None, json!({"reason": "events of agents were missed"}));
            }
            self.agent_changed(event);
        };
        follow(after, |after| agents.agent_events(Some(*after)), take, shutdown).await
    }

    /// Follows the build service's events until `shutdown`. Events during an interruption are lost.
    pub async fn follow_builds(self: Arc<Self>, builds: Arc<dyn BuildService>, shutdown: CancellationToken) {
        follow((), |()| builds.build_events(), |(), build| self.build_changed(&build), shutdown).await
    }

    /// Ends the streams of all followers.
    pub fn close(&self) {
        self.events.close();
        self.calls.close();
    }

    /// Publishes the changes of a deployment since its last published state.
    pub(crate) fn deployment_changed(&self, record: &Record) {
        deployments::publish(self, record);
    }

    fn deployments(&self) -> MutexGuard<'_, HashMap<DeploymentId, deployments::Published>> {
        self.deployments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows a stream of another service until `shutdown`, and reopens it when it is lost. Both closures share
/// `position`, the position in the stream.
async fn follow<P, T, S, F>(
    mut position: P,
    open: impl Fn(&P) -> F,
    mut take: impl FnMut(&mut P, T),
    shutdown: CancellationToken,
) where
    F: Future<Output = Result<S>>,
    S: Stream<Item = Result<T>> + Unpin,
{
    let mut backoff = BACKOFF;
    let following = async {
        loop {
            if let Ok(mut items) = open(&position).await {
                while let Some(Ok(item)) = items.next().await {
                    take(&mut position, item);
                    backoff.reset();
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    };
    shutdown.run_until_cancelled(following).await.unwrap_or(())
}

/// A change of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolChange {
    /// It was registered.
    Created,
    /// It was changed.
    Updated,
    /// It was deleted.
    Deleted,
}

/// Returns the beginning of a long text.
fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the time of an event as answers show it.
pub fn shown_time(event: &Event) -> String {
    rfc3339(event.time_ms)
}
