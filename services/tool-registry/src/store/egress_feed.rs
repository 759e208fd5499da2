//! Tools and model providers with their credentials, as egress follows them.

use super::{MAX_ROWS, Store, entity::tool, model_providers::Stored};
use crate::{
    stored_tool::StoredTool,
    vault::{Holder, Sealed},
};
use futures_util::StreamExt;
use hoistway_kit::{change_feed, db::db_error};
use hoistway_model::{
    Name, Result, Secret,
    egress::{ModelProviderAccess, ToolAccess},
    tool::DEMO_LABEL,
    watch::Updates,
};
use sea_orm::{EntityTrait, Iterable, QuerySelect, sea_query::Expr};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

impl Store {
    /// Every tool, then each change.
    pub(crate) fn watch_tools(&self, closed: CancellationToken) -> Updates<Name, ToolAccess> {
        self.watch(closed, async |store| store.stored_tools().await, Self::access)
    }

    /// Every model provider, then each change.
    pub(crate) fn watch_model_providers(&self, closed: CancellationToken) -> Updates<Name, ModelProviderAccess> {
        let load = async |store: Self| {
            let stored = store.stored_providers().await?.into_iter();
            Ok(stored.map(|stored| (stored.provider.name.clone(), stored)).collect())
        };
        self.watch(closed, load, Self::provider_access)
    }

    /// Follows stored records. What is kept for comparing stays sealed; credentials are opened as they are sent.
    fn watch<S, T, F>(
        &self,
        closed: CancellationToken,
        load: impl Fn(Self) -> F + Send + 'static,
        open: fn(&Self, S) -> T,
    ) -> Updates<Name, T>
    where
        S: Clone + PartialEq + Send + Sync + 'static,
        T: 'static,
        F: Future<Output = Result<BTreeMap<Name, S>>> + Send + 'static,
    {
        let (reading, opening) = (self.clone(), self.clone());
        let updates = change_feed::follow(self.changed.subscribe(), closed, move || load(reading.clone()));
        Box::pin(updates.map(move |update| Ok(update?.map(|stored| open(&opening, stored)))))
    }

    async fn stored_tools(&self) -> Result<BTreeMap<Name, StoredTool>> {
        // A tool's description is no part of its calls: it is neither read nor kept for comparing.
        let called = tool::Column::iter().filter(|column| !matches!(column, tool::Column::Description));
        let rows = tool::Entity::find()
            .select_only()
            .columns(called)
            .column_as(Expr::value(""), tool::Column::Description)
            .limit(MAX_ROWS)
            .all(self.db.read())
            .await;
        let tools = rows.map_err(db_error("reading tools"))?.into_iter().map(StoredTool::try_from);
        tools.map(|tool| tool.map(|tool| (tool.name.clone(), tool))).collect()
    }

    fn access(&self, tool: StoredTool) -> ToolAccess {
        let credentials = self.credentials(Holder::Tool(&tool.name), tool.content.credentials.as_ref());
        let connection = &tool.content.connection;
        ToolAccess {
            url: self.addresses.internal(&tool.content),
            auth_type: connection.auth_type,
            api_key: connection.api_key.clone(),
            oauth2: connection.oauth2.clone(),
            name: tool.name,
            credentials,
        }
    }

    fn provider_access(&self, Stored { provider, credentials }: Stored) -> ModelProviderAccess {
        let credentials = self.credentials(Holder::ModelProvider(&provider.name), credentials.as_ref());
        ModelProviderAccess {
            name: provider.name,
            provider: provider.provider,
            endpoint: provider.endpoint,
            models: provider.models,
            prices: provider.prices,
            timeout_seconds: provider.timeout_seconds,
            retries: provider.retries,
            credentials,
            demo: provider.labels.get(DEMO_LABEL).is_some_and(|value| value == "true"),
        }
    }

    fn credentials(&self, holder: Holder<'_>, sealed: Option<&Sealed>) -> BTreeMap<String, Secret> {
        let Some(sealed) = sealed else { return BTreeMap::new() };
        // One that cannot be opened must not take the others along.
        self.vault.open(holder, sealed).unwrap_or_else(|e| {
            tracing::error!(?holder, cause = e.chain(), "its credentials cannot be read; set them again");
            BTreeMap::new()
        })
    }
}
