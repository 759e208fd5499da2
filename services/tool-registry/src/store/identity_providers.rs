//! Identity providers.

use super::{MAX_ROWS, Once, Store, column_values, entity::identity_provider};
use crate::vault::identity_value;
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{
    Code, Error, Name, Operation, Result,
    tool::{IdentityProvider, Upserted},
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::json;

impl Store {
    pub(crate) async fn put_identity_provider(
        &self,
        operation: &Operation,
        wanted: IdentityProvider,
    ) -> Result<Upserted<IdentityProvider>> {
        const KIND: &str = "identity_providers.put";
        let doing = "registering an identity provider";
        let payload = self.vault.fingerprint(KIND, &identity_value(&wanted));
        let txn = match self.once::<Upserted<IdentityProvider>>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let now = now_ms();
        let put = match find(&txn, &wanted.name).await? {
            None => {
                if identity_provider::Entity::find().count(&txn).await.map_err(db_error(doing))? >= MAX_ROWS {
                    let text = format!("there can be at most {MAX_ROWS} identity providers");
                    return Err(Error::new(Code::ResourceExhausted, text));
                }
                let value = IdentityProvider { created_at: now, updated_at: now, ..wanted };
                let row = row(value.clone())?;
                let inserted = identity_provider::Entity::insert(row).exec_without_returning(&txn).await;
                inserted.map_err(db_error(doing))?;
                Upserted { value, created: true }
            }
            Some(have) => {
                let (created_at, updated_at) = (have.created_at, have.updated_at);
                let mut value = IdentityProvider { created_at, updated_at, ..wanted };
                if value != have {
                    value.updated_at = now;
                    identity_provider::Entity::update_many()
                        .set(row(value.clone())?)
                        .filter(identity_provider::Column::Name.eq(value.name.as_str()))
                        .exec(&txn)
                        .await
                        .map_err(db_error(doing))?;
                }
                Upserted { value, created: false }
            }
        };
        self.finish(txn, operation.id, &put).await?;
        Ok(put)
    }

    pub(crate) async fn get_identity_provider(&self, name: &Name) -> Result<IdentityProvider> {
        find(self.db.read(), name).await?.ok_or_else(|| Error::not_found("identity provider", name))
    }

    pub(crate) async fn list_identity_providers(&self) -> Result<Vec<IdentityProvider>> {
        let rows = identity_provider::Entity::find()
            .order_by_asc(identity_provider::Column::Name)
            .limit(MAX_ROWS)
            .all(self.db.read())
            .await
            .map_err(db_error("listing identity providers"))?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(crate) async fn delete_identity_provider(&self, operation: &Operation, name: &Name) -> Result<()> {
        const KIND: &str = "identity_providers.delete";
        let payload = self.vault.fingerprint(KIND, &json!(name));
        let txn = match self.once::<()>(operation, KIND, payload).await? {
            Once::Again(()) => return Ok(()),
            Once::First(txn) => txn,
        };
        let deleted = identity_provider::Entity::delete_by_id(name.as_str()).exec(&txn).await;
        if deleted.map_err(db_error("deleting an identity provider"))?.rows_affected == 0 {
            return Err(Error::not_found("identity provider", name));
        }
        self.finish(txn, operation.id, &()).await
    }
}

/// The identity provider `name`, if it is registered.
pub(super) async fn find(db: &impl ConnectionTrait, name: &Name) -> Result<Option<IdentityProvider>> {
    let row = identity_provider::Entity::find_by_id(name.as_str()).one(db).await;
    row.map_err(db_error("looking up an identity provider"))?.map(TryInto::try_into).transpose()
}

fn row(provider: IdentityProvider) -> Result<identity_provider::ActiveModel> {
    Ok(identity_provider::ActiveModel {
        name: Set(provider.name.into()),
        host: Set(provider.host),
        issuer: Set(provider.issuer),
        jwks_uri: Set(provider.jwks_uri),
        audiences: Set(column_values::write(&provider.audiences)?),
        user_id_claim: Set(provider.user_id_claim),
        allowed_domains: Set(column_values::write(&provider.allowed_domains)?),
        labels: Set(column_values::write(&provider.labels)?),
        created_at: Set(provider.created_at),
        updated_at: Set(provider.updated_at),
    })
}

impl TryFrom<identity_provider::Model> for IdentityProvider {
    type Error = Error;

    fn try_from(row: identity_provider::Model) -> Result<Self> {
        Ok(Self {
            name: column_values::name(row.name)?,
            host: row.host,
            issuer: row.issuer,
            jwks_uri: row.jwks_uri,
            audiences: column_values::read(&row.audiences)?,
            user_id_claim: row.user_id_claim,
            allowed_domains: column_values::read(&row.allowed_domains)?,
            labels: column_values::read(&row.labels)?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}
