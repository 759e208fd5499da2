//! The table `api_keys`.

use crate::keys::key::{Key, Scope, Scopes};
use hoistway_kit::{
    api_key::KeyHash,
    db::{Db, db_error},
};
use hoistway_model::{Code, Error, KeyId, Result};
use sea_orm::{
    ActiveValue::Set, Condition, PaginatorTrait, QueryOrder, QuerySelect, entity::prelude::*, sea_query::ExprTrait,
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub name: String,
    pub prefix: String,
    pub hash: String,
    /// Names, separated by commas.
    pub scopes: String,
    pub created_at: i64,
    pub created_by: String,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
    pub last_used_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const READING: &str = "reading the API keys";
const WRITING: &str = "writing the API keys";

/// The rows of one statement.
const BATCH: usize = 200;
/// The limit of a query that has only an offset, which SQLite accepts only beside a limit.
const LARGEST: u64 = i64::MAX as u64;

/// The API keys in the gateway's database.
#[derive(Debug, Clone)]
pub struct KeyStore(pub(super) Db);

impl KeyStore {
    /// Returns the keys that begin with `prefix`, and their hashes.
    pub async fn with_prefix(&self, prefix: &str) -> Result<Vec<(Key, KeyHash)>> {
        let rows = Entity::find().filter(Column::Prefix.eq(prefix)).all(self.0.read()).await;
        rows.map_err(db_error(READING))?.into_iter().map(from_row).collect()
    }

    /// Adds a key, if fewer than `max` are valid now.
    pub async fn insert(&self, key: &Key, hash: &KeyHash, max: u32) -> Result<()> {
        let created_at = key.created_at.unwrap_or_default();
        let txn = self.0.begin().await?;
        let valid = Condition::all()
            .add(Column::RevokedAt.is_null())
            .add(Condition::any().add(Column::ExpiresAt.is_null()).add(Column::ExpiresAt.gt(created_at)));
        let count = Entity::find().filter(valid).count(&txn).await.map_err(db_error(READING))?;
        if count >= u64::from(max) {
            let text =
                format!("there are {count} API keys, and the limit (setting max_keys) is {max}: revoke some first");
            return Err(Error::new(Code::Conflict, text));
        }
        let row = ActiveModel {
            id: Set(key.id.clone()),
            name: Set(key.name.clone()),
            prefix: Set(key.prefix.clone()),
            hash: Set(hash.as_str().to_owned()),
            scopes: Set(key.scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(",")),
            created_at: Set(created_at),
            created_by: Set(key.created_by.clone().unwrap_or_default()),
            expires_at: Set(key.expires_at),
            revoked_at: Set(None),
            last_used_at: Set(None),
        };
        Entity::insert(row).exec_without_returning(&txn).await.map_err(db_error(WRITING))?;
        txn.commit().await.map_err(db_error(WRITING))
    }

    /// Revokes a key from now on; returns whether it exists.
    pub async fn revoke(&self, id: KeyId, now: i64) -> Result<bool> {
        let revoked = Entity::update_many()
            .col_expr(Column::RevokedAt, Expr::col(Column::RevokedAt).if_null(now))
            .filter(Column::Id.eq(id.to_string()))
            .exec(self.0.write())
            .await;
        Ok(revoked.map_err(db_error(WRITING))?.rows_affected > 0)
    }

    /// Returns one key.
    pub async fn get(&self, id: KeyId) -> Result<Option<Key>> {
        let found = Entity::find_by_id(id.to_string()).one(self.0.read()).await.map_err(db_error(READING))?;
        found.map(|row| from_row(row).map(|(key, _)| key)).transpose()
    }

    /// Returns the newest keys before `before`, newest first.
    pub async fn list(&self, before: Option<&str>, limit: u32) -> Result<Vec<Key>> {
        let mut query = Entity::find().order_by_desc(Column::Id).limit(u64::from(limit));
        if let Some(before) = before {
            query = query.filter(Column::Id.lt(before));
        }
        let rows = query.all(self.0.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(|row| from_row(row).map(|(key, _)| key)).collect()
    }

    /// Writes the last uses of keys, all in one commit.
    pub async fn used(&self, uses: &[(String, i64)]) -> Result<()> {
        if uses.is_empty() {
            return Ok(());
        }
        let txn = self.0.begin().await?;
        for (id, at) in uses {
            let updated =
                Entity::update_many().col_expr(Column::LastUsedAt, Expr::value(*at)).filter(Column::Id.eq(id.as_str()));
            updated.exec(&txn).await.map_err(db_error(WRITING))?;
        }
        txn.commit().await.map_err(db_error(WRITING))
    }

    /// Removes keys that were revoked or expired before `before`, and of those that were so before `now` all but the
    /// newest `keep`; returns their ids.
    pub async fn purge(&self, before: i64, now: i64, keep: u32) -> Result<Vec<String>> {
        let ended = |before: i64| Condition::any().add(Column::RevokedAt.lt(before)).add(Column::ExpiresAt.lt(before));
        let find = || Entity::find().select_only().column(Column::Id);
        let old = find().filter(ended(before));
        let surplus = find().filter(ended(now)).order_by_desc(Column::Id).offset(u64::from(keep)).limit(LARGEST);
        let mut ids: Vec<String> = old.into_tuple().all(self.0.read()).await.map_err(db_error(READING))?;
        ids.extend(surplus.into_tuple::<String>().all(self.0.read()).await.map_err(db_error(READING))?);
        for ids in ids.chunks(BATCH) {
            let deleted = Entity::delete_many().filter(Column::Id.is_in(ids.iter().map(String::as_str)));
            deleted.exec(self.0.write()).await.map_err(db_error(WRITING))?;
        }
        Ok(ids)
    }
}

fn from_row(row: Model) -> Result<(Key, KeyHash)> {
    let scope = |text: &str| text.parse::<Scope>().map_err(|e| Error::internal(READING, e));
    let key = Key {
        scopes: row.scopes.split(',').map(scope).collect::<Result<Scopes>>()?,
        id: row.id,
        name: row.name,
        prefix: row.prefix,
        created_at: Some(row.created_at),
        created_by: Some(row.created_by),
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    };
    Ok((key, KeyHash::from_stored(row.hash)))
}
