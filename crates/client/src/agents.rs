use crate::{METRICS_DEADLINE, Transport, answer, member, with_deadline};
use async_trait::async_trait;
use futures_util::StreamExt;
use hoistway_kit::grpc::{MAX_MESSAGE, status};
use hoistway_model::{
    AgentService, Digest, Name, Operation, OperationId, Result, RevisionId,
    agent::{Agent, AgentEvents, AgentSpec, EventPosition, RevisionStatus, RouteStream, RuntimeStatus},
    image::{ImageRef, StoredImage},
    log::{LogPieces, LogQuery},
    metric::Metrics,
    page::{Page, PageQuery},
    revision::{Derivation, Diff, Revision, RevisionRef},
    tool::BoundTool,
};
use hoistway_proto::{
    agents::v1::{self as pb, agent_service_client::AgentServiceClient},
    convert,
};
use std::time::Duration;

/// The agent service behind a transport.
#[derive(Debug, Clone)]
pub struct AgentClient {
    rpc: AgentServiceClient<Transport>,
    patience: Duration,
}

impl AgentClient {
    /// Creates a client over `transport`, which connects on first use. `patience` is the deadline of starting one
    /// revision.
    pub fn new(transport: Transport, patience: Duration) -> Self {
        let rpc = AgentServiceClient::new(transport)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { rpc, patience }
    }

    fn rpc(&self) -> AgentServiceClient<Transport> {
        self.rpc.clone()
    }
}

#[async_trait]
impl AgentService for AgentClient {
    async fn resolve_image(&self, image: ImageRef) -> Result<Option<Digest>> {
        let request = pb::ResolveImageRequest { image: image.to_string() };
        let response = answer(self.rpc().resolve_image(request).await)?;
        response.digest.map(|d| convert::parsed("digest", &d)).transpose()
    }

    async fn start_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        spec: AgentSpec,
    ) -> Result<RevisionStatus> {
        let request = pb::StartRevisionRequest {
            operation: Some(operation.into()),
            revision_id: revision.to_string(),
            spec: Some(spec.into()),
        };
        answer(self.rpc().start_revision(with_deadline(request, self.patience)).await)?.try_into()
    }

    async fn derive_revision(
        &self,
        operation: Operation,
        revision: RevisionId,
        derivation: Derivation,
    ) -> Result<RevisionStatus> {
        let mut request = convert::derive_request(revision, derivation);
        request.operation = Some(operation.into());
        let response = answer(self.rpc().derive_revision(with_deadline(request, self.patience)).await)?;
        member("status", response.status)?.try_into()
    }

    async fn switch_route(&self, operation: Operation, agent: Name, revision: RevisionId) -> Result<Agent> {
        let request = pb::SwitchRouteRequest {
            operation: Some(operation.into()),
            agent: agent.into(),
            revision_id: revision.to_string(),
        };
        member("agent", answer(self.rpc().switch_route(request).await)?.agent)?.try_into()
    }

    async fn undo_start(&self, started: OperationId, agent: Name, revision: RevisionId) -> Result<()> {
        let request = pb::UndoStartRequest {
            started_operation_id: started.to_string(),
            agent: agent.into(),
            revision_id: revision.to_string(),
        };
        answer(self.rpc().undo_start(request).await).map(drop)
    }

    async fn get_revision(&self, agent: Name, revision: RevisionRef) -> Result<Revision> {
        let request = pb::GetRevisionRequest { agent: agent.into(), revision: revision.to_string() };
        member("revision", answer(self.rpc().get_revision(request).await)?.revision)?.try_into()
    }

    async fn list_revisions(&self, agent: Name, before: Option<RevisionRef>, limit: u32) -> Result<Vec<Revision>> {
        let before = before.map(|b| b.to_string());
        let request = pb::ListRevisionsRequest { agent: agent.into(), before, limit };
        let response = answer(self.rpc().list_revisions(request).await)?;
        response.revisions.into_iter().map(TryInto::try_into).collect()
    }

    async fn diff_revisions(&self, agent: Name, from: Option<RevisionRef>, to: RevisionRef) -> Result<Diff> {
        let from = from.map(|f| f.to_string());
        let request = pb::DiffRevisionsRequest { agent: agent.into(), from, to: to.to_string() };
        answer(self.rpc().diff_revisions(request).await)?.try_into()
    }

    async fn check_room(&self, agent: Name) -> Result<()> {
        let request = pb::CheckRoomRequest { agent: agent.into() };
        answer(self.rpc().check_room(request).await).map(drop)
    }

    async fn stop_agent(&self, operation: Operation, name: Name) -> Result<Agent> {
        let request = pb::StopAgentRequest { operation: Some(operation.into()), name: name.into() };
        member("agent", answer(self.rpc().stop_agent(request).await)?.agent)?.try_into()
    }

    async fn start_agent(&self, operation: Operation, name: Name) -> Result<Agent> {
        let request = pb::StartAgentRequest { operation: Some(operation.into()), name: name.into() };
        let response = answer(self.rpc().start_agent(with_deadline(request, self.patience)).await)?;
        member("agent", response.agent)?.try_into()
    }

    async fn restart_agent(&self, operation: Operation, name: Name) -> Result<Agent> {
        let request = pb::RestartAgentRequest { operation: Some(operation.into()), name: name.into() };
        let response = answer(self.rpc().restart_agent(with_deadline(request, self.patience)).await)?;
        member("agent", response.agent)?.try_into()
    }

    async fn bind_tool(&self, operation: Operation, tool: BoundTool, replaces: Option<String>) -> Result<Vec<Name>> {
        let replaces = replaces.unwrap_or_default();
        let request = pb::BindToolRequest { operation: Some(operation.into()), tool: Some(tool.into()), replaces };
        let response = answer(self.rpc().bind_tool(with_deadline(request, self.patience)).await)?;
        response.agents.iter().map(|a| convert::name("agents", a)).collect()
    }

    async fn get_agent(&self, name: Name) -> Result<Agent> {
        let request = pb::GetAgentRequest { name: name.into() };
        member("agent", answer(self.rpc().get_agent(request).await)?.agent)?.try_into()
    }

    async fn list_agents(&self, query: PageQuery) -> Result<Page<Agent>> {
        let PageQuery { after, limit } = query;
        let request = pb::ListAgentsRequest { after: after.map(Into::into).unwrap_or_default(), limit };
        let response = answer(self.rpc().list_agents(request).await)?;
        Page { items: response.agents, more: response.more }.try_map(TryInto::try_into)
    }

    async fn images_in_use(&self) -> Result<Vec<StoredImage>> {
        let response = answer(self.rpc().list_images_in_use(pb::ListImagesInUseRequest {}).await)?;
        response.images.into_iter().map(TryInto::try_into).collect()
    }

    async fn delete_agent(&self, operation: Operation, name: Name) -> Result<()> {
        let request = pb::DeleteAgentRequest { operation: Some(operation.into()), name: name.into() };
        answer(self.rpc().delete_agent(request).await).map(drop)
    }

    async fn agent_logs(&self, name: Name, query: LogQuery) -> Result<LogPieces> {
        let request = pb::StreamAgentLogsRequest { name: name.into(), query: Some(query.into()) };
        let stream = answer(self.rpc().stream_agent_logs(request).await)?;
        Ok(Box::pin(stream.map(|item| member("piece", item.map_err(status::from_status)?.piece)?.try_into())))
    }

    async fn agent_events(&self, after: Option<EventPosition>) -> Result<AgentEvents> {
        let request = pb::WatchAgentEventsRequest { after: after.map(Into::into) };
        let stream = answer(self.rpc().watch_agent_events(request).await)?;
        Ok(Box::pin(stream.map(|item| item.map_err(status::from_status)?.try_into())))
    }

    async fn agent_metrics(&self) -> Result<Metrics> {
        let request = with_deadline(pb::GetAgentMetricsRequest {}, METRICS_DEADLINE);
        member("metrics", answer(self.rpc().get_agent_metrics(request).await)?.metrics)?.try_into()
    }

    async fn watch_routes(&self, watcher: String) -> Result<RouteStream> {
        let stream = answer(self.rpc().watch_routes(pb::WatchRoutesRequest { watcher }).await)?;
        Ok(Box::pin(stream.map(|item| match item {
            Ok(message) => message.try_into(),
            Err(status) => Err(status::from_status(status)),
        })))
    }

    async fn ack_routes(&self, watcher: String, version: u64) -> Result<()> {
        let request = pb::AckRoutesRequest { watcher, version };
        answer(self.rpc().ack_routes(request).await).map(drop)
    }

    async fn report_idle(&self, watcher: String, agent: Name, instance: RevisionId, in_use: bool) -> Result<()> {
        let instance_id = instance.to_string();
        let request = pb::ReportIdleRequest { watcher, agent: agent.into(), instance_id, in_use };
        answer(self.rpc().report_idle(request).await).map(drop)
    }

    async fn wake_agent(&self, name: Name) -> Result<()> {
        let request = pb::WakeAgentRequest { name: name.into() };
        answer(self.rpc().wake_agent(with_deadline(request, self.patience)).await).map(drop)
    }

    async fn runtime(&self) -> Result<RuntimeStatus> {
        answer(self.rpc().get_runtime(pb::GetRuntimeRequest {}).await).map(Into::into)
    }
}
