//! The gRPC face: messages to records, the call, records to messages. No decision is taken here.

use futures_util::{Stream, StreamExt};
use hoistway_kit::{
    grpc::{MAX_MESSAGE, to_status},
    log_collect,
};
use hoistway_model::{
    AgentIdentities, AgentService, Operation, Result,
    log::{LogPiece, LogQuery},
    page::{self, Page},
};
use hoistway_proto::{
    agents::v1::{
        self as pb,
        agent_identity_service_server::{AgentIdentityService, AgentIdentityServiceServer},
        agent_service_server::{AgentService as Service, AgentServiceServer},
    },
    common::v1 as common,
    convert::{name, page_query, parsed, part, required},
};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status, async_trait};

/// The answers of a call that has many.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Any agent service as the generated server sees it.
#[derive(Debug, Clone)]
pub struct GrpcAgentService(Arc<dyn AgentService>);

/// The generated server over `agents`.
pub(crate) fn server(agents: Arc<dyn AgentService>) -> AgentServiceServer<GrpcAgentService> {
    AgentServiceServer::new(GrpcAgentService(agents))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// The service for the identities of agents, as the generated server sees it.
#[derive(Debug, Clone)]
pub struct GrpcAgentIdentities(Arc<dyn AgentIdentities>);

/// The generated server over `identities`.
pub(crate) fn identity_server(identities: Arc<dyn AgentIdentities>) -> AgentIdentityServiceServer<GrpcAgentIdentities> {
    AgentIdentityServiceServer::new(GrpcAgentIdentities(identities)).max_encoding_message_size(MAX_MESSAGE)
}

#[async_trait]
impl AgentIdentityService for GrpcAgentIdentities {
    type WatchIdentitiesStream = Answers<pb::WatchIdentitiesResponse>;

    async fn watch_identities(
        &self,
        _: Request<pb::WatchIdentitiesRequest>,
    ) -> Result<Response<Self::WatchIdentitiesStream>, Status> {
        let updates = self.0.watch_identities().await.map_err(to_status)?;
        Ok(Response::new(Box::pin(updates.map(|update| update.map(Into::into).map_err(to_status)))))
    }

    async fn log_refused_calls(
        &self,
        request: Request<pb::LogRefusedCallsRequest>,
    ) -> Result<Response<pb::LogRefusedCallsResponse>, Status> {
        let calls = request.into_inner().calls.into_iter().map(TryInto::try_into).collect::<Result<_>>();
        self.0.log_refused_calls(calls.map_err(to_status)?).await.map_err(to_status)?;
        Ok(Response::new(pb::LogRefusedCallsResponse {}))
    }
}

fn operation(message: Option<common::Operation>) -> Result<Operation> {
    required("operation", message)?.try_into()
}

impl GrpcAgentService {
    async fn resolve_image(&self, r: pb::ResolveImageRequest) -> Result<pb::ResolveImageResponse> {
        let digest = self.0.resolve_image(parsed("image", &r.image)?).await?;
        Ok(pb::ResolveImageResponse { digest: digest.map(Into::into) })
    }

    async fn start_revision(&self, r: pb::StartRevisionRequest) -> Result<pb::StartRevisionResponse> {
        let spec = required("spec", r.spec)?.try_into()?;
        let status =
            self.0.start_revision(operation(r.operation)?, parsed("revision_id", &r.revision_id)?, spec).await?;
        Ok(status.into())
    }

    async fn derive_revision(&self, mut r: pb::DeriveRevisionRequest) -> Result<pb::DeriveRevisionResponse> {
        let (operation, revision) = (operation(r.operation.take())?, parsed("revision_id", &r.revision_id)?);
        let status = self.0.derive_revision(operation, revision, r.try_into()?).await?;
        Ok(pb::DeriveRevisionResponse { status: Some(status.into()) })
    }

    async fn get_revision(&self, r: pb::GetRevisionRequest) -> Result<pb::GetRevisionResponse> {
        let revision = self.0.get_revision(name("agent", &r.agent)?, parsed("revision", &r.revision)?).await?;
        Ok(pb::GetRevisionResponse { revision: Some(revision.into()) })
    }

    async fn list_revisions(&self, r: pb::ListRevisionsRequest) -> Result<pb::ListRevisionsResponse> {
        let before = r.before.map(|b| parsed("before", &b)).transpose()?;
        let revisions = self.0.list_revisions(name("agent", &r.agent)?, before, r.limit).await?;
        Ok(pb::ListRevisionsResponse { revisions: revisions.into_iter().map(Into::into).collect() })
    }

    async fn diff_revisions(&self, r: pb::DiffRevisionsRequest) -> Result<pb::DiffRevisionsResponse> {
        let from = r.from.map(|f| parsed("from", &f)).transpose()?;
        let diff = self.0.diff_revisions(name("agent", &r.agent)?, from, parsed("to", &r.to)?).await?;
        Ok(diff.into())
    }

    async fn check_room(&self, r: pb::CheckRoomRequest) -> Result<pb::CheckRoomResponse> {
        self.0.check_room(name("agent", &r.agent)?).await?;
        Ok(pb::CheckRoomResponse {})
    }

    async fn stop_agent(&self, r: pb::StopAgentRequest) -> Result<pb::StopAgentResponse> {
        let agent = self.0.stop_agent(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::StopAgentResponse { agent: Some(agent.into()) })
    }

    async fn start_agent(&self, r: pb::StartAgentRequest) -> Result<pb::StartAgentResponse> {
        let agent = self.0.start_agent(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::StartAgentResponse { agent: Some(agent.into()) })
    }

    async fn restart_agent(&self, r: pb::RestartAgentRequest) -> Result<pb::RestartAgentResponse> {
        let agent = self.0.restart_agent(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::RestartAgentResponse { agent: Some(agent.into()) })
    }

    async fn switch_route(&self, r: pb::SwitchRouteRequest) -> Result<pb::SwitchRouteResponse> {
        let (agent, revision) = (name("agent", &r.agent)?, parsed("revision_id", &r.revision_id)?);
        let agent = self.0.switch_route(operation(r.operation)?, agent, revision).await?;
        Ok(pb::SwitchRouteResponse { agent: Some(agent.into()) })
    }

    async fn undo_start(&self, r: pb::UndoStartRequest) -> Result<pb::UndoStartResponse> {
        let started = parsed("started_operation_id", &r.started_operation_id)?;
        self.0.undo_start(started, name("agent", &r.agent)?, parsed("revision_id", &r.revision_id)?).await?;
        Ok(pb::UndoStartResponse {})
    }

    async fn bind_tool(&self, r: pb::BindToolRequest) -> Result<pb::BindToolResponse> {
        let tool = required("tool", r.tool)?.try_into()?;
        let replaces = (!r.replaces.is_empty()).then_some(r.replaces);
        let agents = self.0.bind_tool(operation(r.operation)?, tool, replaces).await?;
        Ok(pb::BindToolResponse { agents: agents.into_iter().map(Into::into).collect() })
    }

    async fn get_agent(&self, r: pb::GetAgentRequest) -> Result<pb::GetAgentResponse> {
        let agent = self.0.get_agent(name("name", &r.name)?).await?;
        Ok(pb::GetAgentResponse { agent: Some(agent.into()) })
    }

    async fn list_agents(&self, r: pb::ListAgentsRequest) -> Result<pb::ListAgentsResponse> {
        let Some(query) = page_query(&r.after, r.limit)? else {
            let agents = page::of_agents(&*self.0, |agent| Some(agent.into())).await?;
            return Ok(pb::ListAgentsResponse { agents, more: false });
        };
        let Page { items, more } = self.0.list_agents(query).await?;
        let (agents, more) = part(items, more);
        Ok(pb::ListAgentsResponse { agents, more })
    }

    async fn list_images_in_use(&self, _: pb::ListImagesInUseRequest) -> Result<pb::ListImagesInUseResponse> {
        let images = self.0.images_in_use().await?;
        Ok(pb::ListImagesInUseResponse { images: images.into_iter().map(Into::into).collect() })
    }

    async fn delete_agent(&self, r: pb::DeleteAgentRequest) -> Result<pb::DeleteAgentResponse> {
        self.0.delete_agent(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::DeleteAgentResponse {})
    }

    async fn get_agent_logs(&self, r: pb::GetAgentLogsRequest) -> Result<pb::GetAgentLogsResponse> {
        let query = LogQuery { tail: r.tail, ..LogQuery::default() };
        let lines = log_collect::texts(self.0.agent_logs(name("name", &r.name)?, query).await?).await?;
        Ok(pb::GetAgentLogsResponse { lines })
    }

    async fn get_agent_metrics(&self, _: pb::GetAgentMetricsRequest) -> Result<pb::GetAgentMetricsResponse> {
        Ok(pb::GetAgentMetricsResponse { metrics: Some(self.0.agent_metrics().await?.into()) })
    }

    async fn ack_routes(&self, r: pb::AckRoutesRequest) -> Result<pb::AckRoutesResponse> {
        self.0.ack_routes(r.watcher, r.version).await?;
        Ok(pb::AckRoutesResponse {})
    }

    async fn report_idle(&self, r: pb::ReportIdleRequest) -> Result<pb::ReportIdleResponse> {
        let instance = parsed("instance_id", &r.instance_id)?;
        self.0.report_idle(r.watcher, name("agent", &r.agent)?, instance, r.in_use).await?;
        Ok(pb::ReportIdleResponse {})
    }

    async fn wake_agent(&self, r: pb::WakeAgentRequest) -> Result<pb::WakeAgentResponse> {
        self.0.wake_agent(name("name", &r.name)?).await?;
        Ok(pb::WakeAgentResponse {})
    }

    async fn get_runtime(&self, _: pb::GetRuntimeRequest) -> Result<pb::GetRuntimeResponse> {
        self.0.runtime().await.map(Into::into)
    }
}

/// One generated method for each of the above: the message out of its envelope, the answer or the status into one.
macro_rules! rpcs {
    ($($method:ident: $request:ident => $response:ident,)*) => {
        #[async_trait]
        impl Service for GrpcAgentService {
            type WatchRoutesStream = Answers<pb::WatchRoutesResponse>;
            type WatchAgentEventsStream = Answers<pb::WatchAgentEventsResponse>;
            type StreamAgentLogsStream = Answers<pb::StreamAgentLogsResponse>;

            async fn watch_agent_events(
                &self,
                request: Request<pb::WatchAgentEventsRequest>,
            ) -> Result<Response<Self::WatchAgentEventsStream>, Status> {
                let after = request.into_inner().after.map(Into::into);
                let events = self.0.agent_events(after).await.map_err(to_status)?;
                Ok(Response::new(Box::pin(events.map(|event| event.map(Into::into).map_err(to_status)))))
            }

            async fn stream_agent_logs(
                &self,
                request: Request<pb::StreamAgentLogsRequest>,
            ) -> Result<Response<Self::StreamAgentLogsStream>, Status> {
                let pb::StreamAgentLogsRequest { name: agent, query } = request.into_inner();
                let agent = name("name", &agent).map_err(to_status)?;
                let query = query.unwrap_or_default().try_into().map_err(to_status)?;
                let pieces = self.0.agent_logs(agent, query).await.map_err(to_status)?;
                let answer = |piece: LogPiece| pb::StreamAgentLogsResponse { piece: Some(piece.into()) };
                Ok(Response::new(Box::pin(pieces.map(move |piece| piece.map(answer).map_err(to_status)))))
            }

            async fn watch_routes(
                &self,
                request: Request<pb::WatchRoutesRequest>,
            ) -> Result<Response<Self::WatchRoutesStream>, Status> {
                let routes = self.0.watch_routes(request.into_inner().watcher).await.map_err(to_status)?;
                Ok(Response::new(Box::pin(routes.map(|route| route.map(Into::into).map_err(to_status)))))
            }

            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    GrpcAgentService::$method(self, request.into_inner()).await.map(Response::new).map_err(to_status)
                }
            )*
        }
    };
}

rpcs! {
    resolve_image: ResolveImageRequest => ResolveImageResponse,
    start_revision: StartRevisionRequest => StartRevisionResponse,
    derive_revision: DeriveRevisionRequest => DeriveRevisionResponse,
    switch_route: SwitchRouteRequest => SwitchRouteResponse,
    undo_start: UndoStartRequest => UndoStartResponse,
    bind_tool: BindToolRequest => BindToolResponse,
    get_agent: GetAgentRequest => GetAgentResponse,
    list_agents: ListAgentsRequest => ListAgentsResponse,
    delete_agent: DeleteAgentRequest => DeleteAgentResponse,
    get_agent_logs: GetAgentLogsRequest => GetAgentLogsResponse,
    get_agent_metrics: GetAgentMetricsRequest => GetAgentMetricsResponse,
    ack_routes: AckRoutesRequest => AckRoutesResponse,
    get_revision: GetRevisionRequest => GetRevisionResponse,
    list_revisions: ListRevisionsRequest => ListRevisionsResponse,
    diff_revisions: DiffRevisionsRequest => DiffRevisionsResponse,
    list_images_in_use: ListImagesInUseRequest => ListImagesInUseResponse,
    check_room: CheckRoomRequest => CheckRoomResponse,
    stop_agent: StopAgentRequest => StopAgentResponse,
    start_agent: StartAgentRequest => StartAgentResponse,
    restart_agent: RestartAgentRequest => RestartAgentResponse,
    report_idle: ReportIdleRequest => ReportIdleResponse,
    wake_agent: WakeAgentRequest => WakeAgentResponse,
    get_runtime: GetRuntimeRequest => GetRuntimeResponse,
}
