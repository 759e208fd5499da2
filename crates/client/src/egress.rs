use crate::{METRICS_DEADLINE, Transport, answer, member, with_deadline};
use async_trait::async_trait;
use futures_util::StreamExt;
use hoistway_kit::grpc::{MAX_MESSAGE, status};
use hoistway_model::{
    AgentIdentities, EgressService, Name, Result, RevisionId, ToolCredentials,
    budget::{Budget, BudgetUse},
    egress::{
        AgentIdentity, Call, CallQuery, CallUpdates, Check, EgressStatus, ModelProviderAccess, RefusedCall, ToolAccess,
    },
    metric::Metrics,
    usage::{UsageQuery, UsageReport},
    watch::Updates,
};
use hoistway_proto::{
    agents::v1::{self as agents, agent_identity_service_client::AgentIdentityServiceClient},
    egress::v1::{self as pb, egress_service_client::EgressServiceClient},
    tools::v1::{self as tools, tool_credential_service_client::ToolCredentialServiceClient},
};

/// The part of the tool registry that returns credentials, behind a transport with the token of egress.
#[derive(Debug, Clone)]
pub struct ToolCredentialsClient(ToolCredentialServiceClient<Transport>);

impl ToolCredentialsClient {
    /// Creates a client over `transport`, which connects on first use.
    pub fn new(transport: Transport) -> Self {
        Self(ToolCredentialServiceClient::new(transport).max_decoding_message_size(MAX_MESSAGE))
    }
}

#[async_trait]
impl ToolCredentials for ToolCredentialsClient {
    async fn watch_tools(&self) -> Result<Updates<Name, ToolAccess>> {
        let stream = answer(self.0.clone().watch_tools(tools::WatchToolsRequest {}).await)?;
        Ok(Box::pin(stream.map(|item| item.map_err(status::from_status)?.try_into())))
    }

    async fn watch_model_providers(&self) -> Result<Updates<Name, ModelProviderAccess>> {
        let stream = answer(self.0.clone().watch_model_providers(tools::WatchModelProvidersRequest {}).await)?;
        Ok(Box::pin(stream.map(|item| item.map_err(status::from_status)?.try_into())))
    }
}

/// The part of the agent service that determines whose calls egress accepts, behind a transport.
#[derive(Debug, Clone)]
pub struct AgentIdentitiesClient(AgentIdentityServiceClient<Transport>);

impl AgentIdentitiesClient {
    /// Creates a client over `transport`, which connects on first use.
    pub fn new(transport: Transport) -> Self {
        Self(AgentIdentityServiceClient::new(transport).max_decoding_message_size(MAX_MESSAGE))
    }
}

#[async_trait]
impl AgentIdentities for AgentIdentitiesClient {
    async fn watch_identities(&self) -> Result<Updates<RevisionId, AgentIdentity>> {
        let stream = answer(self.0.clone().watch_identities(agents::WatchIdentitiesRequest {}).await)?;
        Ok(Box::pin(stream.map(|item| item.map_err(status::from_status)?.try_into())))
    }

    async fn log_refused_calls(&self, calls: Vec<RefusedCall>) -> Result<()> {
        let calls = calls.into_iter().map(Into::into).collect();
        answer(self.0.clone().log_refused_calls(agents::LogRefusedCallsRequest { calls }).await).map(drop)
    }
}

/// Egress behind a transport.
#[derive(Debug, Clone)]
pub struct EgressClient(EgressServiceClient<Transport>);

impl EgressClient {
    /// Creates a client over `transport`, which connects on first use.
    pub fn new(transport: Transport) -> Self {
        Self(EgressServiceClient::new(transport).max_decoding_message_size(MAX_MESSAGE))
    }
}

#[async_trait]
impl EgressService for EgressClient {
    async fn status(&self) -> Result<EgressStatus> {
        let request = with_deadline(pb::GetEgressStatusRequest {}, METRICS_DEADLINE);
        answer(self.0.clone().get_egress_status(request).await)?.try_into()
    }

    async fn authority(&self) -> Result<String> {
        Ok(answer(self.0.clone().get_authority(pb::GetAuthorityRequest {}).await)?.certificate)
    }

    async fn calls(&self, query: CallQuery) -> Result<Vec<Call>> {
        let request = pb::ListCallsRequest::from(query);
        let response = answer(self.0.clone().list_calls(request).await)?;
        response.calls.into_iter().map(TryInto::try_into).collect()
    }

    async fn watch_calls(&self, after: Option<u64>) -> Result<CallUpdates> {
        let stream = answer(self.0.clone().watch_calls(pb::WatchCallsRequest { after }).await)?;
        Ok(Box::pin(stream.map(|item| item.map_err(status::from_status)?.try_into())))
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsageReport> {
        answer(self.0.clone().get_usage(pb::GetUsageRequest::from(query)).await)?.try_into()
    }

    async fn budget(&self, agent: Name) -> Result<Option<BudgetUse>> {
        answer(self.0.clone().get_budget(pb::GetBudgetRequest { agent: agent.into() }).await)?.try_into()
    }

    async fn set_budget(&self, agent: Name, budget: Option<Budget>) -> Result<()> {
        answer(self.0.clone().set_budget(pb::SetBudgetRequest::from((agent, budget))).await).map(drop)
    }

    async fn check_tool(&self, name: Name) -> Result<Check> {
        answer(self.0.clone().check_tool(pb::CheckToolRequest { tool: name.into() }).await)?.try_into()
    }

    async fn check_model_provider(&self, name: Name) -> Result<Check> {
        let request = pb::CheckModelProviderRequest { model_provider: name.into() };
        answer(self.0.clone().check_model_provider(request).await)?.try_into()
    }

    async fn egress_metrics(&self) -> Result<Metrics> {
        let request = with_deadline(pb::GetEgressMetricsRequest {}, METRICS_DEADLINE);
        member("metrics", answer(self.0.clone().get_egress_metrics(request).await)?.metrics)?.try_into()
    }
}
