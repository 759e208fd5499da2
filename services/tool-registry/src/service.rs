//! The tool registry itself: it checks what it is given, and the store does the rest.

use crate::{
    address::Addresses,
    config::{Config, SERVICE},
    store::Store,
    vault::Vault,
};
use async_trait::async_trait;
use hoistway_kit::{fs::DirLock, secrets::MasterKey, time::now_ms};
use hoistway_model::{
    Error, Name, Operation, OperationId, Result, ToolRegistry,
    tool::{AppliedTools, DEMO_LABEL, MODEL_PROVIDERS, ModelProvider, NewTool, Resolved, Tool, ToolPlan},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The tools of one deploy.
const MAX_PLAN: usize = 256;
/// Bytes of a description, a URL or another text of a record.
const MAX_TEXT: usize = 64 << 10;
/// Models of a provider, labels and credentials of a record.
const MAX_MEMBERS: usize = 256;
/// How long answers are kept for repetitions; deploys end long before.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
const PURGE_EVERY: Duration = Duration::from_secs(60 * 60);

/// The tool registry over its database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ToolRegistryService {
    store: Store,
    addresses: Addresses,
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
        let path = dir.join(format!("{SERVICE}.db"));
        let store = Store::open(&path, Vault::new(key), addresses.clone()).await?;
        let service = Self { store, addresses, _lock: Arc::new(lock) };
        service.purge().await?;
        Ok(service)
    }

    /// Forgets old answers every hour, until `shutdown`.
    pub async fn maintain(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(PURGE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now, and opening has purged.
        ticks.tick().await;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(e) = self.purge().await {
                tracing::warn!(cause = e.chain(), "{e}");
            }
        }
    }

    /// Closes the database, once nothing is called any more.
    pub async fn close(&self) {
        self.store.close().await;
    }

    async fn purge(&self) -> Result<()> {
        let keep = i64::try_from(KEEP.as_millis()).unwrap_or(i64::MAX);
        self.store.purge(now_ms().saturating_sub(keep)).await
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
        at_most("providers", providers.len(), MAX_PLAN)?;
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
        self.store.create_tool(&operation, &tool).await
    }

    async fn get_tool(&self, name: Name) -> Result<Tool> {
        self.store.get_tool(&name).await
    }

    async fn list_tools(&self) -> Result<Vec<Tool>> {
        self.store.list_tools().await
    }

    async fn delete_tool(&self, operation: Operation, name: Name) -> Result<()> {
        self.store.delete_tool(&operation, &name).await
    }

    async fn create_model_provider(&self, operation: Operation, provider: ModelProvider) -> Result<ModelProvider> {
        check_provider(&provider)?;
        self.store.create_provider(&operation, provider).await
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

    async fn seed_starter_kit(&self, operation: Operation) -> Result<()> {
        let labels = BTreeMap::from([(DEMO_LABEL.to_owned(), "true".to_owned())]);
        let echo = NewTool {
            name: Name::parse("name", "echo-tool")?,
            description: "Echoes what it is sent; for trying things out".to_owned(),
            connection: self.addresses.echo(),
            labels: labels.clone(),
            credentials: BTreeMap::new(),
        };
        let llm = ModelProvider {
            name: Name::parse("name", "playground-llm")?,
            provider: "openai".to_owned(),
            endpoint: String::new(),
            models: vec!["gpt-4o-mini".to_owned()],
            labels,
            created_at: 0,
        };
        self.store.seed(&operation, &echo, llm).await
    }
}

/// Errors name the fields of the public API, where these records come from.
fn check_plan(plan: &ToolPlan) -> Result<()> {
    at_most("tools_to_create", plan.create.len(), MAX_PLAN)?;
    at_most("required_tools", plan.bind.len(), MAX_PLAN)?;
    let mut names = BTreeSet::new();
    for (i, tool) in plan.create.iter().enumerate() {
        check_tool(&format!("tools_to_create[{i}]."), tool)?;
        if !names.insert(&tool.name) {
            return Err(Error::field(format!("tools_to_create[{i}].name"), "is named before in the same call"));
        }
    }
    Ok(())
}

fn check_tool(prefix: &str, tool: &NewTool) -> Result<()> {
    let field = |member: &str| format!("{prefix}{member}");
    if tool.connection.base_url.trim().is_empty() {
        return Err(Error::field(field("base_url"), "is required"));
    }
    if tool.connection.port == 0 {
        return Err(Error::field(field("port"), "must be 1 to 65535"));
    }
    bounded(&field("base_url"), &tool.connection.base_url)?;
    bounded(&field("description"), &tool.description)?;
    for text in tool.connection.api_key.iter().flat_map(|k| [&k.location, &k.name, &k.value_prefix]) {
        bounded(&field("authentication"), text)?;
    }
    check_labels(&field("labels"), &tool.labels)?;
    at_most(&field("credentials"), tool.credentials.len(), MAX_MEMBERS)?;
    for (key, secret) in &tool.credentials {
        bounded(&field("credentials"), key)?;
        bounded(&field("credentials"), secret.expose())?;
    }
    Ok(())
}

fn check_provider(provider: &ModelProvider) -> Result<()> {
    if !MODEL_PROVIDERS.contains(&provider.provider.as_str()) {
        let shown: String = provider.provider.chars().take(64).collect();
        let text = format!("\"{}\" is not one of {}", shown.escape_debug(), MODEL_PROVIDERS.join(", "));
        return Err(Error::field("provider", text));
    }
    bounded("endpoint", &provider.endpoint)?;
    at_most("models", provider.models.len(), MAX_MEMBERS)?;
    for model in &provider.models {
        bounded("models", model)?;
    }
    check_labels("labels", &provider.labels)
}

fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<()> {
    at_most(field, labels.len(), MAX_MEMBERS)?;
    labels.iter().flat_map(|(key, value)| [key, value]).try_for_each(|text| bounded(field, text))
}

fn bounded(field: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(Error::field(field, format!("is longer than {MAX_TEXT} bytes")));
    }
    Ok(())
}

fn at_most(field: &str, count: usize, maximum: usize) -> Result<()> {
    if count > maximum {
        return Err(Error::field(field, format!("has {count} members; at most {maximum} are allowed")));
    }
    Ok(())
}
