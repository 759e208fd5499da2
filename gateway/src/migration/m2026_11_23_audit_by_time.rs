//! The oldest entries of the audit log are found without reading all of it.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = "CREATE INDEX audit_by_time ON audit (at)";
        manager.get_connection().execute_unprepared(index).await.map(drop)
    }
}
