//! How long model providers may take, and how often their calls are made again.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

const STATEMENTS: [&str; 2] = [
    "ALTER TABLE model_providers ADD COLUMN timeout_seconds BIGINT",
    "ALTER TABLE model_providers ADD COLUMN retries BIGINT NOT NULL DEFAULT 0",
];

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0005_model_retries"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for statement in STATEMENTS {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }
}
