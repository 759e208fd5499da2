//! The tool registry itself: it checks its arguments, and the store does the rest.

use crate::{
    config::{Config, SERVICE},
    echo_url::Addresses,
    store::Store,
    validation::{
        at_most, check_description, check_identity, check_plan, check_provider, check_tool, provider_fits, shapes,
        tool_fits,
    },
    vault::Vault,
};
use async_trait::async_trait;
use hoistway_kit::{fs::DirLock, metrics, probes::ReadyCheck, process_metrics, prune::Retention, secrets::MasterKey};
use hoistway_model::{
    Error, Name, Operation, OperationId, Result, Secret, ToolCredentials, ToolRegistry,
    egress::{ModelProviderAccess, ToolAccess},
    limits::MAX_MEMBERS,
    metric::{Kind, Metrics},
    page::{Page, PageQuery},
    tool::{
        AppliedTools, DEMO_LABEL, IdentityProvider, ModelProvider, NewModelProvider, NewTool, Resolved, Tool, ToolPlan,
        ToolUpdate, Upserted,
    },
    watch::Updates,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The tool registry over its database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ToolRegistryService {
    store: Store,
    addresses: Addresses,
    keep: Retention,
    tidy_every: Duration,
    /// Ends those who follow; calls are drained after that.
    closing: CancellationToken,
    _lock: Arc<DirLock>,
}

impl ToolRegistryService {
    /// Opens the database, which is made at the first start, and takes the directory for this process alone.
    pub(crate) async fn open(config: &Config, key: MasterKey) -> Result<Self> {
        let addresses =
            Addresses::new(config.public_url.as_deref(), config.internal_url.as_deref(), config.http_listen)?;
        let dir = config.service_dir();
        let lock = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || DirLock::acquire(&dir))
                .await
                .map_err(|e| Error::internal("locking the data directory", e))??
        };
        let store = Store::open(&config.location().await?, Vault::new(key), addresses.clone()).await?;
        let (keep, tidy_every) = (config.operations_kept(), Duration::from_secs(config.tidy_seconds.max(1)));
        let closing = CancellationToken::new();
        let service = Self { store, addresses, keep, tidy_every, closing, _lock: Arc::new(lock) };
        service.purge().await?;
        Ok(service)
    }

    /// Forgets old answers now and then, until `shutdown`.
    pub async fn maintain(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(self.tidy_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now, and opening has purged.
        ticks.tick().await;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(e) = self.purge().await {
                tracing::warn!(cause = e.chain(), "{e}");
            }
        }
    }

    /// Ends every watch, so that calls can drain. The first step of a shutdown.
    pub fn close_watches(&self) {
        self.closing.cancel();
    }

    /// Closes the database, once nothing is called any more.
    pub async fn close(&self) {
        self.store.close().await;
    }

    async fn purge(&self) -> Result<()> {
        self.store.purge(self.keep).await
    }
}

#[async_trait]
impl ReadyCheck for ToolRegistryService {
    async fn check(&self) -> Result<()> {
        self.store.ping().await
    }
}

#[async_trait]
impl ToolRegistry for ToolRegistryService {
    async fn resolve(
        &self,
        plan: ToolPlan,
        providers: Vec<String>,
        identity_provider: Option<Name>,
    ) -> Result<Resolved> {
        check_plan(&plan)?;
        at_most("providers", providers.len(), MAX_MEMBERS)?;
        self.store.resolve(&plan, providers, identity_provider).await
    }

    async fn apply_tools(&self, operation: Operation, plan: ToolPlan) -> Result<AppliedTools> {
        check_plan(&plan)?;
        self.store.apply(&operation, &plan).await
    }

    async fn settle_tools(&self, agent: Name, applied: OperationId) -> Result<()> {
        self.store.settle(&agent, applied).await
    }

    async fn undo_tools(&self, applied: OperationId) -> Result<()> {
        self.store.undo(applied).await
    }

    async fn release_agent(&self, operation: Operation, agent: Name) -> Result<()> {
        self.store.release(&operation, &agent).await
    }

    async fn bound_agents(&self) -> Result<Vec<Name>> {
        self.store.bound_agents().await
    }

    async fn create_tool(&self, operation: Operation, tool: NewTool) -> Result<Tool> {
        check_tool("", &tool)?;
        check_description("description", &tool.description)?;
        self.store.create_tool(&operation, &tool).await
    }

    async fn get_tool(&self, name: Name) -> Result<Tool> {
        self.store.get_tool(&name).await
    }

    async fn list_tools(&self, query: PageQuery) -> Result<Page<Tool>> {
        self.store.list_tools(query).await
    }

    async fn update_tool(&self, operation: Operation, update: ToolUpdate) -> Result<Tool> {
        check_tool("", &update.tool)?;
        self.store.update_tool(&operation, &update).await
    }

    async fn set_tool_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<Tool> {
        shapes("credentials", &credentials)?;
        let fits = |at: &_| tool_fits("credentials", at, &credentials);
        self.store.set_tool_credentials(&operation, &name, &credentials, fits).await
    }

    async fn delete_tool(&self, operation: Operation, name: Name) -> Result<()> {
        self.store.delete_tool(&operation, &name).await
    }

    async fn create_model_provider(&self, operation: Operation, provider: NewModelProvider) -> Result<ModelProvider> {
        check_provider(&provider)?;
        self.store.create_provider(&operation, provider).await
    }

    async fn put_model_provider(
        &self,
        operation: Operation,
        provider: NewModelProvider,
    ) -> Result<Upserted<ModelProvider>> {
        check_provider(&provider)?;
        self.store.put_provider(&operation, provider).await
    }

    async fn set_model_provider_credentials(
        &self,
        operation: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<ModelProvider> {
        shapes("credentials", &credentials)?;
        let fits = |at: &ModelProvider| provider_fits("credentials", (&at.provider, &at.endpoint), &credentials);
        self.store.set_provider_credentials(&operation, &name, &credentials, fits).await
    }

    async fn get_model_provider(&self, name: Name) -> Result<ModelProvider> {
        self.store.get_provider(&name).await
    }

    async fn list_model_providers(&self) -> Result<Vec<ModelProvider>> {
        self.store.list_providers().await
    }

    async fn delete_model_provider(&self, operation: Operation, name: Name) -> Result<()> {
        self.store.delete_provider(&operation, &name).await
    }

    async fn put_identity_provider(
        &self,
        operation: Operation,
        provider: IdentityProvider,
    ) -> Result<Upserted<IdentityProvider>> {
        check_identity(&provider)?;
        self.store.put_identity_provider(&operation, provider).await
    }

    async fn get_identity_provider(&self, name: Name) -> Result<IdentityProvider> {
        self.store.get_identity_provider(&name).await
    }

    async fn list_identity_providers(&self) -> Result<Vec<IdentityProvider>> {
        self.store.list_identity_providers().await
    }

    async fn delete_identity_provider(&self, operation: Operation, name: Name) -> Result<()> {
        self.store.delete_identity_provider(&operation, &name).await
    }

    async fn seed_starter_kit(&self, operation: Operation) -> Result<()> {
        let labels = BTreeMap::from([(DEMO_LABEL.to_owned(), "true".to_owned())]);
        let echo = NewTool {
            name: Name::parse("name", "echo-tool")?,
            description: "Echoes what it is sent; for trying things out".to_owned(),
            connection: self.addresses.echo(),
            labels: labels.clone(),
            credentials: BTreeMap::new(),
        };
        let llm = NewModelProvider {
            name: Name::parse("name", "playground-llm")?,
            provider: "openai".to_owned(),
            endpoint: String::new(),
            models: vec!["gpt-4o-mini".to_owned()],
            prices: BTreeMap::new(),
            timeout_seconds: None,
            retries: 0,
            labels,
            credentials: BTreeMap::new(),
        };
        self.store.seed(&operation, &echo, llm).await
    }

    async fn tool_metrics(&self) -> Result<Metrics> {
        let registered = self.store.counts().await?;
        let registered = registered.map(|(kind, count)| ([("kind", kind.to_owned())], count as f64));
        let database = self.store.size().await.ok();
        let read = move || {
            let help = "What is registered: tools, model providers and identity providers.";
            let registered = metrics::family(Kind::Gauge, "hoistway_registered", help, registered);
            process_metrics::of_service(SERVICE, vec![registered, metrics::database(SERVICE, database)])
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal("reading what was measured", e))
    }
}

#[async_trait]
impl ToolCredentials for ToolRegistryService {
    async fn watch_tools(&self) -> Result<Updates<Name, ToolAccess>> {
        Ok(self.store.watch_tools(self.closing.clone()))
    }

    async fn watch_model_providers(&self) -> Result<Updates<Name, ModelProviderAccess>> {
        Ok(self.store.watch_model_providers(self.closing.clone()))
    }
}
