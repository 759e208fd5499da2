//! The tool registry.

use super::{
    AppliedTools, IdentityProvider, ModelProvider, NewModelProvider, NewTool, Resolved, Tool, ToolPlan, ToolUpdate,
    Upserted,
};
use crate::{
    Name, Operation, OperationId, Result, Secret,
    metric::Metrics,
    page::{Page, PageQuery},
};
use async_trait::async_trait;
use std::{collections::BTreeMap, fmt};

/// The tool registry: tools, model and identity providers, and the tools of each agent.
///
/// Every mutating call is idempotent by its [`Operation`].
#[async_trait]
pub trait ToolRegistry: fmt::Debug + Send + Sync + 'static {
    /// Looks up all names in a deploy and returns the effects of [`Self::apply_tools`]. A tool whose endpoint or auth
    /// differs, and that another agent uses or that has credentials, is [`crate::Code::Conflict`] with a message
    /// beginning `failed to create tool "NAME": `.
    async fn resolve(
        &self,
        plan: ToolPlan,
        providers: Vec<String>,
        identity_provider: Option<Name>,
    ) -> Result<Resolved>;

    /// Creates and updates the plan's tools and binds the agent to `bind`, all or nothing. Earlier bindings of the
    /// agent stay until [`Self::settle_tools`]. Conflicts as in [`Self::resolve`].
    async fn apply_tools(&self, operation: Operation, plan: ToolPlan) -> Result<AppliedTools>;

    /// Removes the agent's bindings but those that the operation `applied` wrote, after the deploy's point of no
    /// return.
    async fn settle_tools(&self, agent: Name, applied: OperationId) -> Result<()>;

    /// Reverts the operation `applied`: its bindings, updates that were not changed since, and created tools that no
    /// other agent has bound since. An unknown operation is prevented from happening later.
    async fn undo_tools(&self, applied: OperationId) -> Result<()>;

    /// Drops the bindings of a deleted agent, except those of a deploy that is not settled yet.
    async fn release_agent(&self, operation: Operation, agent: Name) -> Result<()>;

    /// Returns the agents that have settled bindings, by name.
    async fn bound_agents(&self) -> Result<Vec<Name>>;

    /// Registers one tool. The same tool again is a no-op; another tool of that name is [`crate::Code::Conflict`].
    async fn create_tool(&self, operation: Operation, tool: NewTool) -> Result<Tool>;

    /// Returns one tool.
    async fn get_tool(&self, name: Name) -> Result<Tool>;

    /// Lists tools by name, one page at a time.
    async fn list_tools(&self, query: PageQuery) -> Result<Page<Tool>>;

    /// Changes an existing tool, whether or not agents use it. An update that would send the stored credentials to
    /// another host, or use them as another kind of credential, is [`crate::Code::Conflict`]; so is one whose own
    /// credentials do not fit.
    async fn update_tool(&self, operation: Operation, update: ToolUpdate) -> Result<Tool>;

    /// Replaces a tool's credentials. An empty set removes the stored ones, and is [`crate::Code::NotFound`] when there
    /// are none.
    async fn set_tool_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<Tool>;

    /// Deletes a tool; one in use is [`crate::Code::Conflict`] naming the agents.
    async fn delete_tool(&self, operation: Operation, name: Name) -> Result<()>;

    /// Registers a model provider. The same again is a no-op, which may add credentials; another one of that name is a
    /// conflict.
    async fn create_model_provider(&self, operation: Operation, provider: NewModelProvider) -> Result<ModelProvider>;

    /// Registers a model provider, replacing any of the same name. Stored credentials stay if none are sent, subject to
    /// the rule of [`Self::update_tool`].
    async fn put_model_provider(
        &self,
        operation: Operation,
        provider: NewModelProvider,
    ) -> Result<Upserted<ModelProvider>>;

    /// Replaces credentials as [`Self::set_tool_credentials`] does.
    async fn set_model_provider_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<ModelProvider>;

    /// Returns one model provider.
    async fn get_model_provider(&self, name: Name) -> Result<ModelProvider>;

    /// Lists all model providers by name.
    async fn list_model_providers(&self) -> Result<Vec<ModelProvider>>;

    /// Deletes a model provider.
    async fn delete_model_provider(&self, operation: Operation, name: Name) -> Result<()>;

    /// Registers an identity provider, replacing any of the same name.
    async fn put_identity_provider(
        &self,
        operation: Operation,
        provider: IdentityProvider,
    ) -> Result<Upserted<IdentityProvider>>;

    /// Returns one identity provider.
    async fn get_identity_provider(&self, name: Name) -> Result<IdentityProvider>;

    /// Lists all identity providers by name.
    async fn list_identity_providers(&self) -> Result<Vec<IdentityProvider>>;

    /// Deletes an identity provider.
    async fn delete_identity_provider(&self, operation: Operation, name: Name) -> Result<()>;

    /// Creates `echo-tool` and `playground-llm` if they do not exist; existing ones are left unchanged.
    async fn seed_starter_kit(&self, operation: Operation) -> Result<()>;

    /// Returns the metrics of the service since its start.
    async fn tool_metrics(&self) -> Result<Metrics>;
}
