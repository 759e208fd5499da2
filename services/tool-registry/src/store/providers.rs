//! Model providers, and the starter kit, which has one.

use super::{MAX_ROWS, Once, Store, entity::model_provider, finish, text};
use crate::vault::provider_value;
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{
    Code, Error, Name, Operation, Result,
    tool::{ModelProvider, NewTool},
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::json;
use std::collections::BTreeSet;

impl Store {
    pub(crate) async fn create_provider(&self, operation: &Operation, wanted: ModelProvider) -> Result<ModelProvider> {
        const KIND: &str = "model_providers.create";
        let payload = self.vault.fingerprint(KIND, &provider_value(&wanted));
        let txn = match self.once::<text::ProviderText>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer.into()),
            Once::First(txn) => txn,
        };
        let provider = match find(&txn, &wanted.name).await? {
            Some(have) if have == (ModelProvider { created_at: have.created_at, ..wanted.clone() }) => have,
            Some(_) => {
                let text = format!("model provider \"{}\" already exists with another definition", wanted.name);
                return Err(Error::new(Code::Conflict, text));
            }
            None => insert(&txn, wanted).await?,
        };
        finish(txn, operation.id, &text::ProviderText::from(provider.clone())).await?;
        Ok(provider)
    }

    pub(crate) async fn get_provider(&self, name: &Name) -> Result<ModelProvider> {
        find(self.db.read(), name).await?.ok_or_else(|| Error::not_found("model provider", name))
    }

    pub(crate) async fn list_providers(&self) -> Result<Vec<ModelProvider>> {
        let rows = model_provider::Entity::find()
            .order_by_asc(model_provider::Column::Name)
            .limit(MAX_ROWS)
            .all(self.db.read())
            .await
            .map_err(db_error("listing model providers"))?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(crate) async fn delete_provider(&self, operation: &Operation, name: &Name) -> Result<()> {
        const KIND: &str = "model_providers.delete";
        let payload = self.vault.fingerprint(KIND, &json!(name));
        let txn = match self.once::<()>(operation, KIND, payload).await? {
            Once::Again(()) => return Ok(()),
            Once::First(txn) => txn,
        };
        let deleted = model_provider::Entity::delete_by_id(name.as_str()).exec(&txn).await;
        if deleted.map_err(db_error("deleting a model provider"))?.rows_affected == 0 {
            return Err(Error::not_found("model provider", name));
        }
        finish(txn, operation.id, &()).await
    }

    /// Adds what is missing of the starter kit.
    pub(crate) async fn seed(&self, operation: &Operation, echo: &NewTool, llm: ModelProvider) -> Result<()> {
        const KIND: &str = "starter_kit.seed";
        let payload = self.vault.fingerprint(KIND, &json!(null));
        let txn = match self.once::<()>(operation, KIND, payload).await? {
            Once::Again(()) => return Ok(()),
            Once::First(txn) => txn,
        };
        self.seed_echo(&txn, echo, operation.id).await?;
        if find(&txn, &llm.name).await?.is_none() {
            insert(&txn, llm).await?;
        }
        finish(txn, operation.id, &()).await
    }
}

/// Those of `asked` that are registered, in the same order.
pub(super) async fn registered(db: &impl ConnectionTrait, asked: Vec<String>) -> Result<Vec<String>> {
    if asked.is_empty() {
        return Ok(asked);
    }
    let known: Vec<String> = model_provider::Entity::find()
        .select_only()
        .column(model_provider::Column::Name)
        .filter(model_provider::Column::Name.is_in(asked.iter().map(String::as_str)))
        .into_tuple()
        .all(db)
        .await
        .map_err(db_error("looking up model providers"))?;
    let known: BTreeSet<String> = known.into_iter().collect();
    Ok(asked.into_iter().filter(|name| known.contains(name)).collect())
}

async fn find(db: &impl ConnectionTrait, name: &Name) -> Result<Option<ModelProvider>> {
    let row = model_provider::Entity::find_by_id(name.as_str()).one(db).await;
    row.map_err(db_error("looking up a model provider"))?.map(TryInto::try_into).transpose()
}

async fn insert(txn: &impl ConnectionTrait, provider: ModelProvider) -> Result<ModelProvider> {
    let doing = "registering a model provider";
    if model_provider::Entity::find().count(txn).await.map_err(db_error(doing))? >= MAX_ROWS {
        return Err(Error::new(Code::ResourceExhausted, format!("there can be at most {MAX_ROWS} model providers")));
    }
    let provider = ModelProvider { created_at: now_ms(), ..provider };
    let row = model_provider::ActiveModel {
        name: Set(provider.name.to_string()),
        provider: Set(provider.provider.clone()),
        endpoint: Set(provider.endpoint.clone()),
        models: Set(text::write(&provider.models)?),
        labels: Set(text::write(&provider.labels)?),
        created_at: Set(provider.created_at),
    };
    model_provider::Entity::insert(row).exec_without_returning(txn).await.map_err(db_error(doing))?;
    Ok(provider)
}

impl TryFrom<model_provider::Model> for ModelProvider {
    type Error = Error;

    fn try_from(row: model_provider::Model) -> Result<Self> {
        Ok(Self {
            name: text::name(row.name)?,
            provider: row.provider,
            endpoint: row.endpoint,
            models: text::read(&row.models)?,
            labels: text::read(&row.labels)?,
            created_at: row.created_at,
        })
    }
}
