//! The agent service.

use super::{Agent, AgentEvents, AgentSpec, Place, RevisionStatus, RouteStream, RuntimeStatus};
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
    /// The manifest digest that an image's tag stands for now. `None`: its registry cannot be asked at the moment.
    /// An image that its registry does not have is [`crate::Code::ImageNotFound`].
    async fn resolve_image(&self, image: ImageRef) -> Result<Option<Digest>>;

    /// Starts a revision beside the serving one and answers when it is ready, has failed
    /// ([`crate::Code::AgentStartFailed`] with its last log lines) or waits for its image. A new agent comes to be
    /// with phase `Pending`. The same revision again joins the running start or gets its outcome.
    async fn start_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        spec: AgentSpec,
    ) -> Result<RevisionStatus>;

    /// The same for a revision that is made of an earlier one: the agent service copies that one's specification,
    /// secret values included, and applies the changes. A base that is not kept any more is [`crate::Code::NotFound`].
    async fn derive_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        derivation: Derivation,
    ) -> Result<RevisionStatus>;

    /// The point of no return: makes a started revision the agent's, routes to it as soon as it is ready, waits until
    /// every gateway has the new route, and drains the old revision behind it.
    async fn switch_route(&self, operation: Operation, agent: Name, revision: RevisionId) -> Result<Agent>;

    /// Stops and forgets a revision that was not switched to; a new agent without another revision goes with it. An
    /// operation never seen is kept from happening later.
    async fn undo_start(&self, started: OperationId, agent: Name, revision: RevisionId) -> Result<()>;

    /// One revision of an agent; one that is not kept is [`crate::Code::NotFound`] with a message that says which are.
    async fn get_revision(&self, agent: Name, revision: RevisionRef) -> Result<Revision>;

    /// The agent's revisions that are kept, newest first, at most `limit`; only those before `before` if it is given.
    async fn list_revisions(&self, agent: Name, before: Option<RevisionRef>, limit: u32) -> Result<Vec<Revision>>;

    /// What differs between two revisions; without `from`, the one before `to`, or nothing if `to` is the first.
    async fn diff_revisions(&self, agent: Name, from: Option<RevisionRef>, to: RevisionRef) -> Result<Diff>;

    /// Whether the agent exists or may be made: [`crate::Code::ResourceExhausted`] when there are as many as allowed.
    async fn check_room(&self, agent: Name) -> Result<()>;

    /// Ends the agent's instance and keeps its record and route; nothing brings it up again but a start or a deploy.
    /// One that is stopped stays so.
    async fn stop_agent(&self, operation: Operation, name: Name) -> Result<Agent>;

    /// Brings a stopped agent up again and answers when it is ready, has failed or waits for its image. One that is
    /// not stopped is left as it is.
    async fn start_agent(&self, operation: Operation, name: Name) -> Result<Agent>;

    /// Replaces the agent's instance by a new one of the same revision, as a redeploy would; the old one stays when
    /// the new one does not start. A stopped agent is started.
    async fn restart_agent(&self, operation: Operation, name: Name) -> Result<Agent>;

    /// Gives the agents that require `tool` and lack its URL, or still have the URL `replaces`, that URL, by replacing
    /// their instance as a redeploy would. Answers with their names.
    async fn bind_tool(&self, operation: Operation, tool: BoundTool, replaces: Option<String>) -> Result<Vec<Name>>;

    /// One agent.
    async fn get_agent(&self, name: Name) -> Result<Agent>;

    /// Agents by name, a part at a time.
    async fn list_agents(&self, query: PageQuery) -> Result<Page<Agent>>;

    /// Every image of the platform's registry that a kept revision of any agent names.
    async fn images_in_use(&self) -> Result<Vec<StoredImage>>;

    /// Stops and forgets an agent with all its revisions and logs.
    async fn delete_agent(&self, operation: Operation, name: Name) -> Result<()>;

    /// The log of an agent. Following it ends when the agent is deleted or the service goes down.
    async fn agent_logs(&self, name: Name, query: LogQuery) -> Result<LogPieces>;

    /// What happens to agents from now on, or after `after`, the place of the last event that the caller has.
    async fn agent_events(&self, after: Option<Place>) -> Result<AgentEvents>;

    /// What the service measured.
    async fn agent_metrics(&self) -> Result<Metrics>;

    /// Subscribes the gateway `watcher` to the routing table.
    async fn watch_routes(&self, watcher: String) -> Result<RouteStream>;

    /// Says that `watcher` uses no route older than `version`.
    async fn ack_routes(&self, watcher: String, version: u64) -> Result<()>;

    /// What runs agents.
    async fn runtime(&self) -> Result<RuntimeStatus>;
}
