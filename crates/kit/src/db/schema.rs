//! A description of a schema that does not depend on the engine, for tests that compare the engines' migrations.

use super::{Db, query_raw};
use sea_orm::DbErr;
use std::collections::BTreeSet;

const SQLITE: &str = "
    SELECT t.name || '.' || c.name
        || CASE c.type WHEN 'VARCHAR' THEN ' text' WHEN 'TEXT' THEN ' text' WHEN 'BLOB' THEN ' bytes'
            WHEN 'BOOLEAN' THEN ' boolean' WHEN 'BIGINT' THEN ' integer' WHEN 'INTEGER' THEN ' integer' ELSE c.type END
        || CASE c.\"notnull\" WHEN 0 THEN ' null' ELSE '' END
    FROM sqlite_master t, pragma_table_info(t.name) c
    WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'seaql_migrations'
    UNION SELECT 'index ' || name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";

const POSTGRES: &str = "
    SELECT table_name || '.' || column_name
        || CASE data_type WHEN 'text' THEN ' text' WHEN 'bytea' THEN ' bytes' WHEN 'boolean' THEN ' boolean'
            WHEN 'bigint' THEN ' integer' WHEN 'integer' THEN ' integer' ELSE data_type END
        || CASE is_nullable WHEN 'YES' THEN ' null' ELSE '' END
    FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name NOT IN ('seaql_migrations', 'call_ids', 'deployment_places')
    UNION SELECT 'index ' || indexname FROM pg_indexes
    WHERE schemaname = current_schema() AND indexname NOT LIKE '%_pkey'";

impl Db {
    /// Returns the columns of all tables, as `TABLE.COLUMN TYPE`, and the names of the indexes. What only one engine
    /// needs is left out.
    pub async fn schema(&self) -> Result<BTreeSet<String>, DbErr> {
        let rows = query_raw(self.read(), self.dialect(SQLITE, POSTGRES), []).await?;
        rows.iter().map(|row| row.try_get_by_index(0)).collect()
    }
}
