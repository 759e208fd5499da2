//! Agents and their revisions.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

/// Written as SQL and not derived from the entities, which change with later migrations.
const STATEMENTS: [&str; 3] = [
    "CREATE TABLE agents (
        name TEXT NOT NULL PRIMARY KEY,
        desired_revision TEXT,
        active_revision TEXT,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL
    )",
    "CREATE TABLE revisions (
        id TEXT NOT NULL PRIMARY KEY,
        agent TEXT NOT NULL,
        operation TEXT,
        spec BLOB NOT NULL,
        token BLOB NOT NULL,
        phase TEXT NOT NULL,
        message TEXT NOT NULL,
        failure TEXT,
        image_digest TEXT,
        layers TEXT NOT NULL,
        python TEXT,
        entry_point TEXT,
        created_at BIGINT NOT NULL
    )",
    "CREATE INDEX revisions_agent ON revisions (agent, created_at)",
];

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_agents"
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
