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

/// The tool registry: tools, model and identity providers, and which agent uses which tool.
///
/// Every mutating call is idempotent by its [`Operation`].
#[async_trait]
pub trait ToolRegistry: fmt::Debug + Send + Sync + 'static {
    /// Looks up everything that a deploy names and says what [`Self::apply_tools`] would do. A tool whose endpoint or
    /// auth differs, and that another agent uses or that holds credentials, is [`crate::Code::Conflict`] with a
    /// message beginning `failed to create tool "NAME": `.
    async fn resolve(
        &self,
        plan: ToolPlan,
        providers: Vec<String>,
        identity_provider: Option<Name>,
    ) -> Result<Resolved>;

    /// Creates and updates the plan's tools and binds the agent to `bind`, all or nothing. Earlier bindings of the
    /// agent stay until [`Self::settle_tools`]. Conflicts as in [`Self::resolve`].
    async fn apply_tools(&self, operation: Operation, plan: ToolPlan) -> Result<AppliedTools>;

    /// After the deploy's point of no return: the agent keeps only the bindings that the operation `applied` wrote.
    async fn settle_tools(&self, agent: Name, applied: OperationId) -> Result<()>;

    /// Takes back what the operation `applied` did: its bindings, updates nobody has changed since, and the tools it
    /// created that nobody else has bound since. An operation never seen is kept from happening later.
    async fn undo_tools(&self, applied: OperationId) -> Result<()>;

    /// Drops the bindings of a deleted agent; those of a deploy that is not settled yet are that deploy's.
    async fn release_agent(&self, operation: Operation, agent: Name) -> Result<()>;

    /// The agents that have settled bindings, by name.
    async fn bound_agents(&self) -> Result<Vec<Name>>;

    /// Registers one tool. The same tool again is a no-op; another tool of that name is [`crate::Code::Conflict`].
    async fn create_tool(&self, operation: Operation, tool: NewTool) -> Result<Tool>;

    /// One tool.
    async fn get_tool(&self, name: Name) -> Result<Tool>;

    /// Tools by name, a part at a time.
    async fn list_tools(&self, query: PageQuery) -> Result<Page<Tool>>;

    /// Changes a tool that exists, agents that use it or not. An update that would send the stored credentials to
    /// another host, or make another kind of credential of them, is [`crate::Code::Conflict`]; so is one whose own
    /// credentials do not fit.
    async fn update_tool(&self, operation: Operation, update: ToolUpdate) -> Result<Tool>;

    /// Stores a tool's credentials in the place of others. None: takes those that are stored away, and
    /// [`crate::Code::NotFound`] when there are none.
    async fn set_tool_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<Tool>;

    /// Deletes a tool; one in use is [`crate::Code::Conflict`] naming the agents.
    async fn delete_tool(&self, operation: Operation, name: Name) -> Result<()>;

    /// Registers a model provider. The same again is a no-op, which may add credentials; another one of that name is
    /// a conflict.
    async fn create_model_provider(&self, operation: Operation, provider: NewModelProvider) -> Result<ModelProvider>;

    /// Registers a model provider in the place of what has its name. Stored credentials stay if none are given, and
    /// for them the rule of [`Self::update_tool`] holds.
    async fn put_model_provider(
        &self,
        operation: Operation,
        provider: NewModelProvider,
    ) -> Result<Upserted<ModelProvider>>;

    /// As [`Self::set_tool_credentials`].
    async fn set_model_provider_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<ModelProvider>;

    /// One model provider.
    async fn get_model_provider(&self, name: Name) -> Result<ModelProvider>;

    /// All model providers by name.
    async fn list_model_providers(&self) -> Result<Vec<ModelProvider>>;

    /// Deletes a model provider.
    async fn delete_model_provider(&self, operation: Operation, name: Name) -> Result<()>;

    /// Registers an identity provider in the place of what has its name.
    async fn put_identity_provider(
        &self,
        operation: Operation,
        provider: IdentityProvider,
    ) -> Result<Upserted<IdentityProvider>>;

    /// One identity provider.
    async fn get_identity_provider(&self, name: Name) -> Result<IdentityProvider>;

    /// All identity providers by name.
    async fn list_identity_providers(&self) -> Result<Vec<IdentityProvider>>;

    /// Deletes an identity provider.
    async fn delete_identity_provider(&self, operation: Operation, name: Name) -> Result<()>;

    /// Makes sure that `echo-tool` and `playground-llm` exist; what exists already is left as it is.
    async fn seed_starter_kit(&self, operation: Operation) -> Result<()>;

    /// What the service measured since it started.
    async fn tool_metrics(&self) -> Result<Metrics>;
}
