//! Tools with their credentials, as egress follows them.

use super::{MAX_ROWS, Store, entity::tool};
use crate::{record::StoredTool, vault::Holder};
use futures_util::StreamExt;
use hoistway_kit::{db::db_error, updates};
use hoistway_model::{
    Name, Result,
    egress::ToolAccess,
    watch::{Update, Updates},
};
use sea_orm::{EntityTrait, QuerySelect};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

impl Store {
    /// Every tool, then each change. What is kept for comparing stays sealed; credentials are opened as they are sent.
    pub(crate) fn watch_tools(&self, closed: CancellationToken) -> Updates<Name, ToolAccess> {
        let (reading, opening) = (self.clone(), self.clone());
        let load = move || {
            let store = reading.clone();
            async move { store.stored_tools().await }
        };
        let updates = updates::follow(self.changed.subscribe(), closed, load);
        Box::pin(updates.map(move |update| {
            Ok(match update? {
                Update::Set(name, tool) => Update::Set(name, opening.access(tool)),
                Update::Removed(name) => Update::Removed(name),
                Update::Complete => Update::Complete,
            })
        }))
    }

    async fn stored_tools(&self) -> Result<BTreeMap<Name, StoredTool>> {
        let rows = tool::Entity::find().limit(MAX_ROWS).all(self.db.read()).await;
        let tools = rows.map_err(db_error("reading tools"))?.into_iter().map(StoredTool::try_from);
        tools.map(|tool| tool.map(|tool| (tool.name.clone(), tool))).collect()
    }

    fn access(&self, tool: StoredTool) -> ToolAccess {
        let credentials = match &tool.content.credentials {
            None => BTreeMap::new(),
            // One that cannot be opened must not take the others along.
            Some(sealed) => self.vault.open(Holder::Tool(&tool.name), sealed).unwrap_or_else(|e| {
                tracing::error!(tool = %tool.name, cause = e.chain(), "its credentials cannot be read; set them again");
                BTreeMap::new()
            }),
        };
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
}
