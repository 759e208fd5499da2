//! Agents, their revisions and the routes to them: records of the agent service and its trait.

mod config;
mod service;

pub use crate::env::EnvVar;
use crate::{Digest, Name, Result, RevisionId, Secret, image::ImageRef, tool::BoundTool};
pub use config::{AgentConfig, AgentConfigChange, LlmConfig, LlmRole};
use serde::{Deserialize, Serialize};
pub use service::AgentService;
use std::pin::Pin;

/// Everything that makes one revision of an agent. Its JSON is stored: members are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The agent.
    pub agent: Name,
    /// The image as the user or the build named it, with the platform's registry in its symbolic form. With a digest
    /// the digest decides.
    pub image: ImageRef,
    /// `build-<hex>` if this deploy built the image.
    pub build_id: Option<String>,
    /// Entry file, if the deploy named or built one; else the image's label says.
    pub entry_point: Option<String>,
    /// Required tools in order, with where each is.
    pub tools: Vec<BoundTool>,
    /// What the deploy says of the agent.
    #[serde(flatten)]
    pub config: AgentConfig,
    /// The gateway's keyed hash of the whole request; equal means that a redeploy changes nothing.
    pub fingerprint: Digest,
}

/// How an agent is, in the public API's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not up yet; the message says why.
    Pending,
    /// A revision is up and ready.
    Running,
    /// The serving revision is down; the message says why and when it is tried again.
    Failed,
    /// It was stopped by a user and stays so until it is started or deployed again.
    Stopped,
}

impl Phase {
    /// The public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Failed => "Failed",
            Phase::Stopped => "Stopped",
        }
    }

    /// Reads the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Failed, Self::Stopped].into_iter().find(|p| p.as_str() == text)
    }
}

/// What a started revision came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStatus {
    /// The revision.
    pub revision: RevisionId,
    /// Its number among the agent's revisions.
    pub number: u64,
    /// `Running`: ready to be switched to. `Pending`: its image cannot be pulled yet; the agent service goes on
    /// trying and switches by itself once it is the agent's revision.
    pub phase: Phase,
    /// Why it is pending; empty when running.
    pub message: String,
    /// The digest of the image's manifest, once known.
    pub image_digest: Option<Digest>,
}

/// An agent as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Unique name.
    pub name: Name,
    /// The revision that is wanted.
    pub revision: RevisionId,
    /// Its number among the agent's revisions.
    pub revision_number: u64,
    /// Its specification, with the values of the user's variables masked, but for those that are no secrets.
    pub spec: AgentSpec,
    /// The environment as it may be shown: the platform's own variables as they are, the user's masked unless they are no secrets.
    pub shown_env: Vec<(String, String)>,
    /// How it is.
    pub phase: Phase,
    /// Why, when not simply running.
    pub message: String,
    /// The digest of the running image's manifest, once known.
    pub image_digest: Option<Digest>,
    /// Whether its image was built here for another Python than there is now, or in an older layout, and so is to be built
    /// again from the source that the image keeps.
    pub needs_rebuild: bool,
    /// How the agent is kept from harming the machine, as enforced; `not sandboxed` if nothing does.
    pub isolation: String,
    /// What it reaches of the network: `open` or `closed`.
    pub network: String,
    /// Its limits, as enforced.
    pub limits: String,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub updated_at: i64,
}

/// What runs agents on this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// Which runtime: `process`.
    pub name: String,
    /// What keeps agents from harming the machine, as enforced.
    pub isolation: String,
    /// What agents reach of the network: `open` or `closed`.
    pub network: String,
    /// The limits of each agent, as enforced.
    pub limits: String,
    /// `major.minor` of the interpreter that runs them.
    pub python: String,
    /// What an operator should know besides, such as why there is no stronger sandbox.
    pub notes: Vec<String>,
}

/// Where a gateway sends an agent's invokes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The agent.
    pub agent: Name,
    /// The serving instance, `None` while there is none.
    pub target: Option<Target>,
    /// Whether the target is ready; if not, `message` says why.
    pub ready: bool,
    /// Why it is not ready.
    pub message: String,
    /// True when callers must show that an identity provider vouches for them.
    pub needs_caller_identity: bool,
    /// Which one. An agent service that does not say leaves nobody who could be let in.
    pub identity_provider: Option<Name>,
}

/// The address of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The instance: the id of its revision, or an id of its own once the revision was started anew.
    pub revision: RevisionId,
    /// `host:port`.
    pub address: String,
    /// What the runner demands in `X-Hoistway-Invoke-Token`.
    pub token: Secret,
}

/// A change of the routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEvent {
    /// The whole table; first on every watch.
    Snapshot(Vec<Route>),
    /// One agent's route is new or has changed.
    Changed(Box<Route>),
    /// An agent is gone.
    Removed(Name),
}

/// A [`RouteEvent`] with its place in the order of changes. A gateway acknowledges the version once no request of its
/// own can reach an older route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedRoute {
    /// Counts up by at least one for each change.
    pub version: u64,
    /// The change.
    pub event: RouteEvent,
}

/// A subscription to the routing table.
pub type RouteStream = Pin<Box<dyn futures_core::Stream<Item = Result<VersionedRoute>> + Send>>;

/// The place of an event in the order of one source's events: sources that are started again begin a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The source's start, in milliseconds since the epoch.
    pub epoch: u64,
    /// Counts up by one.
    pub sequence: u64,
}

/// What happened to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentChange {
    /// Its phase or its serving revision is another one; the message says why it is not running.
    Phase(Phase, String),
    /// It ended although it was up, and is started again.
    Crashed {
        /// How it ended.
        reason: String,
        /// How often it was started again before.
        restarts: u32,
    },
    /// It was deleted.
    Deleted,
}

/// One event of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEvent {
    /// Its place among the service's events.
    pub place: Place,
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The agent.
    pub agent: Name,
    /// The revision, if one is concerned.
    pub revision: Option<RevisionId>,
    /// What happened.
    pub change: AgentChange,
}

/// Agents' events as they happen.
pub type AgentEvents = Pin<Box<dyn futures_core::Stream<Item = Result<AgentEvent>> + Send>>;
