//! After a rotation of the master key: what old keys have sealed is sealed with the current one.

use super::{
    Store, column_values,
    entity::{model_provider, tool},
};
use crate::vault::Holder;
use hoistway_kit::db::db_error;
use hoistway_model::{Name, Result};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

/// Rows of one transaction.
const BATCH: u64 = 100;

/// The two tables have the same columns for it, and nothing else in common.
macro_rules! reseal {
    ($store:ident, $table:ident, $holder:path) => {{
        let (mut after, mut resealed) = (String::new(), 0);
        loop {
            let doing = "sealing credentials anew";
            let txn = $store.db.begin().await?;
            let rows: Vec<(String, Vec<u8>)> = $table::Entity::find()
                .select_only()
                .column($table::Column::Name)
                .column($table::Column::Credentials)
                .filter($table::Column::Credentials.is_not_null())
                .filter($table::Column::Name.gt(after.as_str()))
                .order_by_asc($table::Column::Name)
                .limit(BATCH)
                .into_tuple()
                .all(&txn)
                .await
                .map_err(db_error(doing))?;
            let Some((last, _)) = rows.last() else { break resealed };
            after.clone_from(last);
            for (row, sealed) in rows {
                let name: Name = column_values::name(row)?;
                let Some(sealed) = $store.sealed_anew($holder(&name), &sealed) else { continue };
                resealed += 1;
                $table::Entity::update_many()
                    .col_expr($table::Column::Credentials, Expr::value(sealed))
                    .filter($table::Column::Name.eq(name.as_str()))
                    .exec(&txn)
                    .await
                    .map_err(db_error(doing))?;
            }
            $store.commit(txn).await?;
        }
    }};
}

impl Store {
    /// Seals anew what is left of old keys; how many credentials. Repeating it, whole or from the middle, is harmless.
    pub(super) async fn reseal(&self) -> Result<u64> {
        if !self.vault.has_old() {
            return Ok(0);
        }
        let tools: u64 = reseal!(self, tool, Holder::Tool);
        let providers: u64 = reseal!(self, model_provider, Holder::ModelProvider);
        Ok(tools + providers)
    }

    fn sealed_anew(&self, holder: Holder<'_>, sealed: &[u8]) -> Option<Vec<u8>> {
        self.vault.reseal(holder, sealed).unwrap_or_else(|e| {
            // It could not be read before either, and must not keep the rest from being rotated.
            tracing::error!(cause = e.chain(), "the credentials of {holder:?} cannot be read: {e}");
            None
        })
    }
}
