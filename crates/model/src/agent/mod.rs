//! Agents, their revisions and the routes to them: records of the agent service and its trait.

mod config;
mod service;

pub use crate::env::EnvVar;
use crate::{Digest, Name, Result, RevisionId, Secret, image::ImageRef, tool::BoundTool};
pub use config::{AgentConfig, AgentConfigChange, LlmConfig, LlmRole};
use serde::{Deserialize, Serialize};
pub use service::AgentService;
use std::{pin::Pin, time::Duration};

/// The complete specification of one revision of an agent. Its JSON is stored: members are only ever added, with a
/// default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The agent.
    pub agent: Name,
    /// The image as the user or the build named it, with the platform's registry in its symbolic form. A digest takes
    /// precedence.
    pub image: ImageRef,
    /// `build-<hex>` if this deploy built the image.
    pub build_id: Option<String>,
    /// Entry file, if the deploy named or built one; else the image's label applies.
    pub entry_point: Option<String>,
    /// Required tools in order, with their addresses.
    pub tools: Vec<BoundTool>,
    /// The agent's configuration in the deploy.
    #[serde(flatten)]
    pub config: AgentConfig,
    /// The gateway's keyed hash of the whole request; an equal one means that a redeploy changes nothing.
    pub fingerprint: Digest,
}

/// The phase of an agent, in the public API's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not up yet; the message has the reason.
    Pending,
    /// A revision is up and ready.
    Running,
    /// The serving revision is down; the message has the reason and the time of the next attempt.
    Failed,
    /// Stopped by a user, until it is started or deployed again.
    Stopped,
}

impl Phase {
    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Failed => "Failed",
            Phase::Stopped => "Stopped",
        }
    }

    /// Parses the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Failed, Self::Stopped].into_iter().find(|p| p.as_str() == text)
    }
}

/// The outcome of starting a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStatus {
    /// The revision.
    pub revision: RevisionId,
    /// Its number among the agent's revisions.
    pub number: u64,
    /// `Running`: ready to be switched to. `Pending`: its image cannot be pulled yet; the agent service retries and
    /// switches by itself once it is the agent's revision.
    pub phase: Phase,
    /// The reason why it is pending; empty when running.
    pub message: String,
    /// The digest of the image's manifest, once known.
    pub image_digest: Option<Digest>,
}

/// An agent as shown by the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Unique name.
    pub name: Name,
    /// The wanted revision.
    pub revision: RevisionId,
    /// Its number among the agent's revisions.
    pub revision_number: u64,
    /// Its specification, with the values of the user's variables masked, except those that are not secret.
    pub spec: AgentSpec,
    /// The environment for display: the platform's own variables, and the user's, masked unless they are not secret.
    pub shown_env: Vec<(String, String)>,
    /// The current phase.
    pub phase: Phase,
    /// The reason, when not simply running.
    pub message: String,
    /// Whether it is stopped until the next invoke, because there was none for a while. Its phase is `Running`.
    pub idle: bool,
    /// The digest of the running image's manifest, once known.
    pub image_digest: Option<Digest>,
    /// Whether its image was built here for another Python than the current one, or in an older layout, and must be
    /// rebuilt from the source in the image.
    pub needs_rebuild: bool,
    /// The isolation of the agent from the machine, as enforced; `not sandboxed` if there is none.
    pub isolation: String,
    /// Its network access: `open` or `closed`.
    pub network: String,
    /// Its limits, as enforced.
    pub limits: String,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub updated_at: i64,
}

/// The agent runtime of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// The name of the runtime: `process`.
    pub name: String,
    /// The isolation of agents from the machine, as enforced.
    pub isolation: String,
    /// The network access of agents: `open` or `closed`.
    pub network: String,
    /// The limits of each agent, as enforced.
    pub limits: String,
    /// `major.minor` of the interpreter that runs them.
    pub python: String,
    /// Further notes for an operator, such as why there is no stronger sandbox.
    pub notes: Vec<String>,
}

/// The route of an agent's invokes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The agent.
    pub agent: Name,
    /// The serving instance, `None` while there is none.
    pub target: Option<Target>,
    /// Whether the target is ready; if not, `message` has the reason.
    pub ready: bool,
    /// The reason why it is not ready.
    pub message: String,
    /// Whether callers must be authenticated by an identity provider.
    pub needs_caller_identity: bool,
    /// That identity provider. If the agent service does not name one, every caller is refused.
    pub identity_provider: Option<Name>,
    /// Whether invokes wait for [`AgentService::wake_agent`]: the agent is idle, or is being started for an invoke.
    pub idle: bool,
    /// The time without invokes after which gateways call [`AgentService::report_idle`]; `None`: they do not.
    pub idle_after: Option<Duration>,
}

/// The address of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The instance: the id of its revision, or an id of its own after the revision was restarted.
    pub revision: RevisionId,
    /// `host:port`.
    pub address: String,
    /// The token that the runner requires in `X-Hoistway-Invoke-Token`.
    pub token: Secret,
}

/// A change of the routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEvent {
    /// The whole table; first on every watch.
    Snapshot(Vec<Route>),
    /// One agent's route is new or has changed.
    Changed(Box<Route>),
    /// An agent was deleted.
    Removed(Name),
}

/// A [`RouteEvent`] with its version. A gateway acknowledges the version once none of its requests can reach an older
/// route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedRoute {
    /// Increases by at least one for each change.
    pub version: u64,
    /// The change.
    pub event: RouteEvent,
}

/// A subscription to the routing table.
pub type RouteStream = Pin<Box<dyn futures_core::Stream<Item = Result<VersionedRoute>> + Send>>;

/// The position of an event in the order of one source's events: a restarted source begins a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPosition {
    /// The source's start, in milliseconds since the epoch.
    pub epoch: u64,
    /// Increases by one.
    pub sequence: u64,
}

/// A change of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentChange {
    /// Its phase or its serving revision changed; the message has the reason why it is not running.
    Phase(Phase, String),
    /// It ended although it was up, and is being restarted.
    Crashed {
        /// The description of its end.
        reason: String,
        /// The number of earlier restarts.
        restarts: u32,
    },
    /// It was deleted.
    Deleted,
}

/// One event of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEvent {
    /// Its place among the service's events.
    pub place: EventPosition,
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The agent.
    pub agent: Name,
    /// The revision, if one is concerned.
    pub revision: Option<RevisionId>,
    /// The change.
    pub change: AgentChange,
}

/// Agents' events as they happen.
pub type AgentEvents = Pin<Box<dyn futures_core::Stream<Item = Result<AgentEvent>> + Send>>;
