//! A description of a schema that does not depend on the engine, for tests that compare the engines' migrations.

use super::{DatabaseConfig, Db, Migrations, db_error, query_raw};
use crate::fs;
use hoistway_model::Result;
use std::{collections::BTreeSet, path::Path};

const SQLITE: &str = "
    SELECT t.name || '.' || c.name
        || CASE c.type WHEN 'VARCHAR' THEN ' text' WHEN 'TEXT' THEN ' text' WHEN 'BLOB' THEN ' bytes'
            WHEN 'BOOLEAN' THEN ' boolean' WHEN 'BIGINT' THEN ' integer' WHEN 'INTEGER' THEN ' integer' ELSE c.type END
        || CASE c.\"notnull\" WHEN 0 THEN ' null' ELSE '' END
    FROM sqlite_master t, pragma_table_info(t.name) c
    WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'seaql_migrations'
    UNION SELECT CASE WHEN i.origin = 'pk' THEN 'key of ' || t.name ELSE 'index ' || i.name END
        || CASE i.\"unique\" WHEN 1 THEN ' unique' ELSE '' END || ': '
        || (SELECT group_concat(c.name, ', ') FROM pragma_index_info(i.name) c)
    FROM sqlite_master t, pragma_index_list(t.name) i
    WHERE t.type = 'table' AND t.name <> 'seaql_migrations'
    UNION SELECT 'key of calls unique: id' FROM sqlite_master WHERE name = 'calls'";

const POSTGRES: &str = "
    SELECT table_name || '.' || column_name
        || CASE data_type WHEN 'text' THEN ' text' WHEN 'bytea' THEN ' bytes' WHEN 'boolean' THEN ' boolean'
            WHEN 'bigint' THEN ' integer' WHEN 'integer' THEN ' integer' ELSE data_type END
        || CASE is_nullable WHEN 'YES' THEN ' null' ELSE '' END
    FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name NOT IN
        ('seaql_migrations', 'installation', 'call_ids', 'deployment_places')
    UNION SELECT CASE WHEN i.indisprimary THEN 'key of ' || t.relname ELSE 'index ' || c.relname END
        || CASE WHEN i.indisunique THEN ' unique' ELSE '' END || ': '
        || (SELECT string_agg(a.attname, ', ' ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY AS k (column_number, place)
            JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.column_number)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relnamespace = current_schema()::regnamespace AND t.relname <> 'seaql_migrations'";

/// Returns the schema of `service` on each engine, SQLite first: the columns of all tables, as `TABLE.COLUMN TYPE`, and
/// the indexes and keys with their columns. What only one engine needs is left out. The databases are below `dir` and at
/// `url`.
pub async fn schemas(service: &str, migrations: &Migrations, dir: &Path, url: String) -> Result<[BTreeSet<String>; 2]> {
    let sqlite = schema(service, migrations, &dir.join("sqlite"), None).await?;
    let postgres = schema(service, migrations, &dir.join("postgres"), Some(url)).await?;
    Ok([sqlite, postgres])
}

async fn schema(service: &str, migrations: &Migrations, dir: &Path, url: Option<String>) -> Result<BTreeSet<String>> {
    let doing = "reading a schema";
    tokio::fs::create_dir_all(dir).await.map_err(fs::path_error("making", dir))?;
    let db = Db::open(&DatabaseConfig::from(url).location(service, dir).await?, migrations).await?;
    let rows = query_raw(db.read(), db.dialect(SQLITE, POSTGRES), []).await.map_err(db_error(doing))?;
    rows.iter().map(|row| row.try_get_by_index(0).map_err(db_error(doing))).collect()
}
