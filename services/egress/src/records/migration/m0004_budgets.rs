//! How much of models agents may use.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

/// `limits` are `LIMIT=AMOUNT`, with spaces between.
const STATEMENT: &str =
    "CREATE TABLE budgets (agent TEXT NOT NULL PRIMARY KEY, limits TEXT NOT NULL, set_at BIGINT NOT NULL)";

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0004_budgets"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(STATEMENT).await.map(drop)
    }
}
