//! Deployments have a place in the order in which they were accepted, whatever the clock said meanwhile.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

const STATEMENTS: [&str; 4] = [
    "ALTER TABLE deployments ADD COLUMN place INTEGER",
    // Of those that are there only their ids tell.
    "UPDATE deployments SET place = ordered.place
        FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM deployments) AS ordered
        WHERE ordered.id = deployments.id",
    "CREATE INDEX deployments_by_place ON deployments (place)",
    // In the transaction that accepts it; there is one writer at a time.
    "CREATE TRIGGER deployment_has_a_place AFTER INSERT ON deployments
        BEGIN UPDATE deployments SET place = (SELECT COALESCE(MAX(place), 0) + 1 FROM deployments)
            WHERE id = NEW.id; END",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for statement in STATEMENTS {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }
}
