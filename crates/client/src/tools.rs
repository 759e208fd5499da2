use crate::{METRICS_DEADLINE, Transport, answer, member, with_deadline};
use async_trait::async_trait;
use hoistway_kit::grpc::MAX_MESSAGE;
use hoistway_model::{
    Name, Operation, OperationId, Result, Secret, ToolRegistry,
    metric::Metrics,
    page::{Page, PageQuery},
    tool::{
        AppliedTools, IdentityProvider, ModelProvider, NewModelProvider, NewTool, Resolved, Tool, ToolPlan, ToolUpdate,
        Upserted,
    },
};
use hoistway_proto::{
    convert::tools::{exposed, new_provider_message},
    tools::v1::{self as pb, tool_registry_service_client::ToolRegistryServiceClient},
};
use std::collections::BTreeMap;

/// The tool registry behind a transport.
#[derive(Debug, Clone)]
pub struct ToolRegistryClient(ToolRegistryServiceClient<Transport>);

impl ToolRegistryClient {
    /// Creates a client over `transport`, which connects on first use.
    pub fn new(transport: Transport) -> Self {
        Self(
            ToolRegistryServiceClient::new(transport)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
    }

    fn rpc(&self) -> ToolRegistryServiceClient<Transport> {
        self.0.clone()
    }
}

#[async_trait]
impl ToolRegistry for ToolRegistryClient {
    async fn resolve(
        &self,
        plan: ToolPlan,
        providers: Vec<String>,
        identity_provider: Option<Name>,
    ) -> Result<Resolved> {
        let identity_provider = identity_provider.map(Into::into).unwrap_or_default();
        let request = pb::ResolveRequest { plan: Some(plan.into()), providers, identity_provider };
        answer(self.rpc().resolve(request).await)?.try_into()
    }

    async fn apply_tools(&self, operation: Operation, plan: ToolPlan) -> Result<AppliedTools> {
        let request = pb::ApplyToolsRequest { operation: Some(operation.into()), plan: Some(plan.into()) };
        answer(self.rpc().apply_tools(request).await)?.try_into()
    }

    async fn settle_tools(&self, agent: Name, applied: OperationId) -> Result<()> {
        let request = pb::SettleToolsRequest { agent: agent.into(), applied_operation_id: applied.to_string() };
        answer(self.rpc().settle_tools(request).await).map(drop)
    }

    async fn undo_tools(&self, applied: OperationId) -> Result<()> {
        let request = pb::UndoToolsRequest { applied_operation_id: applied.to_string() };
        answer(self.rpc().undo_tools(request).await).map(drop)
    }

    async fn release_agent(&self, operation: Operation, agent: Name) -> Result<()> {
        let request = pb::ReleaseAgentRequest { operation: Some(operation.into()), agent: agent.into() };
        answer(self.rpc().release_agent(request).await).map(drop)
    }

    async fn bound_agents(&self) -> Result<Vec<Name>> {
        let response = answer(self.rpc().list_bound_agents(pb::ListBoundAgentsRequest {}).await)?;
        response.agents.iter().map(|a| hoistway_proto::convert::name("agents", a)).collect()
    }

    async fn create_tool(&self, operation: Operation, tool: NewTool) -> Result<Tool> {
        let request = pb::CreateToolRequest { operation: Some(operation.into()), tool: Some(tool.into()) };
        member("tool", answer(self.rpc().create_tool(request).await)?.tool)?.try_into()
    }

    async fn get_tool(&self, name: Name) -> Result<Tool> {
        let request = pb::GetToolRequest { name: name.into() };
        member("tool", answer(self.rpc().get_tool(request).await)?.tool)?.try_into()
    }

    async fn list_tools(&self, query: PageQuery) -> Result<Page<Tool>> {
        let PageQuery { after, limit } = query;
        let request = pb::ListToolsRequest { after: after.map(Into::into).unwrap_or_default(), limit };
        let response = answer(self.rpc().list_tools(request).await)?;
        Page { items: response.tools, more: response.more }.try_map(TryInto::try_into)
    }

    async fn update_tool(&self, operation: Operation, update: ToolUpdate) -> Result<Tool> {
        let request = pb::UpdateToolRequest {
            operation: Some(operation.into()),
            tool: Some(update.tool.into()),
            version: update.version.map(|v| v.to_string()).unwrap_or_default(),
        };
        member("tool", answer(self.rpc().update_tool(request).await)?.tool)?.try_into()
    }

    async fn set_tool_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<Tool> {
        let request = pb::SetToolCredentialsRequest {
            operation: Some(operation.into()),
            name: name.into(),
            credentials: exposed(credentials),
        };
        member("tool", answer(self.rpc().set_tool_credentials(request).await)?.tool)?.try_into()
    }

    async fn delete_tool(&self, operation: Operation, name: Name) -> Result<()> {
        let request = pb::DeleteToolRequest { operation: Some(operation.into()), name: name.into() };
        answer(self.rpc().delete_tool(request).await).map(drop)
    }

    async fn create_model_provider(&self, operation: Operation, provider: NewModelProvider) -> Result<ModelProvider> {
        let (provider, credentials) = new_provider_message(provider);
        let request = pb::CreateModelProviderRequest {
            operation: Some(operation.into()),
            model_provider: Some(provider),
            credentials,
        };
        let response = answer(self.rpc().create_model_provider(request).await)?;
        member("model_provider", response.model_provider)?.try_into()
    }

    async fn put_model_provider(
        &self,
        operation: Operation,
        provider: NewModelProvider,
    ) -> Result<Upserted<ModelProvider>> {
        let (provider, credentials) = new_provider_message(provider);
        let request = pb::PutModelProviderRequest {
            operation: Some(operation.into()),
            model_provider: Some(provider),
            credentials,
        };
        let response = answer(self.rpc().put_model_provider(request).await)?;
        let value = member("model_provider", response.model_provider)?.try_into()?;
        Ok(Upserted { value, created: response.created })
    }

    async fn set_model_provider_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<ModelProvider> {
        let request = pb::SetModelProviderCredentialsRequest {
            operation: Some(operation.into()),
            name: name.into(),
            credentials: exposed(credentials),
        };
        let response = answer(self.rpc().set_model_provider_credentials(request).await)?;
        member("model_provider", response.model_provider)?.try_into()
    }

    async fn get_model_provider(&self, name: Name) -> Result<ModelProvider> {
        let request = pb::GetModelProviderRequest { name: name.into() };
        member("model_provider", answer(self.rpc().get_model_provider(request).await)?.model_provider)?.try_into()
    }

    async fn list_model_providers(&self) -> Result<Vec<ModelProvider>> {
        let response = answer(self.rpc().list_model_providers(pb::ListModelProvidersRequest {}).await)?;
        response.model_providers.into_iter().map(TryInto::try_into).collect()
    }

    async fn delete_model_provider(&self, operation: Operation, name: Name) -> Result<()> {
        let request = pb::DeleteModelProviderRequest { operation: Some(operation.into()), name: name.into() };
        answer(self.rpc().delete_model_provider(request).await).map(drop)
    }

    async fn put_identity_provider(
        &self,
        operation: Operation,
        provider: IdentityProvider,
    ) -> Result<Upserted<IdentityProvider>> {
        let request = pb::PutIdentityProviderRequest {
            operation: Some(operation.into()),
            identity_provider: Some(provider.into()),
        };
        let response = answer(self.rpc().put_identity_provider(request).await)?;
        let value = member("identity_provider", response.identity_provider)?.try_into()?;
        Ok(Upserted { value, created: response.created })
    }

    async fn get_identity_provider(&self, name: Name) -> Result<IdentityProvider> {
        let request = pb::GetIdentityProviderRequest { name: name.into() };
        let response = answer(self.rpc().get_identity_provider(request).await)?;
        member("identity_provider", response.identity_provider)?.try_into()
    }

    async fn list_identity_providers(&self) -> Result<Vec<IdentityProvider>> {
        let response = answer(self.rpc().list_identity_providers(pb::ListIdentityProvidersRequest {}).await)?;
        response.identity_providers.into_iter().map(TryInto::try_into).collect()
    }

    async fn delete_identity_provider(&self, operation: Operation, name: Name) -> Result<()> {
        let request = pb::DeleteIdentityProviderRequest { operation: Some(operation.into()), name: name.into() };
        answer(self.rpc().delete_identity_provider(request).await).map(drop)
    }

    async fn seed_starter_kit(&self, operation: Operation) -> Result<()> {
        let request = pb::SeedStarterKitRequest { operation: Some(operation.into()) };
        answer(self.rpc().seed_starter_kit(request).await).map(drop)
    }

    async fn tool_metrics(&self) -> Result<Metrics> {
        let request = with_deadline(pb::GetToolMetricsRequest {}, METRICS_DEADLINE);
        member("metrics", answer(self.rpc().get_tool_metrics(request).await)?.metrics)?.try_into()
    }
}
