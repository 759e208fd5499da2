//! The files of each package are kept, so that those which two packages of an agent both bring are reported in whatever
//! build they were installed. What is known without them is found out once more; layers stay.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let change = "
            DELETE FROM packages;
            DELETE FROM layer_sets;
            ALTER TABLE packages ADD COLUMN files BLOB NOT NULL DEFAULT x'';
            ALTER TABLE layer_sets ADD COLUMN clashes TEXT NOT NULL DEFAULT '[]';";
        manager.get_connection().execute_unprepared(change).await.map(drop)
    }
}
