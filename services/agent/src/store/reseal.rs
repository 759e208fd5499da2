//! After a rotation of the master key: what old keys have sealed is sealed with the current one.

use super::{Store, entity::revision, record::place};
use hoistway_kit::db::db_error;
use hoistway_model::Result;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

/// Rows of one transaction.
const BATCH: u64 = 100;

impl Store {
    /// Seals anew what is left of old keys; how many revisions. Repeating it, whole or from the middle, is harmless.
    pub(super) async fn reseal(&self) -> Result<u64> {
        let (mut after, mut resealed) = (String::new(), 0);
        if !self.key.has_old() {
            return Ok(resealed);
        }
        loop {
            let doing = "sealing revisions anew";
            let txn = self.db.begin().await?;
            let rows: Vec<(String, Vec<u8>, Vec<u8>)> = revision::Entity::find()
                .select_only()
                .columns([revision::Column::Id, revision::Column::Spec, revision::Column::Token])
                .filter(revision::Column::Id.gt(after.as_str()))
                .order_by_asc(revision::Column::Id)
                .limit(BATCH)
                .into_tuple()
                .all(&txn)
                .await
                .map_err(db_error(doing))?;
            let Some((last, ..)) = rows.last() else { return Ok(resealed) };
            after.clone_from(last);
            for (id, spec, token) in rows {
                let (spec, token) = (self.sealed_anew(&id, "spec", &spec), self.sealed_anew(&id, "token", &token));
                if spec.is_none() && token.is_none() {
                    continue;
                }
                resealed += 1;
                let row = revision::ActiveModel {
                    spec: spec.map_or(NotSet, Set),
                    token: token.map_or(NotSet, Set),
                    ..Default::default()
                };
                let filter = revision::Column::Id.eq(id);
                revision::Entity::update_many().set(row).filter(filter).exec(&txn).await.map_err(db_error(doing))?;
            }
            txn.commit().await.map_err(db_error(doing))?;
        }
    }

    fn sealed_anew(&self, id: &str, column: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        self.key.reseal(&place(id, column), sealed).unwrap_or_else(|e| {
            // It could not be read before either, and must not keep the rest from being rotated.
            tracing::error!(revision = id, cause = e.chain(), "the {column} of a revision cannot be read: {e}");
            None
        })
    }
}
