//! The agent service.

use super::{Agent, AgentEvents, AgentSpec, EventPosition, RevisionStatus, RouteStream, RuntimeStatus};
use crate::{
    Digest, Name, Operation, OperationId, Result, RevisionId,
    image::{ImageRef, StoredImage},
    log::{LogPieces, LogQuery},
    metric::Metrics,
    page::{Page, PageQuery},
    revision::{Derivation, Diff, Revision, RevisionRef},
    tool::BoundTool,
};
use async_trait::async_trait;
use std::fmt;

/// The agent service.
#[async_trait]
pub trait AgentService: fmt::Debug + Send + Sync + 'static {
    /// Resolves an image's tag to its current manifest digest. `None`: its registry is unavailable at the moment. An
    /// image that its registry does not have is [`crate::Code::ImageNotFound`].
    async fn resolve_image(&self, image: ImageRef) -> Result<Option<Digest>>;

    /// Starts a revision beside the serving one and returns when it is ready, has failed
    /// ([`crate::Code::AgentStartFailed`] with its last log lines) or waits for its image. A new agent is created with
    /// phase `Pending`. The same revision again joins the running start or gets its outcome.
    async fn start_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        spec: AgentSpec,
    ) -> Result<RevisionStatus>;

    /// The same for a revision that is derived from an earlier one: the agent service copies that one's specification,
    /// secret values included, and applies the changes. A base that no longer exists is [`crate::Code::NotFound`].
    async fn derive_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        derivation: Derivation,
    ) -> Result<RevisionStatus>;

    /// Makes a started revision the agent's, which is the point of no return: routes to it as soon as it is ready,
    /// waits until every gateway has the new route, and drains the old revision.
    async fn switch_route(&self, operation: Operation, agent: Name, revision: RevisionId) -> Result<Agent>;

    /// Stops and removes a revision that was not switched to, and a new agent without another revision. An unknown
    /// operation is prevented from happening later.
    async fn undo_start(&self, started: OperationId, agent: Name, revision: RevisionId) -> Result<()>;

    /// Returns one revision of an agent; a missing one is [`crate::Code::NotFound`] with a message that lists the
    /// others.
    async fn get_revision(&self, agent: Name, revision: RevisionRef) -> Result<Revision>;

    /// Returns the agent's stored revisions, newest first, at most `limit`; with `before`, only older ones.
    async fn list_revisions(&self, agent: Name, before: Option<RevisionRef>, limit: u32) -> Result<Vec<Revision>>;

    /// Compares two revisions; without `from`, the one before `to`, or nothing if `to` is the first.
    async fn diff_revisions(&self, agent: Name, from: Option<RevisionRef>, to: RevisionRef) -> Result<Diff>;

    /// Checks that the agent exists or may be created: [`crate::Code::ResourceExhausted`] at the limit of agents.
    async fn check_room(&self, agent: Name) -> Result<()>;

    /// Ends the agent's instance and keeps its record and route; only a start or a deploy brings it up again. An agent
    /// that is stopped already is left unchanged.
    async fn stop_agent(&self, operation: Operation, name: Name) -> Result<Agent>;

    /// Starts a stopped agent and returns when it is ready, has failed or waits for its image. One that is not stopped
    /// is left unchanged.
    async fn start_agent(&self, operation: Operation, name: Name) -> Result<Agent>;

    /// Replaces the agent's instance by a new one of the same revision, as a redeploy would; the old one stays if the
    /// new one does not start. A stopped agent is started.
    async fn restart_agent(&self, operation: Operation, name: Name) -> Result<Agent>;

    /// Updates the agents that require `tool` and lack its URL, or still have the URL `replaces`, by replacing their
    /// instance as a redeploy would. Returns their names.
    async fn bind_tool(&self, operation: Operation, tool: BoundTool, replaces: Option<String>) -> Result<Vec<Name>>;

    /// Returns one agent.
    async fn get_agent(&self, name: Name) -> Result<Agent>;

    /// Lists agents by name, one page at a time.
    async fn list_agents(&self, query: PageQuery) -> Result<Page<Agent>>;

    /// Returns every image of the platform's registry that a stored revision of any agent references.
    async fn images_in_use(&self) -> Result<Vec<StoredImage>>;

    /// Stops and deletes an agent with all its revisions and logs.
    async fn delete_agent(&self, operation: Operation, name: Name) -> Result<()>;

    /// Returns the log of an agent. Following it ends when the agent is deleted or the service shuts down.
    async fn agent_logs(&self, name: Name, query: LogQuery) -> Result<LogPieces>;

    /// Follows events of agents from now on, or after `after`, the place of the last event that the caller has.
    async fn agent_events(&self, after: Option<EventPosition>) -> Result<AgentEvents>;

    /// Returns the metrics of the service.
    async fn agent_metrics(&self) -> Result<Metrics>;

    /// Subscribes the gateway `watcher` to the routing table.
    async fn watch_routes(&self, watcher: String) -> Result<RouteStream>;

    /// Reports that `watcher` uses no route older than `version`.
    async fn ack_routes(&self, watcher: String, version: u64) -> Result<()>;

    /// Reports that the gateway `watcher` has sent no invoke to `instance` for the time of its route, and that none is in
    /// flight. The agent is stopped until the next invoke if every gateway reports it, and nothing else changes it. With
    /// `in_use` the report before is taken back: the gateway invokes the instance again.
    async fn report_idle(&self, watcher: String, agent: Name, instance: RevisionId, in_use: bool) -> Result<()>;

    /// Starts an idle agent and returns when it is ready. All calls join the same start. Its failure has the reason and
    /// the last log lines; [`crate::Code::Aborted`]: another change of the agent came in between. An agent that is not
    /// idle is left unchanged.
    async fn wake_agent(&self, name: Name) -> Result<()>;

    /// Describes the agent runtime.
    async fn runtime(&self) -> Result<RuntimeStatus>;
}
