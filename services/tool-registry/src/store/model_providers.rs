//! Model providers, and the starter kit, which has one.

use super::{MAX_ROWS, Once, Store, column_values, entity::model_provider, held};
use crate::{
    deploy_plan::{is_within, would_leak},
    vault::{Holder, Sealed, provider_value},
};
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{
    Code, Error, Name, Operation, Result, Secret,
    tool::{ModelProvider, NewModelProvider, NewTool, Upserted},
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The bytes that all model providers together may hold, so that their list stays one message.
/// Records beyond it, from before there was a bound, can be read, shortened and deleted.
const MAX_BYTES: i64 = 16 << 20;
const BYTES: &str = "SUM(octet_length(endpoint) + octet_length(models) + octet_length(prices) + octet_length(labels) \
    + octet_length(COALESCE(credentials, '')))";

/// A model provider as it is stored.
#[derive(Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) provider: ModelProvider,
    pub(super) credentials: Option<Sealed>,
}

impl Store {
    pub(crate) async fn create_provider(
        &self,
        operation: &Operation,
        wanted: NewModelProvider,
    ) -> Result<ModelProvider> {
        const KIND: &str = "model_providers.create";
        let payload = self.vault.fingerprint(KIND, &provider_value(&wanted));
        let txn = match self.once::<ModelProvider>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let holder = Holder::ModelProvider(&wanted.name);
        let path = format!("/api/model-providers/{}", wanted.name);
        let exists = |what: &str| {
            let text = format!("model provider \"{}\" already exists with {what}", wanted.name);
            Error::new(Code::Conflict, text)
        };
        let provider = match find(&txn, &wanted.name).await? {
            None => {
                let credentials = self.vault.seal(holder, &wanted.credentials)?;
                insert(&txn, new_row(wanted, credentials)).await?
            }
            Some(have) if !same(&have.provider, &wanted) => {
                return Err(exists(&format!("another definition; PUT {path} replaces it")));
            }
            Some(have) if have.credentials.is_none() => match self.vault.seal(holder, &wanted.credentials)? {
                None => have.provider,
                credentials => update(&txn, Stored { credentials, ..have }).await?,
            },
            Some(have) => {
                let held = self.vault.holds(holder, have.credentials.as_ref(), &wanted.credentials)?;
                if !wanted.credentials.is_empty() && !held {
                    return Err(exists(&format!("other credentials; PUT {path}/credentials replaces them")));
                }
                have.provider
            }
        };
        self.finish(txn, operation.id, &provider).await?;
        Ok(provider)
    }

    pub(crate) async fn put_provider(
        &self,
        operation: &Operation,
        wanted: NewModelProvider,
    ) -> Result<Upserted<ModelProvider>> {
        const KIND: &str = "model_providers.put";
        let payload = self.vault.fingerprint(KIND, &provider_value(&wanted));
        let txn = match self.once::<Upserted<ModelProvider>>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let holder = Holder::ModelProvider(&wanted.name);
        let put = match find(&txn, &wanted.name).await? {
            None => {
                let credentials = self.vault.seal(holder, &wanted.credentials)?;
                Upserted { value: insert(&txn, new_row(wanted, credentials)).await?, created: true }
            }
            Some(have) => {
                let moves =
                    have.provider.provider != wanted.provider || !is_within(&have.provider.endpoint, &wanted.endpoint);
                if moves && have.credentials.is_some() && wanted.credentials.is_empty() {
                    return Err(would_leak("model provider", "/api/model-providers", &wanted.name));
                }
                let held = self.vault.holds(holder, have.credentials.as_ref(), &wanted.credentials)?;
                let value = if same(&have.provider, &wanted) && (held || wanted.credentials.is_empty()) {
                    have.provider
                } else {
                    let given = self.vault.seal(holder, &wanted.credentials)?.filter(|_| !held);
                    let provider = ModelProvider {
                        provider: wanted.provider,
                        endpoint: wanted.endpoint,
                        models: wanted.models,
                        prices: wanted.prices,
                        timeout_seconds: wanted.timeout_seconds,
                        retries: wanted.retries,
                        labels: wanted.labels,
                        ..have.provider
                    };
                    update(&txn, Stored { provider, credentials: given.or(have.credentials) }).await?
                };
                Upserted { value, created: false }
            }
        };
        self.finish(txn, operation.id, &put).await?;
        Ok(put)
    }

    pub(crate) async fn set_provider_credentials(
        &self,
        operation: &Operation,
        name: &Name,
        credentials: &BTreeMap<String, Secret>,
        check: impl Fn(&ModelProvider) -> Result<()>,
    ) -> Result<ModelProvider> {
        const KIND: &str = "model_providers.set_credentials";
        let payload = self.vault.fingerprint(KIND, &json!([name, credentials]));
        let txn = match self.once::<ModelProvider>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let have = find(&txn, name).await?.ok_or_else(|| Error::not_found("model provider", name))?;
        if !credentials.is_empty() {
            check(&have.provider)?;
        } else if have.credentials.is_none() {
            return Err(Error::not_found("a credential of model provider", name));
        }
        let credentials = self.vault.seal(Holder::ModelProvider(name), credentials)?;
        let provider = update(&txn, Stored { credentials, ..have }).await?;
        self.finish(txn, operation.id, &provider).await?;
        Ok(provider)
    }

    pub(crate) async fn get_provider(&self, name: &Name) -> Result<ModelProvider> {
        let found = find(self.db.read(), name).await?.ok_or_else(|| Error::not_found("model provider", name))?;
        Ok(found.provider)
    }

    pub(crate) async fn list_providers(&self) -> Result<Vec<ModelProvider>> {
        Ok(self.stored_providers().await?.into_iter().map(|stored| stored.provider).collect())
    }

    pub(super) async fn stored_providers(&self) -> Result<Vec<Stored>> {
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
        self.finish(txn, operation.id, &()).await
    }

    /// Adds what is missing of the starter kit.
    pub(crate) async fn seed(&self, operation: &Operation, echo: &NewTool, llm: NewModelProvider) -> Result<()> {
        const KIND: &str = "starter_kit.seed";
        let payload = self.vault.fingerprint(KIND, &json!(null));
        let txn = match self.once::<()>(operation, KIND, payload).await? {
            Once::Again(()) => return Ok(()),
            Once::First(txn) => txn,
        };
        self.seed_echo(&txn, echo, operation.id).await?;
        if find(&txn, &llm.name).await?.is_none() {
            insert(&txn, new_row(llm, None)).await?;
        }
        self.finish(txn, operation.id, &()).await
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

/// Whether it is defined just so, whatever its credentials.
fn same(have: &ModelProvider, wanted: &NewModelProvider) -> bool {
    have.provider == wanted.provider
        && have.endpoint == wanted.endpoint
        && have.models == wanted.models
        && have.prices == wanted.prices
        && have.timeout_seconds == wanted.timeout_seconds
        && have.retries == wanted.retries
        && have.labels == wanted.labels
}

async fn find(db: &impl ConnectionTrait, name: &Name) -> Result<Option<Stored>> {
    let row = model_provider::Entity::find_by_id(name.as_str()).one(db).await;
    row.map_err(db_error("looking up a model provider"))?.map(TryInto::try_into).transpose()
}

fn new_row(wanted: NewModelProvider, credentials: Option<Sealed>) -> Stored {
    let now = now_ms();
    let provider = ModelProvider {
        name: wanted.name,
        provider: wanted.provider,
        endpoint: wanted.endpoint,
        models: wanted.models,
        prices: wanted.prices,
        timeout_seconds: wanted.timeout_seconds,
        retries: wanted.retries,
        labels: wanted.labels,
        credentials_set_at: credentials.as_ref().map(|c| c.set_at),
        created_at: now,
        updated_at: now,
    };
    Stored { provider, credentials }
}

async fn insert(txn: &impl ConnectionTrait, new: Stored) -> Result<ModelProvider> {
    let doing = "registering a model provider";
    if model_provider::Entity::find().count(txn).await.map_err(db_error(doing))? >= MAX_ROWS {
        return Err(Error::new(Code::ResourceExhausted, format!("there can be at most {MAX_ROWS} model providers")));
    }
    let provider = new.provider.clone();
    model_provider::Entity::insert(row(new)?).exec_without_returning(txn).await.map_err(db_error(doing))?;
    has_room(txn).await?;
    Ok(provider)
}

/// Checks that all model providers are within their bound, now that something was added.
async fn has_room(txn: &impl ConnectionTrait) -> Result<()> {
    if held(model_provider::Entity::find(), BYTES, txn).await? > MAX_BYTES {
        let text = format!(
            "all model providers together would hold more than {} MiB of models, prices, labels and other texts; shorten \
             some, or delete providers that no agent needs",
            MAX_BYTES >> 20
        );
        return Err(Error::new(Code::ResourceExhausted, text));
    }
    Ok(())
}

async fn update(txn: &impl ConnectionTrait, mut changed: Stored) -> Result<ModelProvider> {
    changed.provider.credentials_set_at = changed.credentials.as_ref().map(|c| c.set_at);
    changed.provider.updated_at = now_ms();
    let provider = changed.provider.clone();
    let of_provider = || model_provider::Entity::find_by_id(provider.name.as_str());
    let before = held(of_provider(), BYTES, txn).await?;
    model_provider::Entity::update_many()
        .set(row(changed)?)
        .filter(model_provider::Column::Name.eq(provider.name.as_str()))
        .exec(txn)
        .await
        .map_err(db_error("changing a model provider"))?;
    if held(of_provider(), BYTES, txn).await? > before {
        has_room(txn).await?;
    }
    Ok(provider)
}

fn row(stored: Stored) -> Result<model_provider::ActiveModel> {
    let Stored { provider, credentials } = stored;
    let (credentials, credentials_set_at) = credentials.map(|c| (c.bytes, c.set_at)).unzip();
    Ok(model_provider::ActiveModel {
        name: Set(provider.name.into()),
        provider: Set(provider.provider),
        endpoint: Set(provider.endpoint),
        models: Set(column_values::write(&provider.models)?),
        prices: Set(column_values::write(&provider.prices)?),
        timeout_seconds: Set(provider.timeout_seconds.map(i64::from)),
        retries: Set(i64::from(provider.retries)),
        labels: Set(column_values::write(&provider.labels)?),
        credentials: Set(credentials),
        credentials_set_at: Set(credentials_set_at),
        created_at: Set(provider.created_at),
        updated_at: Set(provider.updated_at),
    })
}

impl TryFrom<model_provider::Model> for Stored {
    type Error = Error;

    fn try_from(row: model_provider::Model) -> Result<Self> {
        let set_at = row.credentials_set_at.unwrap_or(row.updated_at);
        let credentials = row.credentials.map(|bytes| Sealed { bytes, set_at });
        let provider = ModelProvider {
            name: column_values::name(row.name)?,
            provider: row.provider,
            endpoint: row.endpoint,
            models: column_values::read(&row.models)?,
            prices: column_values::read(&row.prices)?,
            timeout_seconds: row.timeout_seconds.map(column_values::number).transpose()?,
            retries: column_values::number(row.retries)?,
            labels: column_values::read(&row.labels)?,
            credentials_set_at: credentials.as_ref().map(|c| c.set_at),
            created_at: row.created_at,
            updated_at: row.updated_at,
        };
        Ok(Self { provider, credentials })
    }
}
