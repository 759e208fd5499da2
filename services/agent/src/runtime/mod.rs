//! Runtimes: what turns a revision into something that answers requests.
//!
//! A runtime learns what should run ([`Runtime::apply`]) and what should not ([`Runtime::remove`]); in between it
//! keeps the instance running by itself and reports each change of its [`State`]. [`ProcessRuntime`] runs agents as
//! processes of this machine, [`DockerRuntime`] in containers.

mod docker;
pub(crate) mod endpoint;
mod instances;
pub mod logs;
mod network;
mod notices;
mod process;
mod runner_config;
mod stack_trace;
mod supervisor;

pub use crate::sandbox::Isolation;
pub use docker::{DockerConfig, DockerRuntime};
pub use endpoint::Endpoint;
pub use hoistway_model::redact::Masker;
pub use logs::{LogBook, LogLimits};
pub use process::{ProcessConfig, ProcessRuntime};
pub use supervisor::{RestartDelays, StartSettings};

use crate::images;
use async_trait::async_trait;
use hoistway_model::{
    Code, Digest, Error, Name, Result, RevisionId, Secret,
    framework::Framework,
    image::{ImageRef, StoredImage},
    log::{LogPieces, LogQuery},
    metric::Family,
};
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};
use tokio::sync::watch;

/// Why the machine did not allow something, in words for everybody.
fn reason(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => "too many open files".to_owned(),
        _ => error.kind().to_string(),
    }
}

/// One way of running agents.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// The name by which it is chosen.
    fn name(&self) -> &'static str;

    /// The isolation of an agent from the rest of the machine: what is enforced, never more.
    fn isolation(&self) -> Isolation;

    /// The way in which its agents reach egress, where that is not at the configured URL.
    fn egress_route(&self) -> Option<EgressRoute> {
        None
    }

    /// Fails if nothing can be started now.
    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it runs images as they are; otherwise it runs their unpacked layers with an interpreter of this machine.
    fn runs_images(&self) -> bool {
        false
    }

    /// Makes an image available to a runtime that runs images as they are. `digest` is that of the manifest.
    async fn pull(&self, image: &ImageRef, digest: &Digest) -> Result<Program, images::Failure> {
        let text = format!("{} {digest} is not for this runtime", image.display_tagged());
        Err(images::Failure::Final(Error::new(Code::UnsupportedImage, text)))
    }

    /// Removes the images of the platform's registry that a runtime has pulled whole and that are not `kept`.
    async fn sweep_images(&self, _kept: Vec<StoredImage>) {}

    /// Makes the instance run, and returns as soon as its address is known; [`Started::ready`] waits for the rest.
    ///
    /// An instance of the same revision that is there already, in whatever state, is returned as it is: to try a
    /// failed one again, remove it first. One that is being removed is waited for.
    async fn apply(&self, instance: Instance) -> Result<Started>;

    /// The instance as it is now; `None` if the runtime does not have it.
    async fn status(&self, revision: &RevisionId) -> Result<Option<Started>>;

    /// The log of all instances of an agent. It outlives the instances, and following it ends when it is forgotten.
    async fn logs(&self, agent: &Name, query: LogQuery) -> Result<LogPieces>;

    /// The measurements.
    fn metrics(&self) -> Vec<Family> {
        Vec::new()
    }

    /// Stops the instance: it may take `grace` to finish the requests that it has, then it is killed with everything
    /// it started. Returns when nothing of it is left. Removing what is not there is not an error.
    async fn remove(&self, revision: &RevisionId, grace: Duration) -> Result<()>;

    /// Deletes what is kept of a deleted agent: its logs. Its instances are removed before.
    async fn forget(&self, agent: &Name) -> Result<()>;

    /// Adds a line of the platform's own to the log of an instance's agent, if there is such an instance.
    async fn remark(&self, revision: &RevisionId, text: &str) -> Result<()>;

    /// Ends the runtime with this program: instances that cannot outlive it are removed, all at the same time.
    async fn shutdown(&self, grace: Duration);
}

/// A way to egress that a runtime has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRoute {
    /// Base URL of egress as agents reach it there.
    pub url: String,
    /// Whether egress knows by it which agent calls, so that no token is needed.
    pub has_identity: bool,
}

/// One revision of an agent, ready to be run.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The agent.
    pub agent: Name,
    /// The revision; there is one instance of each.
    pub revision: RevisionId,
    /// Where its program is.
    pub program: Program,
    /// The agent's final environment. The runtime adds `PORT`, and beneath these what the platform needs (`HOME`,
    /// `TMPDIR`, `PATH`, …). Names are unique.
    pub env: Vec<(String, Secret)>,
    /// The hosts that the agent reaches by name. In a network of the agent's own the names lead to egress.
    pub endpoints: Vec<Endpoint>,
    /// The token by which egress knows the revision.
    pub egress_token: Secret,
    /// The token that a caller of the agent must present; empty for none.
    pub invoke_token: Secret,
    /// The secrets that no log line or message may show.
    pub mask: Vec<Secret>,
    /// The framework with which the agent is written, as it was stated.
    pub framework: Option<Framework>,
    /// Whether this revision has been ready before. Then a start that fails is a crash, tried again with backoff;
    /// otherwise it is the end, [`State::Failed`].
    pub proven: bool,
}

/// Where an instance's program comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Program {
    /// The layers of an image of ours, unpacked on this machine, and an interpreter that suits them.
    Unpacked {
        /// The user's source: `/app` of the image. It is the working directory.
        app_dir: PathBuf,
        /// Dependencies, in the order of search.
        site_dirs: Vec<PathBuf>,
        /// The directories of the layers whose packages these are, topmost first. Their paths say what is in them.
        site_layers: Vec<PathBuf>,
        /// `hoistway_runner.py`.
        runner: PathBuf,
        /// The real interpreter, an absolute path, never a shim.
        interpreter: PathBuf,
    },
    /// An image of ours on a base, which the runtime has.
    Image {
        /// The reference by which the runtime has it.
        reference: String,
    },
}

/// An instance that a runtime has.
#[derive(Debug, Clone)]
pub struct Started {
    /// `host:port` where the agent answers once it is ready. It is the same for the instance's whole life.
    pub address: String,
    /// The agent's state, and each change of it. A slow reader sees the latest state, not every one.
    pub states: watch::Receiver<State>,
}

impl Started {
    /// The state now.
    pub fn state(&self) -> State {
        self.states.borrow().clone()
    }

    /// Waits until the instance is ready, or will not become so. There is no time limit: the caller has one.
    pub async fn ready(&self) -> Result<()> {
        let mut states = self.states.clone();
        let decided = |state: &State| matches!(state, State::Ready | State::Failed(_) | State::Gone);
        let state = match states.wait_for(decided).await {
            Ok(state) => state.clone(),
            Err(_) => State::Gone,
        };
        match state {
            State::Ready => Ok(()),
            State::Failed(failure) => Err(Error::new(failure.code, failure.message).with_details(failure.details)),
            _ => Err(Error::new(Code::Cancelled, "the agent was stopped before it was ready")),
        }
    }
}

/// The state of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Being started: it waits for its turn or loads its code.
    Starting,
    /// Answering requests.
    Ready,
    /// It could not be started and will not be tried again.
    Failed(Failure),
    /// It ended after it had been ready, or its start failed although it was proven; it will be started again.
    Crashed {
        /// Why it ended, and what it said last.
        failure: Failure,
        /// Whether it was killed because its memory was used up.
        out_of_memory: bool,
        /// The number of restarts so far.
        restarts: u32,
        /// When the next start is due, in milliseconds since the epoch.
        next_try_ms: i64,
    },
    /// It was removed, and nothing of it is left.
    Gone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Starting => f.write_str("starting"),
            State::Ready => f.write_str("ready"),
            State::Failed(failure) => f.write_str(&failure.message),
            State::Crashed { failure, restarts, .. } => {
                write!(f, "crashed: {} (starts again by itself; restarts so far: {restarts})", failure.message)
            }
            State::Gone => f.write_str("stopped"),
        }
    }
}

/// Why an instance is not running. Secrets are masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// [`Code::AgentStartFailed`], or a code that says more.
    pub code: Code,
    /// One line: the traceback's last one, or how the process ended.
    pub message: String,
    /// The evidence, and the advice: the last lines that the agent wrote, at most [`Failure::LOG_LINES`], the stack
    /// of a start, or the message of its runner.
    pub details: Vec<String>,
}

impl Failure {
    /// The number of log lines that a failure shows.
    pub const LOG_LINES: usize = 40;
}

/// Milliseconds since the epoch.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
