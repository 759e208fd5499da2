//! What a supervisor needs of the runtime: a way to run an instance, and what is heard of a run.

use crate::launcher::protocol::Exit;
use crate::runtime::network::AgentNetwork;
use crate::runtime::notices::Notice;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// A step that the machine did not let a runtime take.
pub(in crate::runtime) struct Unable {
    /// The step, in words.
    pub what: &'static str,
    /// The reason, for the operator.
    pub error: std::io::Error,
}

impl Unable {
    pub fn new(what: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what, error: std::io::Error::other(error) }
    }
}

/// Makes the runs of one instance.
pub(in crate::runtime) trait Launcher: Send + Sync + 'static {
    type Run: Run;

    /// Whether the agent has a network of its own, to which callers are forwarded.
    fn has_own_network(&self) -> bool;

    /// Makes what all runs have in common.
    fn prepare(&mut self) -> impl Future<Output = Result<(), Unable>> + Send;

    /// Begins a run, which may take `limit` until it is ready. An agent without a network of its own serves `listener`.
    fn launch(
        &mut self,
        listener: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> impl Future<Output = Result<Self::Run, Unable>> + Send;

    /// Has the following runs import their packages themselves.
    fn refuse_forks(&mut self) {}

    /// Removes what is left of the instance once it does not run.
    fn clean(&mut self) -> impl Future<Output = ()> + Send;
}

/// One run of an instance. Dropping it ends it.
pub(in crate::runtime) trait Run: Send {
    /// The agent's network, where it has one of its own.
    fn network(&self) -> Option<Arc<AgentNetwork>>;

    /// Whether it was forked from a process with the agent's packages, and might have ended for that.
    fn is_forked(&self) -> bool {
        false
    }

    /// Waits for the end, or before that for the notice if it has not come. Cancel safe.
    fn event(&mut self, awaits_notice: bool) -> impl Future<Output = Event> + Send;

    /// Returns the agent's stack as the lines of a traceback; empty if it does not write one.
    fn stack(&mut self) -> impl Future<Output = Vec<String>> + Send;

    /// Asks the agent to finish; whatever is left of it after `grace` is killed. May be repeated with less.
    fn stop(&mut self, grace: Duration) -> impl Future<Output = ()> + Send;

    /// Whether it ended because the agent's memory was used up.
    fn is_out_of_memory(&mut self) -> impl Future<Output = bool> + Send;

    /// Kills what is left, and waits until there is nothing and the log is read to its end. Returns the notice, if one
    /// came late.
    fn finish(self) -> impl Future<Output = Option<Notice>> + Send;
}

/// Something that happens to a run.
pub(in crate::runtime) enum Event {
    Notice(Notice),
    Ended(Ended),
}

/// The end of a run.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) enum Ended {
    /// The agent's main process ended by itself.
    Exited(Exit),
    /// What the agent ran in was taken away from outside, in these words.
    Lost(&'static str),
}
