//! The layout of an image is kept, so that images of an older one can be built again.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0004_image_layouts"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let change = "ALTER TABLE revisions ADD COLUMN image_layout TEXT";
        manager.get_connection().execute_unprepared(change).await.map(drop)
    }
}
