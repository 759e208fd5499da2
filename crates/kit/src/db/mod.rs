//! Databases of the services: an SQLite file of its own for each, or a schema of its own in PostgreSQL. One writing
//! transaction at a time, forward-only migrations.

mod copy;
mod error;
mod location;
mod marker;
mod migrate;
mod postgres;
mod schema;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;
mod unfinished_import;

pub use copy::{copy_rows, row_counts};
pub use error::{db_error, is_unique_violation};
pub use location::{DatabaseConfig, Location, is_in_postgres};
pub use marker::Marker;
pub use migrate::{Migration, Migrations};
pub use postgres::Server;
pub use schema::schemas;
pub use sqlite::{check, snapshot};
pub use unfinished_import::UnfinishedImport;

use hoistway_model::{Code, Error, Result};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, QueryResult,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The longest wait of a caller for a connection, and of a transaction for another one.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 20 });
const SLOW: Duration = Duration::from_secs(1);

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    write: DatabaseConnection,
    read: DatabaseConnection,
    location: Location,
    /// Keeps other processes from opening the same tables, until it is closed.
    hold: Arc<Mutex<Option<postgres::Hold>>>,
}

impl Db {
    /// Opens the database, which is created if it does not exist, and migrates its schema in one transaction; several
    /// processes may do so at once. A database of a newer Hoistway is refused and left unchanged.
    pub async fn open(location: &Location, migrations: &Migrations) -> Result<Self> {
        let ((write, read), hold) = match location {
            Location::Sqlite(path) => (sqlite::connect(path, migrations.sqlite).await?, None),
            Location::Postgres { server, marker, is_exclusive } => {
                let hold = if *is_exclusive { Some(postgres::hold(server).await?) } else { None };
                (postgres::connect(server, marker, migrations.postgres).await?, hold)
            }
        };
        Ok(Self { write, read, location: location.clone(), hold: Arc::new(Mutex::new(hold)) })
    }

    /// Returns the connections for queries. They see every commit made before they begin, and never wait for a
    /// transaction.
    pub fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// Returns the connections for a change of one statement that depends on no other row: in PostgreSQL it runs beside
    /// transactions. A caller that holds a transaction must not use them: SQLite has one.
    pub fn write(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Begins a transaction for several changes, or for a change that depends on a query. There is one at a time, in
    /// all processes together, so data read inside stays true until the commit. Dropped without commit, it is rolled
    /// back.
    pub async fn begin(&self) -> Result<DatabaseTransaction> {
        let begun = match &self.location {
            Location::Sqlite(_) => begin_immediate(&self.write).await,
            Location::Postgres { server, .. } => postgres::begin_alone(&self.write, server).await,
        };
        begun.map_err(db_error("beginning a transaction"))
    }

    /// Makes a change of one statement that depends on other rows, in a transaction of [`Db::begin`], and returns the
    /// number of changed rows. `doing` is public.
    pub async fn execute_alone(
        &self,
        doing: &str,
        text: &str,
        values: impl IntoIterator<Item = sea_orm::Value>,
    ) -> Result<u64> {
        let txn = self.begin().await?;
        let changed = execute_raw(&txn, text, values).await.map_err(db_error(doing))?;
        txn.commit().await.map_err(db_error(doing))?;
        Ok(changed)
    }

    /// Begins a transaction for queries that all see the same moment. It keeps nobody waiting.
    pub async fn snapshot(&self) -> Result<DatabaseTransaction> {
        // SQLite's transactions are like that.
        let level = self.dialect(None, Some(IsolationLevel::RepeatableRead));
        self.read.begin_with_config(level, None).await.map_err(db_error("beginning a transaction"))
    }

    /// Chooses between two texts of the same statement for the engines' dialects.
    pub fn dialect<T>(&self, sqlite: T, postgres: T) -> T {
        match &self.location {
            Location::Sqlite(_) => sqlite,
            Location::Postgres { .. } => postgres,
        }
    }

    /// Asks the database for an answer, and fails if there is none.
    pub async fn ping(&self) -> Result<()> {
        let failed = |e| Error::new(Code::Unavailable, "the database cannot be reached").with_source(e);
        query_raw(&self.read, "SELECT 1", []).await.map(drop).map_err(failed)
    }

    /// Returns the bytes that the database takes on disk, with its indexes and SQLite's write-ahead log.
    pub async fn size(&self) -> Result<u64> {
        match &self.location {
            Location::Sqlite(path) => sqlite::size(path).await,
            Location::Postgres { .. } => postgres::size(&self.read).await,
        }
    }

    /// Closes every connection; the last one to an SQLite file checkpoints the write-ahead log into it.
    pub async fn close(&self) {
        for connection in [&self.read, &self.write] {
            if let Err(e) = connection.close_by_ref().await {
                tracing::warn!("closing a database: {e}");
            }
        }
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(hold) = hold {
            hold.release().await;
        }
    }
}

/// Begins a transaction that has SQLite's write lock from the beginning. PostgreSQL ignores the mode.
async fn begin_immediate(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    connection.begin_with_options(options).await
}

/// Returns a text of unknown origin as a column can hold it: PostgreSQL's texts have no NUL character.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Returns a JSON text as a column can hold it. PostgreSQL's functions for JSON refuse one with an escaped NUL character.
pub fn storable_json(json: String) -> String {
    if json.contains("\\u0000") { json.replace("\\u0000", "\\ufffd") } else { json }
}

/// Runs a query of SQL that both engines understand. Parameters are `$1`, `$2`, …
pub async fn query_raw(
    connection: &impl ConnectionTrait,
    text: impl Into<String>,
    values: impl IntoIterator<Item = sea_orm::Value>,
) -> Result<Vec<QueryResult>, DbErr> {
    connection.query_all_raw(statement(connection.get_database_backend(), text, values)).await
}

/// Runs a change of SQL that both engines understand, and returns the number of changed rows.
pub async fn execute_raw(
    connection: &impl ConnectionTrait,
    text: impl Into<String>,
    values: impl IntoIterator<Item = sea_orm::Value>,
) -> Result<u64, DbErr> {
    let done = connection.execute_raw(statement(connection.get_database_backend(), text, values)).await?;
    Ok(done.rows_affected())
}

fn statement(
    backend: DbBackend,
    text: impl Into<String>,
    values: impl IntoIterator<Item = sea_orm::Value>,
) -> Statement {
    Statement::from_sql_and_values(backend, text, values)
}
