//! A copy of all rows of a service's tables, from one database to another one of either engine.

use super::{Db, Location, db_error, execute_raw, query_raw, storable};
use hoistway_model::{Error, Result};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, QueryResult, Value};
use std::collections::BTreeMap;

/// Rows that are read, and written, at a time.
const PAGE: usize = 200;
const COPYING: &str = "copying the tables";

const SQLITE_COLUMNS: &str = "
    SELECT t.name, c.name, lower(c.type), c.pk
    FROM sqlite_master t, pragma_table_info(t.name) c
    WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'seaql_migrations'
    ORDER BY t.name, c.cid";

/// The tables that only PostgreSQL has are its own: the installation's id, and the numbers that its triggers give.
const POSTGRES_COLUMNS: &str = "
    SELECT c.table_name::TEXT, c.column_name::TEXT, c.data_type::TEXT, COALESCE(k.ordinal_position, 0)::BIGINT
    FROM information_schema.columns c LEFT JOIN (
        SELECT u.table_name, u.column_name, u.ordinal_position
        FROM information_schema.key_column_usage u
        JOIN information_schema.table_constraints t USING (constraint_schema, constraint_name)
        WHERE t.constraint_type = 'PRIMARY KEY' AND u.table_schema = current_schema()
    ) k USING (table_name, column_name)
    WHERE c.table_schema = current_schema()
        AND c.table_name NOT IN ('seaql_migrations', 'installation', 'call_ids', 'deployment_places')
    ORDER BY c.table_name, c.ordinal_position";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Bytes,
    Boolean,
    Integer,
}

#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: String,
    holds: Type,
}

/// The columns of a table, sorted by name, and the places of those of its primary key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    columns: Vec<Column>,
    key: Vec<usize>,
}

/// Replaces all rows of `to` by those of `from`, in one transaction. Both have the same migrations, and nobody else
/// uses `to`.
pub async fn copy_rows(from: &Db, to: &Db) -> Result<()> {
    let tables = tables(from).await?;
    if self::tables(to).await? != tables {
        return Err(Error::internal(COPYING, "the databases do not have the same tables"));
    }
    let source = from.snapshot().await?;
    let txn = to.begin().await?;
    // What triggers add to a row is copied with it.
    let triggers = disable_triggers(to, &txn, &tables).await?;
    for (name, table) in &tables {
        execute_raw(&txn, format!("DELETE FROM {name}"), []).await.map_err(db_error(COPYING))?;
        let mut last = None;
        loop {
            let rows = read_page(from, &source, name, table, last.as_deref()).await?;
            let Some(row) = rows.last() else { break };
            last = Some(table.key.iter().map(|place| row[*place].clone()).collect::<Vec<_>>());
            let is_last = rows.len() < PAGE;
            write_page(to, &txn, name, table, rows).await?;
            if is_last {
                break;
            }
        }
    }
    copy_counters(&source, to, &txn, &tables).await?;
    execute_all(&txn, &triggers).await?;
    txn.commit().await.map_err(db_error(COPYING))
}

/// Returns the tables that have rows, with their number, by name.
pub async fn row_counts(db: &Db) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for name in tables(db).await?.into_keys() {
        let rows = query_raw(db.read(), format!("SELECT CAST(COUNT(*) AS BIGINT) FROM {name}"), []).await;
        let rows = rows.map_err(db_error(COPYING))?;
        let count: Option<i64> =
            rows.first().map(|row| row.try_get_by_index(0)).transpose().map_err(db_error(COPYING))?;
        if let Some(count) = count.filter(|count| *count > 0) {
            found.insert(name, count.unsigned_abs());
        }
    }
    Ok(found)
}

async fn tables(db: &Db) -> Result<BTreeMap<String, Table>> {
    let rows = query_raw(db.read(), db.dialect(SQLITE_COLUMNS, POSTGRES_COLUMNS), []).await;
    let mut tables: BTreeMap<String, Vec<(Column, i64)>> = BTreeMap::new();
    for row in rows.map_err(db_error(COPYING))? {
        let (table, name, holds, place): (String, String, String, i64) =
            read_column(&row).map_err(db_error(COPYING))?;
        let holds = match holds.as_str() {
            "text" | "varchar" => Type::Text,
            "blob" | "bytea" => Type::Bytes,
            "boolean" => Type::Boolean,
            "integer" | "bigint" => Type::Integer,
            other => return Err(Error::internal(COPYING, format!("{table}.{name} has the unknown type {other}"))),
        };
        tables.entry(table).or_default().push((Column { name, holds }, place));
    }
    let sorted = tables.into_iter().map(|(name, mut columns)| {
        // Columns that a migration added are at the end, in the engine that was migrated.
        columns.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let mut key: Vec<_> = columns.iter().enumerate().filter(|(_, (_, place))| *place > 0).collect();
        key.sort_by_key(|(_, (_, place))| *place);
        let key = key.into_iter().map(|(index, _)| index).collect();
        (name, Table { columns: columns.into_iter().map(|(column, _)| column).collect(), key })
    });
    Ok(sorted.collect())
}

fn read_column(row: &QueryResult) -> Result<(String, String, String, i64), DbErr> {
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?, row.try_get_by_index(3)?))
}

/// Returns the rows after the one with the key `after`, in the order of keys.
async fn read_page(
    db: &Db,
    source: &DatabaseTransaction,
    name: &str,
    table: &Table,
    after: Option<&[Value]>,
) -> Result<Vec<Vec<Value>>> {
    let columns = table.columns.iter().map(|column| match column.holds {
        // PostgreSQL has integers of two sizes.
        Type::Integer => db.dialect(quoted(&column.name), format!("CAST({} AS BIGINT)", quoted(&column.name))),
        _ => quoted(&column.name),
    });
    let key = joined(table.key.iter().map(|place| quoted(&table.columns[*place].name)));
    let filter = match after {
        Some(after) => format!(" WHERE ({key}) > ({})", joined((1..=after.len()).map(|n| format!("${n}")))),
        None => String::new(),
    };
    let text = format!("SELECT {} FROM {name}{filter} ORDER BY {key} LIMIT {PAGE}", joined(columns));
    let rows = query_raw(source, text, after.into_iter().flatten().cloned()).await.map_err(db_error(COPYING))?;
    let read = rows.iter().map(|row| {
        let values = table.columns.iter().enumerate().map(|(index, column)| read_value(row, index, column.holds));
        values.collect::<Result<Vec<_>, _>>()
    });
    read.collect::<Result<_, _>>().map_err(db_error(COPYING))
}

fn read_value(row: &QueryResult, index: usize, holds: Type) -> Result<Value, DbErr> {
    Ok(match holds {
        Type::Text => row.try_get_by_index::<Option<String>>(index)?.into(),
        Type::Bytes => row.try_get_by_index::<Option<Vec<u8>>>(index)?.into(),
        Type::Boolean => row.try_get_by_index::<Option<bool>>(index)?.into(),
        Type::Integer => row.try_get_by_index::<Option<i64>>(index)?.into(),
    })
}

async fn write_page(
    db: &Db,
    txn: &DatabaseTransaction,
    name: &str,
    table: &Table,
    rows: Vec<Vec<Value>>,
) -> Result<()> {
    let width = table.columns.len();
    let row = |row: usize| format!("({})", joined((1..=width).map(|column| format!("${}", row * width + column))));
    let columns = joined(table.columns.iter().map(|column| quoted(&column.name)));
    let text = format!("INSERT INTO {name} ({columns}) VALUES {}", joined((0..rows.len()).map(row)));
    let values = rows.into_iter().flatten().map(|value| match value {
        Value::String(Some(text)) => db.dialect(None, Some(storable(&text).into_owned())).unwrap_or(text).into(),
        other => other,
    });
    execute_raw(txn, text, values).await.map(drop).map_err(db_error(COPYING))
}

/// Copies the numbers that are given once, whatever was removed since.
async fn copy_counters(
    source: &DatabaseTransaction,
    to: &Db,
    txn: &DatabaseTransaction,
    tables: &BTreeMap<String, Table>,
) -> Result<()> {
    let failed = || db_error(COPYING);
    if tables.contains_key("deployments") && matches!(to.location, Location::Postgres { .. }) {
        let text = "UPDATE deployment_places SET last = (SELECT COALESCE(MAX(place), 0) FROM deployments)";
        execute_raw(txn, text, []).await.map_err(failed())?;
    }
    if tables.contains_key("calls") {
        // A view in SQLite.
        let rows = query_raw(source, "SELECT last FROM call_ids", []).await.map_err(failed())?;
        let Some(row) = rows.first() else { return Ok(()) };
        let last: i64 = row.try_get_by_index(0).map_err(failed())?;
        let forget = to.dialect("DELETE FROM sqlite_sequence WHERE name = 'calls'", "DELETE FROM call_ids");
        execute_raw(txn, forget, []).await.map_err(failed())?;
        let text = to.dialect("INSERT INTO sqlite_sequence VALUES ('calls', $1)", "INSERT INTO call_ids VALUES ($1)");
        execute_raw(txn, text, [last.into()]).await.map_err(failed())?;
    }
    Ok(())
}

/// Disables the triggers, and returns the statements that enable them.
async fn disable_triggers(db: &Db, txn: &DatabaseTransaction, tables: &BTreeMap<String, Table>) -> Result<Vec<String>> {
    let failed = || db_error(COPYING);
    if matches!(db.location, Location::Postgres { .. }) {
        let each =
            |change: &str| tables.keys().map(|name| format!("ALTER TABLE {name} {change} TRIGGER USER")).collect();
        let disable: Vec<String> = each("DISABLE");
        execute_all(txn, &disable).await?;
        return Ok(each("ENABLE"));
    }
    // SQLite cannot disable them, but makes and removes them in transactions.
    let rows = query_raw(txn, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid", []).await;
    let mut make = Vec::new();
    for row in rows.map_err(failed())? {
        let name: String = row.try_get_by_index(0).map_err(failed())?;
        make.push(row.try_get_by_index(1).map_err(failed())?);
        execute_all(txn, &[format!("DROP TRIGGER {name}")]).await?;
    }
    Ok(make)
}

async fn execute_all(txn: &DatabaseTransaction, statements: &[String]) -> Result<()> {
    for statement in statements {
        txn.execute_unprepared(statement).await.map_err(db_error(COPYING))?;
    }
    Ok(())
}

fn quoted(column: &str) -> String {
    format!("\"{column}\"")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::db::{DatabaseConfig, Migration, Migrations};
    use std::path::Path;

    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[Migration {
            name: "m1",
            sql: "CREATE TABLE things (b BLOB NOT NULL DEFAULT '', id TEXT NOT NULL, n INTEGER NOT NULL, t TEXT, f BOOLEAN, i BIGINT,
                      PRIMARY KEY (n, id));
                  CREATE TABLE calls (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, seen TEXT);
                  CREATE VIEW call_ids AS SELECT seq AS last FROM sqlite_sequence WHERE name = 'calls';
                  CREATE TRIGGER things_are_seen AFTER INSERT ON things BEGIN INSERT INTO calls (seen) VALUES (NEW.id); END;",
        }],
        postgres: &[Migration {
            name: "m1",
            sql: "CREATE TABLE things (id TEXT COLLATE \"C\" NOT NULL, n INTEGER NOT NULL, t TEXT, f BOOLEAN, i BIGINT,
                      b BYTEA NOT NULL DEFAULT '', PRIMARY KEY (n, id));
                  CREATE TABLE calls (id BIGINT NOT NULL PRIMARY KEY, seen TEXT);
                  CREATE TABLE call_ids (last BIGINT NOT NULL);
                  INSERT INTO call_ids VALUES (0);
                  CREATE FUNCTION call_has_an_id() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS
                      $$ BEGIN UPDATE call_ids SET last = last + 1 RETURNING last INTO NEW.id; RETURN NEW; END $$;
                  CREATE TRIGGER call_has_an_id BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION call_has_an_id();
                  CREATE FUNCTION things_are_seen() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS
                      $$ BEGIN INSERT INTO calls (seen) VALUES (NEW.id); RETURN NULL; END $$;
                  CREATE TRIGGER things_are_seen AFTER INSERT ON things FOR EACH ROW EXECUTE FUNCTION things_are_seen();",
        }],
    };
    const THING: &str = "INSERT INTO things (id, n, t, f, i, b) VALUES ($1, $2, $3, $4, $5, $6)";
    /// More than two pages.
    const THINGS: i64 = 450;

    async fn open(dir: &Path, name: &str, url: Option<String>) -> Db {
        let location = DatabaseConfig::from(url).location(name, &dir.join(name)).await.unwrap();
        Db::open(&location, &MIGRATIONS).await.unwrap()
    }

    async fn texts(db: &Db, query: &str) -> Vec<String> {
        let rows = query_raw(db.read(), query, []).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
    }

    #[tokio::test]
    async fn all_rows_of_either_engine_get_into_either_engine() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["from", "to", "last"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
        let from = open(dir.path(), "from", None).await;
        let txn = from.begin().await.unwrap();
        for n in 0..THINGS {
            let text = (n % 3 > 0).then(|| format!("text {n}"));
            let values: [Value; 6] = [
                format!("id-{n}").into(),
                (n % 7).into(),
                text.into(),
                Some(n % 2 == 0).into(),
                (n > 5).then_some(i64::MAX - n).into(),
                vec![0u8, 255, n as u8].into(),
            ];
            execute_raw(&txn, THING, values).await.unwrap();
        }
        txn.commit().await.unwrap();
        let other = "INSERT INTO things (id, n, t) VALUES ('nul', 9, 'a' || char(0) || 'b')";
        execute_raw(from.write(), other, []).await.unwrap();
        execute_raw(from.write(), "DELETE FROM calls WHERE id > 3", []).await.unwrap();

        let to = open(dir.path(), "to", Some(url)).await;
        let last = open(dir.path(), "last", None).await;
        execute_raw(last.write(), "INSERT INTO things (id, n) VALUES ('of before', 1)", []).await.unwrap();
        for (from, to) in [(&from, &to), (&to, &last), (&from, &to)] {
            copy_rows(from, to).await.unwrap();
            let counts: Vec<_> = row_counts(to).await.unwrap().into_iter().collect();
            assert_eq!(counts, [("calls".to_owned(), 3), ("things".to_owned(), THINGS as u64 + 1)]);
        }
        let rows = "SELECT id || ' ' || n || ' ' || COALESCE(t, '-') || ' ' || CASE f WHEN TRUE THEN 't' WHEN FALSE THEN 'f' ELSE '-' END
            || ' ' || COALESCE(CAST(i AS TEXT), '-') FROM things WHERE id <> 'nul' ORDER BY n, id";
        let expected = texts(&from, rows).await;
        assert_eq!(texts(&to, rows).await, expected);
        assert_eq!(texts(&last, rows).await, expected);
        assert_eq!(texts(&last, "SELECT hex(b) FROM things WHERE id = 'id-7'").await, ["00FF07"]);
        assert_eq!(texts(&to, "SELECT t FROM things WHERE id = 'nul'").await, ["a\u{fffd}b"]);
        // Triggers work again, and numbers go on after those that were removed.
        for db in [&to, &last] {
            execute_raw(db.write(), "INSERT INTO things (id, n) VALUES ('new', 1)", []).await.unwrap();
            let newest = "SELECT CAST(id AS TEXT) || seen FROM calls ORDER BY id DESC LIMIT 1";
            assert_eq!(texts(db, newest).await, [format!("{}new", THINGS + 2)]);
        }
    }
}
