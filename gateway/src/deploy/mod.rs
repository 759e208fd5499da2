//! The interface between the HTTP API and the deploy saga.
//!
//! The API parses and waits; the saga, behind [`Deployer`], validates by look-ups, journals and works. A caller that
//! disconnects changes nothing: the saga does not know how many callers watch its [`Progress`].

pub mod kind;
pub mod providers;
pub mod request;

use async_trait::async_trait;
use hoistway_kit::quota::QuotaGrant;
use hoistway_model::{Code, DeploymentId, Error, Name, Result, RevisionId, build::BuiltImage, revision::Reason};
use kind::{DeploymentKind, RevisionOutcome};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The deploy saga as the HTTP API sees it.
#[async_trait]
pub trait Deployer: fmt::Debug + Send + Sync + 'static {
    /// Looks up the names in the work, accepts it durably (or joins an equal one that is in flight) and answers before
    /// any work is done. An error means that nothing was changed. `room` is released after the decision, also when the
    /// caller has disconnected meanwhile.
    async fn accept(&self, work: DeploymentKind, strict: bool, room: Option<Room>) -> Result<Accepted>;

    /// Waits until every earlier accepted deployment of the agent has ended, and keeps later ones waiting while the
    /// lease is held. Long deployments may be cancelled for it. [`Code::Conflict`] when it is not granted within
    /// `patience`.
    async fn lease(&self, agent: Name, urgency: Urgency, patience: Duration) -> Result<AgentLease>;

    /// Cancels a deployment that is not past its point of no return, and returns its state after a moment: failed, or
    /// being undone. [`Code::Conflict`] for one that has ended.
    async fn cancel(&self, id: DeploymentId) -> Result<Deployment>;

    /// Returns one deployment.
    async fn get(&self, id: DeploymentId) -> Result<Deployment>;

    /// Returns deployments, newest first.
    async fn list(&self, query: DeploymentQuery) -> Result<Vec<Deployment>>;
}

/// The memory of a request until it is accepted.
#[derive(Debug)]
pub struct Room {
    /// The memory of its body.
    pub body: QuotaGrant,
    /// The permit of a large deploy: these are accepted one at a time.
    pub large_deploy: Option<OwnedSemaphorePermit>,
}

/// A query for deployments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentQuery {
    /// Only those of this agent.
    pub agent: Option<Name>,
    /// Only those with this status.
    pub status: Option<DeploymentStatus>,
    /// Only those accepted before this one.
    pub before: Option<DeploymentId>,
    /// The most deployments of the answer.
    pub limit: u32,
}

/// The treatment of deployments for which a lease has waited a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// They run to their end.
    Patient,
    /// Those that start the agent, or will start it meanwhile, are cancelled.
    EndStarts,
    /// All are cancelled.
    Cancel,
}

/// The right to change an agent while no deployment of it runs; it ends when this is dropped.
#[derive(Debug)]
pub struct AgentLease {
    _guard: DropGuard,
    unwanted: CancellationToken,
    cancelled_others: bool,
}

impl AgentLease {
    /// Returns a lease that lasts as long as the guard; `unwanted` is cancelled when another request asks it to end.
    pub fn new(guard: DropGuard, unwanted: CancellationToken) -> Self {
        Self { _guard: guard, unwanted, cancelled_others: false }
    }

    /// Returns the same lease with a record of whether deployments were cancelled for it.
    pub fn after_cancelling(self, cancelled_others: bool) -> Self {
        Self { cancelled_others, ..self }
    }

    /// Whether deployments were cancelled for it. A cancelled first deployment removes its agent.
    pub fn cancelled_others(&self) -> bool {
        self.cancelled_others
    }

    /// Returns the token that is cancelled when another request asks the lease to end.
    pub fn unwanted(&self) -> CancellationToken {
        self.unwanted.clone()
    }
}

/// A deploy that will be carried out, whatever happens to this process.
#[derive(Debug)]
pub struct Accepted {
    /// The deployment; that of the equal one in flight if it was joined.
    pub id: DeploymentId,
    /// The warnings of the look-ups.
    pub warnings: Vec<String>,
    /// Its progress. A sender that is dropped before `done` means that this process is shutting down; another process,
    /// or the next start, continues the work.
    pub progress: watch::Receiver<Progress>,
}

/// The progress of a deployment.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Whether the tools are registered, so that `tools_created` is final.
    pub tools_done: bool,
    /// Tools that this deployment created, in the request's order.
    pub tools_created: Vec<String>,
    /// Whether the request requires a build.
    pub wants_build: bool,
    /// The image that was built for it, or had been built before.
    pub image: Option<BuiltImage>,
    /// The revision that it made or found, once it is known.
    pub made: Option<RevisionOutcome>,
    /// The result, once it ended; an error begins with the text of the contract: `build failed: …`.
    pub done: Option<Result<Outcome, Arc<Error>>>,
}

impl Progress {
    /// Whether all members of a 201 answer are known.
    pub fn is_built(&self) -> bool {
        self.tools_done && (self.image.is_some() || !self.wants_build)
    }
}

/// A deployment that did not fail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The reason that the agent is `Pending` nevertheless: its image cannot be pulled yet. `None` when it runs.
    pub pending: Option<String>,
}

/// The status of a deployment, with the same spelling as those of builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentStatus {
    /// Accepted; an earlier deploy of the same agent runs.
    Pending,
    /// Its steps run.
    Running,
    /// A step failed; its effects are being undone.
    Undoing,
    /// The agent has the new revision.
    Succeeded,
    /// Nothing of it is left.
    Failed,
}

impl DeploymentStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Undoing, Self::Succeeded, Self::Failed];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Undoing => "UNDOING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }

    /// Reads the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl FromStr for DeploymentStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::ALL.map(Self::as_str).join(", ");
        Self::parse(&text.to_ascii_uppercase()).ok_or_else(|| format!("\"{text}\" is not one of {all}"))
    }
}

/// A deployment as the API shows it: nothing of the request but the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// The agent.
    pub agent: Name,
    /// Its kind: a deploy, a rollback, a change of the configuration.
    pub kind: Reason,
    /// The number of the revision that it made or found, once it is known.
    pub revision: Option<u64>,
    /// Its status.
    pub status: DeploymentStatus,
    /// The step that runs or ran last: `tools`, `build`, `start`, `switch`.
    pub step: Option<String>,
    /// Tools that it created.
    pub tools_created: Vec<String>,
    /// The image that it built.
    pub image: Option<BuiltImage>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// The revision that it made, once it is known that there will be one.
    pub revision_id: Option<RevisionId>,
    /// The warnings of its acceptance.
    pub warnings: Vec<String>,
    /// The HTTP request that it came with.
    pub request_id: Option<String>,
    /// Its steps in their order; steps with nothing to do are not among them.
    pub steps: Vec<DeploymentStep>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub updated_at: i64,
    /// Milliseconds since the epoch, once it ended.
    pub completed_at: Option<i64>,
}

/// A step of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentStep {
    /// `plan`, `tools`, `build`, `start`, `switch` or `bind`.
    pub step: &'static str,
    /// PENDING, RUNNING, SUCCEEDED or FAILED.
    pub status: &'static str,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// Milliseconds since the epoch.
    pub completed_at: Option<i64>,
}

/// The public part of the error that a deployment ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub code: Code,
    /// The public text.
    pub message: String,
    /// Lines that prove it.
    pub details: Vec<String>,
}
