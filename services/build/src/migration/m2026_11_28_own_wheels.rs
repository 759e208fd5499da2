//! Each package's layer is made of its own wheel alone. What was made of a shared directory is not used again; its blobs
//! go once no image needs them.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let change = "DELETE FROM packages; DELETE FROM layer_sets; DELETE FROM dependency_layers;";
        manager.get_connection().execute_unprepared(change).await.map(drop)
    }
}
