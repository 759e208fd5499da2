//! The gRPC side: messages to records, the call, records to messages. No decision is taken here.

use futures_util::{Stream, StreamExt};
use hoistway_kit::grpc::{MAX_MESSAGE, to_status};
use hoistway_model::EgressService;
use hoistway_proto::{
    convert::name,
    egress::v1::{
        self as pb,
        egress_service_server::{EgressService as Service, EgressServiceServer},
    },
};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status, async_trait};

/// Any egress as the generated server sees it.
#[derive(Debug, Clone)]
pub struct GrpcEgressService(Arc<dyn EgressService>);

/// The generated server over `egress`.
pub(crate) fn server(egress: Arc<dyn EgressService>) -> EgressServiceServer<GrpcEgressService> {
    EgressServiceServer::new(GrpcEgressService(egress))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

#[async_trait]
impl Service for GrpcEgressService {
    type WatchCallsStream = Pin<Box<dyn Stream<Item = Result<pb::WatchCallsResponse, Status>> + Send>>;

    async fn get_egress_status(
        &self,
        _: Request<pb::GetEgressStatusRequest>,
    ) -> Result<Response<pb::GetEgressStatusResponse>, Status> {
        let status = self.0.status().await.map_err(to_status)?;
        Ok(Response::new(status.into()))
    }

    async fn get_authority(
        &self,
        _: Request<pb::GetAuthorityRequest>,
    ) -> Result<Response<pb::GetAuthorityResponse>, Status> {
        let certificate = self.0.authority().await.map_err(to_status)?;
        Ok(Response::new(pb::GetAuthorityResponse { certificate }))
    }

    async fn list_calls(
        &self,
        request: Request<pb::ListCallsRequest>,
    ) -> Result<Response<pb::ListCallsResponse>, Status> {
        let query = request.into_inner().try_into().map_err(to_status)?;
        let calls = self.0.calls(query).await.map_err(to_status)?;
        Ok(Response::new(pb::ListCallsResponse { calls: calls.into_iter().map(Into::into).collect() }))
    }

    async fn watch_calls(
        &self,
        request: Request<pb::WatchCallsRequest>,
    ) -> Result<Response<Self::WatchCallsStream>, Status> {
        let calls = self.0.watch_calls(request.into_inner().after).await.map_err(to_status)?;
        Ok(Response::new(Box::pin(calls.map(|update| update.map(Into::into).map_err(to_status)))))
    }

    async fn get_usage(&self, request: Request<pb::GetUsageRequest>) -> Result<Response<pb::GetUsageResponse>, Status> {
        let query = request.into_inner().try_into().map_err(to_status)?;
        let report = self.0.usage(query).await.map_err(to_status)?;
        Ok(Response::new(report.into()))
    }

    async fn get_budget(
        &self,
        request: Request<pb::GetBudgetRequest>,
    ) -> Result<Response<pb::GetBudgetResponse>, Status> {
        let agent = name("agent", &request.into_inner().agent).map_err(to_status)?;
        let budget = self.0.budget(agent).await.map_err(to_status)?;
        Ok(Response::new(budget.into()))
    }

    async fn set_budget(
        &self,
        request: Request<pb::SetBudgetRequest>,
    ) -> Result<Response<pb::SetBudgetResponse>, Status> {
        let (agent, budget) = request.into_inner().try_into().map_err(to_status)?;
        self.0.set_budget(agent, budget).await.map_err(to_status)?;
        Ok(Response::new(pb::SetBudgetResponse {}))
    }

    async fn check_tool(
        &self,
        request: Request<pb::CheckToolRequest>,
    ) -> Result<Response<pb::CheckToolResponse>, Status> {
        let tool = name("tool", &request.into_inner().tool).map_err(to_status)?;
        let check = self.0.check_tool(tool).await.map_err(to_status)?;
        Ok(Response::new(check.into()))
    }

    async fn check_model_provider(
        &self,
        request: Request<pb::CheckModelProviderRequest>,
    ) -> Result<Response<pb::CheckModelProviderResponse>, Status> {
        let provider = name("model_provider", &request.into_inner().model_provider).map_err(to_status)?;
        let check = self.0.check_model_provider(provider).await.map_err(to_status)?;
        Ok(Response::new(check.into()))
    }

    async fn get_egress_metrics(
        &self,
        _: Request<pb::GetEgressMetricsRequest>,
    ) -> Result<Response<pb::GetEgressMetricsResponse>, Status> {
        let metrics = self.0.egress_metrics().await.map_err(to_status)?;
        Ok(Response::new(pb::GetEgressMetricsResponse { metrics: Some(metrics.into()) }))
    }
}
