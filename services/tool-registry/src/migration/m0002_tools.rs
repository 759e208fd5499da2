//! Tools, bindings, model providers, and what deploys did to them.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

/// Written as SQL and not derived from the entities, which change with later migrations.
const STATEMENTS: [&str; 5] = [
    "CREATE TABLE tools (
        name TEXT NOT NULL PRIMARY KEY,
        description TEXT NOT NULL,
        base_url TEXT NOT NULL,
        port INTEGER NOT NULL,
        scheme TEXT NOT NULL,
        auth_type TEXT NOT NULL,
        api_key_location TEXT,
        api_key_name TEXT,
        api_key_prefix TEXT,
        labels TEXT NOT NULL,
        credentials BLOB,
        builtin TEXT,
        created_by_operation TEXT,
        written_by_operation TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL
    )",
    "CREATE TABLE bindings (
        agent TEXT NOT NULL,
        tool TEXT NOT NULL,
        operation TEXT NOT NULL,
        settled BOOLEAN NOT NULL,
        PRIMARY KEY (agent, tool, operation)
    )",
    "CREATE INDEX bindings_tool ON bindings (tool)",
    "CREATE TABLE applications (
        operation TEXT NOT NULL PRIMARY KEY,
        agent TEXT NOT NULL,
        effects TEXT NOT NULL,
        settled BOOLEAN NOT NULL,
        created_at BIGINT NOT NULL
    )",
    "CREATE TABLE model_providers (
        name TEXT NOT NULL PRIMARY KEY,
        provider TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        models TEXT NOT NULL,
        labels TEXT NOT NULL,
        created_at BIGINT NOT NULL
    )",
];

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_tools"
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
