//! When a build's lines were said, its steps, and the request that caused it.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let change = "ALTER TABLE builds ADD COLUMN record TEXT;
            CREATE INDEX builds_by_agent ON builds (agent, attempt);";
        manager.get_connection().execute_unprepared(change).await.map(drop)
    }
}
