//! What this gateway sees happen: events for those who follow them, and measurements.
//!
//! Events are kept in memory, the newest of them; an id holds when this process began, so whoever comes back after a
//! restart is told that something may be missing. Deployments are told when their journal is written, agents and builds
//! by their services.

use crate::{
    limits::{QuotaExceeded, QuotaGrant, SharedQuota},
    saga::record::Record,
};
use futures_util::{Stream, StreamExt};
use hoistway_kit::{
    event_log::{Next, Ring},
    metrics::{Counter, Histogram},
    time::{now_ms, rfc3339},
};
use hoistway_model::{
    AgentService, BuildService, Code, DeploymentId, Error, Name, Result,
    agent::{AgentChange, AgentEvent, Place},
    build::{Build, BuildStatus},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

mod calls;
mod deployments;
mod measured;

pub use calls::{CALL_ENDED, CALLS_MISSED};
pub use measured::Ending;

/// Events that are kept.
pub const KEPT_EVENTS: usize = 4_096;
/// Calls of agents that are kept for followers which read slowly.
const KEPT_CALLS: usize = 1_024;
/// How many may follow events and logs through one gateway, and how many of them with one key.
const MAX_FOLLOWERS: usize = 128;
const MAX_OWN_FOLLOWERS: usize = 32;
/// The longest text of an event.
const MAX_TEXT: usize = 1_000;
/// How long to wait before a lost subscription is tried again, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place among this gateway's events.
    pub place: Place,
    /// Such as `deployment.succeeded`.
    pub kind: &'static str,
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The agent that it is about, if it is about one.
    pub agent: Option<Name>,
    /// What else there is to know; never a secret.
    pub data: Value,
}

/// What a gateway sees.
#[derive(Debug)]
pub struct Seen {
    events: Arc<Ring<Event>>,
    /// Calls have a ring of their own: there may be so many that they would push out everything else.
    calls: Arc<Ring<Event>>,
    followers: Arc<SharedQuota>,
    /// Deployments that have not ended, as they were told last.
    deployments: Mutex<HashMap<DeploymentId, deployments::Told>>,
    /// The journal's file.
    database: PathBuf,
    requests: Counter,
    request_durations: Histogram,
    invokes: Counter,
    invoke_durations: Histogram,
    deploys: Counter,
    deploy_durations: Histogram,
    step_durations: Histogram,
}

impl Seen {
    /// Nothing yet. `database` is the journal's file.
    pub fn new(database: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            events: Ring::new(KEPT_EVENTS),
            calls: Ring::new(KEPT_CALLS),
            followers: SharedQuota::new(MAX_FOLLOWERS, MAX_OWN_FOLLOWERS),
            deployments: Mutex::default(),
            database,
            requests: Counter::new(
                "hoistway_http_requests_total",
                "HTTP requests, by the route that answered.",
                &["method", "route", "status"],
            ),
            request_durations: Histogram::new(
                "hoistway_http_request_duration_seconds",
                "Time from a request to the head of its answer.",
                &["method", "route"],
            ),
            invokes: Counter::new(
                "hoistway_invokes_total",
                "Invokes of agents, by ok, client_gone or the error's code.",
                &["agent", "outcome"],
            ),
            invoke_durations: Histogram::new(
                "hoistway_invoke_duration_seconds",
                "Time from an invoke to the end of its answer.",
                &["agent"],
            ),
            deploys: Counter::new("hoistway_deployments_total", "Deployments that ended.", &["outcome"]),
            deploy_durations: Histogram::new(
                "hoistway_deployment_duration_seconds",
                "Time from a deployment's acceptance to its end.",
                &["outcome"],
            ),
            step_durations: Histogram::new(
                "hoistway_deployment_step_duration_seconds",
                "Time of each step of deployments.",
                &["step"],
            ),
        })
    }

    /// A place for one who follows something; it is given up when dropped.
    pub fn place(&self, holder: &Arc<str>) -> Result<QuotaGrant> {
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

    /// Where the events are now: a follower of what comes after it misses nothing.
    pub fn last(&self) -> Place {
        self.events.last()
    }

    /// Follows the events after `after`.
    pub fn follow(&self, after: Place) -> impl Stream<Item = Next<Event>> + Send + use<> {
        self.events.follow(Some(after))
    }

    fn tell(&self, kind: &'static str, time_ms: i64, agent: Option<&Name>, data: Value) {
        let agent = agent.cloned();
        self.events.push(|place| Event { place, kind, time_ms, agent, data });
    }

    /// A tool was `created`, `updated` or `deleted`.
    pub fn tool(&self, what: ToolChange, tool: &Name) {
        let kind = match what {
            ToolChange::Created => "tool.created",
            ToolChange::Updated => "tool.updated",
            ToolChange::Deleted => "tool.deleted",
        };
        self.tell(kind, now_ms(), None, json!({ "tool": tool }));
    }

    fn agent(&self, event: AgentEvent) {
        let revision = event.revision;
        let (kind, data) = match event.change {
            AgentChange::Phase(phase, message) => {
                ("agent.phase", json!({"phase": phase.as_str(), "message": short(&message), "revision": revision}))
            }
            AgentChange::Crashed { reason, restarts } => {
                ("agent.crashed", json!({"reason": short(&reason), "restarts": restarts, "revision": revision}))
            }
            AgentChange::Deleted => {
                self.invokes.forget(event.agent.as_str());
                self.invoke_durations.forget(event.agent.as_str());
                ("agent.deleted", json!({}))
            }
        };
        self.tell(kind, event.time_ms, Some(&event.agent), data);
    }

    fn build(&self, build: &Build) {
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
        self.tell(kind, time, Some(&build.agent), data);
    }

    /// Follows the agent service's events until `shutdown`. What happened while it was away comes when it is back.
    pub async fn follow_agents(self: Arc<Self>, agents: Arc<dyn AgentService>, shutdown: CancellationToken) {
        // Of no epoch: what the service has kept comes first.
        let after = Place { epoch: 0, sequence: 0 };
        let take = |after: &mut Place, event: AgentEvent| {
            let (from, at) = (std::mem::replace(after, event.place), event.place);
            if at.epoch == from.epoch && at.sequence > from.sequence + 1 {
                self.tell("reset", now_ms(), None, json!({"reason": "events of agents were missed"}));
            }
            self.agent(event);
        };
        follow(after, |after| agents.agent_events(Some(*after)), take, shutdown).await
    }

    /// Follows the build service's events until `shutdown`. What happens while it cannot be reached is not told.
    pub async fn follow_builds(self: Arc<Self>, builds: Arc<dyn BuildService>, shutdown: CancellationToken) {
        follow((), |()| builds.build_events(), |(), build| self.build(&build), shutdown).await
    }

    /// Ends everybody who follows events.
    pub fn close(&self) {
        self.events.close();
        self.calls.close();
    }

    /// A deployment as the journal has it now.
    pub(crate) fn deployment(&self, record: &Record) {
        deployments::tell(self, record);
    }

    fn deployments(&self) -> MutexGuard<'_, HashMap<DeploymentId, deployments::Told>> {
        self.deployments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows a stream of another service until `shutdown`, and opens it again when it was lost. `position` is what both
/// closures know of how far it was read.
async fn follow<P, T, S, F>(
    mut position: P,
    open: impl Fn(&P) -> F,
    mut take: impl FnMut(&mut P, T),
    shutdown: CancellationToken,
) where
    F: Future<Output = Result<S>>,
    S: Stream<Item = Result<T>> + Unpin,
{
    let mut backoff = BACKOFF.0;
    let following = async {
        loop {
            if let Ok(mut items) = open(&position).await {
                while let Some(Ok(item)) = items.next().await {
                    take(&mut position, item);
                    backoff = BACKOFF.0;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    };
    shutdown.run_until_cancelled(following).await.unwrap_or(())
}

/// What happened to a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolChange {
    /// It is new.
    Created,
    /// It is another one.
    Updated,
    /// It is gone.
    Deleted,
}

/// The beginning of a text that may be long.
fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The time of an event as it is shown.
pub fn shown_time(event: &Event) -> String {
    rfc3339(event.time_ms)
}
