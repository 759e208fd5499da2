//! The gRPC face: messages to records, the call, records to messages. No decision is taken here.

use futures_util::{Stream, StreamExt};
use hoistway_kit::grpc::{MAX_MESSAGE, to_status};
use hoistway_model::{
    Operation, OperationId, Result, ToolCredentials, ToolRegistry,
    page::{self, Page},
    tool::{ToolPlan, ToolUpdate},
};
use hoistway_proto::{
    common::v1 as common,
    convert::{
        name, page_query, parsed, part, required,
        tools::{new_provider, secrets},
    },
    tools::v1::{
        self as pb,
        tool_credential_service_server::{ToolCredentialService, ToolCredentialServiceServer},
        tool_registry_service_server::{ToolRegistryService as Service, ToolRegistryServiceServer},
    },
};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status, async_trait};

/// Any tool registry as the generated server sees it.
#[derive(Debug, Clone)]
pub struct GrpcToolRegistry(Arc<dyn ToolRegistry>);

/// The generated server over `registry`.
pub(crate) fn server(registry: Arc<dyn ToolRegistry>) -> ToolRegistryServiceServer<GrpcToolRegistry> {
    ToolRegistryServiceServer::new(GrpcToolRegistry(registry))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// The service for credentials, as the generated server sees it.
#[derive(Debug, Clone)]
pub struct GrpcToolCredentials(Arc<dyn ToolCredentials>);

/// The generated server over `credentials`.
pub(crate) fn credentials_server(
    credentials: Arc<dyn ToolCredentials>,
) -> ToolCredentialServiceServer<GrpcToolCredentials> {
    ToolCredentialServiceServer::new(GrpcToolCredentials(credentials)).max_encoding_message_size(MAX_MESSAGE)
}

#[async_trait]
impl ToolCredentialService for GrpcToolCredentials {
    type WatchToolsStream = Pin<Box<dyn Stream<Item = Result<pb::WatchToolsResponse, Status>> + Send>>;

    async fn watch_tools(&self, _: Request<pb::WatchToolsRequest>) -> Result<Response<Self::WatchToolsStream>, Status> {
        let updates = self.0.watch_tools().await.map_err(to_status)?;
        Ok(Response::new(Box::pin(updates.map(|update| update.map(Into::into).map_err(to_status)))))
    }

    type WatchModelProvidersStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchModelProvidersResponse, Status>> + Send>>;

    async fn watch_model_providers(
        &self,
        _: Request<pb::WatchModelProvidersRequest>,
    ) -> Result<Response<Self::WatchModelProvidersStream>, Status> {
        let updates = self.0.watch_model_providers().await.map_err(to_status)?;
        Ok(Response::new(Box::pin(updates.map(|update| update.map(Into::into).map_err(to_status)))))
    }
}

fn operation(message: Option<common::Operation>) -> Result<Operation> {
    required("operation", message)?.try_into()
}

fn plan(message: Option<pb::ToolPlan>) -> Result<ToolPlan> {
    required("plan", message)?.try_into()
}

fn applied(text: &str) -> Result<OperationId> {
    parsed("applied_operation_id", text)
}

impl GrpcToolRegistry {
    async fn resolve(&self, r: pb::ResolveRequest) -> Result<pb::ResolveResponse> {
        let identity_provider = match r.identity_provider.as_str() {
            "" => None,
            text => Some(name("identity_provider", text)?),
        };
        Ok(self.0.resolve(plan(r.plan)?, r.providers, identity_provider).await?.into())
    }

    async fn apply_tools(&self, r: pb::ApplyToolsRequest) -> Result<pb::ApplyToolsResponse> {
        Ok(self.0.apply_tools(operation(r.operation)?, plan(r.plan)?).await?.into())
    }

    async fn settle_tools(&self, r: pb::SettleToolsRequest) -> Result<pb::SettleToolsResponse> {
        self.0.settle_tools(name("agent", &r.agent)?, applied(&r.applied_operation_id)?).await?;
        Ok(pb::SettleToolsResponse {})
    }

    async fn undo_tools(&self, r: pb::UndoToolsRequest) -> Result<pb::UndoToolsResponse> {
        self.0.undo_tools(applied(&r.applied_operation_id)?).await?;
        Ok(pb::UndoToolsResponse {})
    }

    async fn release_agent(&self, r: pb::ReleaseAgentRequest) -> Result<pb::ReleaseAgentResponse> {
        self.0.release_agent(operation(r.operation)?, name("agent", &r.agent)?).await?;
        Ok(pb::ReleaseAgentResponse {})
    }

    async fn list_bound_agents(&self, _: pb::ListBoundAgentsRequest) -> Result<pb::ListBoundAgentsResponse> {
        let agents = self.0.bound_agents().await?;
        Ok(pb::ListBoundAgentsResponse { agents: agents.into_iter().map(Into::into).collect() })
    }

    async fn create_tool(&self, r: pb::CreateToolRequest) -> Result<pb::CreateToolResponse> {
        let tool = required("tool", r.tool)?.try_into()?;
        let tool = self.0.create_tool(operation(r.operation)?, tool).await?;
        Ok(pb::CreateToolResponse { tool: Some(tool.into()) })
    }

    async fn get_tool(&self, r: pb::GetToolRequest) -> Result<pb::GetToolResponse> {
        let tool = self.0.get_tool(name("name", &r.name)?).await?;
        Ok(pb::GetToolResponse { tool: Some(tool.into()) })
    }

    async fn list_tools(&self, r: pb::ListToolsRequest) -> Result<pb::ListToolsResponse> {
        let Some(query) = page_query(&r.after, r.limit)? else {
            let tools = page::of_tools(&*self.0, |tool| Some(tool.into())).await?;
            return Ok(pb::ListToolsResponse { tools, more: false });
        };
        let Page { items, more } = self.0.list_tools(query).await?;
        let (tools, more) = part(items, more);
        Ok(pb::ListToolsResponse { tools, more })
    }

    async fn update_tool(&self, r: pb::UpdateToolRequest) -> Result<pb::UpdateToolResponse> {
        let version = match r.version.as_str() {
            "" => None,
            text => Some(parsed("version", text)?),
        };
        let update = ToolUpdate { tool: required("tool", r.tool)?.try_into()?, version };
        let tool = self.0.update_tool(operation(r.operation)?, update).await?;
        Ok(pb::UpdateToolResponse { tool: Some(tool.into()) })
    }

    async fn set_tool_credentials(&self, r: pb::SetToolCredentialsRequest) -> Result<pb::SetToolCredentialsResponse> {
        let credentials = secrets(r.credentials);
        let tool = self.0.set_tool_credentials(operation(r.operation)?, name("name", &r.name)?, credentials).await?;
        Ok(pb::SetToolCredentialsResponse { tool: Some(tool.into()) })
    }

    async fn delete_tool(&self, r: pb::DeleteToolRequest) -> Result<pb::DeleteToolResponse> {
        self.0.delete_tool(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::DeleteToolResponse {})
    }

    async fn create_model_provider(
        &self,
        r: pb::CreateModelProviderRequest,
    ) -> Result<pb::CreateModelProviderResponse> {
        let provider = new_provider(r.model_provider, r.credentials)?;
        let provider = self.0.create_model_provider(operation(r.operation)?, provider).await?;
        Ok(pb::CreateModelProviderResponse { model_provider: Some(provider.into()) })
    }

    async fn put_model_provider(&self, r: pb::PutModelProviderRequest) -> Result<pb::PutModelProviderResponse> {
        let provider = new_provider(r.model_provider, r.credentials)?;
        let put = self.0.put_model_provider(operation(r.operation)?, provider).await?;
        Ok(pb::PutModelProviderResponse { model_provider: Some(put.value.into()), created: put.created })
    }

    async fn set_model_provider_credentials(
        &self,
        r: pb::SetModelProviderCredentialsRequest,
    ) -> Result<pb::SetModelProviderCredentialsResponse> {
        let (name, credentials) = (name("name", &r.name)?, secrets(r.credentials));
        let provider = self.0.set_model_provider_credentials(operation(r.operation)?, name, credentials).await?;
        Ok(pb::SetModelProviderCredentialsResponse { model_provider: Some(provider.into()) })
    }

    async fn get_model_provider(&self, r: pb::GetModelProviderRequest) -> Result<pb::GetModelProviderResponse> {
        let provider = self.0.get_model_provider(name("name", &r.name)?).await?;
        Ok(pb::GetModelProviderResponse { model_provider: Some(provider.into()) })
    }

    async fn list_model_providers(&self, _: pb::ListModelProvidersRequest) -> Result<pb::ListModelProvidersResponse> {
        let providers = self.0.list_model_providers().await?;
        Ok(pb::ListModelProvidersResponse { model_providers: providers.into_iter().map(Into::into).collect() })
    }

    async fn delete_model_provider(
        &self,
        r: pb::DeleteModelProviderRequest,
    ) -> Result<pb::DeleteModelProviderResponse> {
        self.0.delete_model_provider(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::DeleteModelProviderResponse {})
    }

    async fn put_identity_provider(
        &self,
        r: pb::PutIdentityProviderRequest,
    ) -> Result<pb::PutIdentityProviderResponse> {
        let provider = required("identity_provider", r.identity_provider)?.try_into()?;
        let put = self.0.put_identity_provider(operation(r.operation)?, provider).await?;
        Ok(pb::PutIdentityProviderResponse { identity_provider: Some(put.value.into()), created: put.created })
    }

    async fn get_identity_provider(
        &self,
        r: pb::GetIdentityProviderRequest,
    ) -> Result<pb::GetIdentityProviderResponse> {
        let provider = self.0.get_identity_provider(name("name", &r.name)?).await?;
        Ok(pb::GetIdentityProviderResponse { identity_provider: Some(provider.into()) })
    }

    async fn list_identity_providers(
        &self,
        _: pb::ListIdentityProvidersRequest,
    ) -> Result<pb::ListIdentityProvidersResponse> {
        let providers = self.0.list_identity_providers().await?;
        Ok(pb::ListIdentityProvidersResponse { identity_providers: providers.into_iter().map(Into::into).collect() })
    }

    async fn delete_identity_provider(
        &self,
        r: pb::DeleteIdentityProviderRequest,
    ) -> Result<pb::DeleteIdentityProviderResponse> {
        self.0.delete_identity_provider(operation(r.operation)?, name("name", &r.name)?).await?;
        Ok(pb::DeleteIdentityProviderResponse {})
    }

    async fn seed_starter_kit(&self, r: pb::SeedStarterKitRequest) -> Result<pb::SeedStarterKitResponse> {
        self.0.seed_starter_kit(operation(r.operation)?).await?;
        Ok(pb::SeedStarterKitResponse {})
    }

    async fn get_tool_metrics(&self, _: pb::GetToolMetricsRequest) -> Result<pb::GetToolMetricsResponse> {
        Ok(pb::GetToolMetricsResponse { metrics: Some(self.0.tool_metrics().await?.into()) })
    }
}

/// One generated method for each of the above: the message out of its envelope, the answer or the status into one.
macro_rules! rpcs {
    ($($method:ident: $request:ident => $response:ident,)*) => {
        #[async_trait]
        impl Service for GrpcToolRegistry {
            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    GrpcToolRegistry::$method(self, request.into_inner()).await.map(Response::new).map_err(to_status)
                }
            )*
        }
    };
}

rpcs! {
    resolve: ResolveRequest => ResolveResponse,
    apply_tools: ApplyToolsRequest => ApplyToolsResponse,
    settle_tools: SettleToolsRequest => SettleToolsResponse,
    undo_tools: UndoToolsRequest => UndoToolsResponse,
    release_agent: ReleaseAgentRequest => ReleaseAgentResponse,
    list_bound_agents: ListBoundAgentsRequest => ListBoundAgentsResponse,
    create_tool: CreateToolRequest => CreateToolResponse,
    get_tool: GetToolRequest => GetToolResponse,
    list_tools: ListToolsRequest => ListToolsResponse,
    delete_tool: DeleteToolRequest => DeleteToolResponse,
    create_model_provider: CreateModelProviderRequest => CreateModelProviderResponse,
    get_model_provider: GetModelProviderRequest => GetModelProviderResponse,
    list_model_providers: ListModelProvidersRequest => ListModelProvidersResponse,
    delete_model_provider: DeleteModelProviderRequest => DeleteModelProviderResponse,
    update_tool: UpdateToolRequest => UpdateToolResponse,
    set_tool_credentials: SetToolCredentialsRequest => SetToolCredentialsResponse,
    put_model_provider: PutModelProviderRequest => PutModelProviderResponse,
    set_model_provider_credentials: SetModelProviderCredentialsRequest => SetModelProviderCredentialsResponse,
    put_identity_provider: PutIdentityProviderRequest => PutIdentityProviderResponse,
    get_identity_provider: GetIdentityProviderRequest => GetIdentityProviderResponse,
    list_identity_providers: ListIdentityProvidersRequest => ListIdentityProvidersResponse,
    delete_identity_provider: DeleteIdentityProviderRequest => DeleteIdentityProviderResponse,
    seed_starter_kit: SeedStarterKitRequest => SeedStarterKitResponse,
    get_tool_metrics: GetToolMetricsRequest => GetToolMetricsResponse,
}
