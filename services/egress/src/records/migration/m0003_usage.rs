//! What agents use of models, summed up by hours and by days.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

/// Those of hours, and those of days.
const TABLES: [&str; 2] = ["usage_hours", "usage_days"];

/// Times are the beginning of an hour or a day of UTC, in milliseconds since the epoch. What something costs is in two
/// parts: whole ones, and millionths of a millionth.
const COLUMNS: &str = "
    start BIGINT NOT NULL,
    agent TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    end_user TEXT NOT NULL,
    requests BIGINT NOT NULL,
    failed_requests BIGINT NOT NULL,
    estimated_requests BIGINT NOT NULL,
    priced_requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_whole BIGINT NOT NULL,
    cost_rest BIGINT NOT NULL,
    PRIMARY KEY (start, agent, provider, model, end_user)";

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0003_usage"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in TABLES {
            let statement = format!("CREATE TABLE {table} ({COLUMNS})");
            manager.get_connection().execute_unprepared(&statement).await?;
        }
        Ok(())
    }
}
