//! A layer for each package instead of one for each lock. The old layers' records are of no use any more.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tables = "
            CREATE TABLE packages (inputs TEXT NOT NULL PRIMARY KEY, size BIGINT NOT NULL, created_at BIGINT NOT NULL);
            CREATE TABLE layer_sets (inputs TEXT NOT NULL PRIMARY KEY, layers TEXT NOT NULL, created_at BIGINT NOT NULL);
            DELETE FROM dependency_layers;";
        manager.get_connection().execute_unprepared(tables).await.map(drop)
    }
}
