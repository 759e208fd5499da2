//! SQLite: one file, one writing connection, a few reading ones.

use super::{
    PATIENCE, SLOW, begin_immediate,
    error::{db_error, is_busy, is_full},
    migrate::{Migration, apply},
};
use crate::fs;
use hoistway_model::{Code, Error, Result};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, RuntimeErr, Statement,
    sqlx::{
        self, Connection as _,
        sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
    },
};
use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Enough for a few concurrent callers; each connection has a thread and a page cache of its own.
const READERS: u32 = 2;
/// The size to which the file of the write-ahead log is truncated after a large transaction is in the database, in
/// bytes.
const LOG_SIZE: &str = "16777216";

/// Opens the file `path`, which is created (0600) if it does not exist; returns the writing and the reading connections.
pub(super) async fn connect(path: &Path, migrations: &[Migration]) -> Result<(DatabaseConnection, DatabaseConnection)> {
    let file = path.to_owned();
    tokio::task::spawn_blocking(move || make_private(&file))
        .await
        .map_err(|e| Error::internal("opening a database", e))?
        .map_err(fs::path_error("making", path))?;

    let failed = |e| open_error("opening", path, e);
    let mut options = options(path.to_owned(), false);
    options
        .max_connections(1)
        .min_connections(1)
        .map_sqlx_sqlite_before_acquire(|connection, _| Box::pin(is_outside_transactions(connection)));
    let write = Database::connect(options).await.map_err(failed)?;
    let migrating = |e| open_error("migrating", path, e);
    let txn = begin_immediate(&write).await.map_err(migrating)?;
    apply(&txn, migrations, &path.display().to_string(), migrating).await?;
    txn.commit().await.map_err(migrating)?;

    let mut options = self::options(path.to_owned(), true);
    options.max_connections(READERS).min_connections(0).connect_lazy(true);
    let read = Database::connect(options).await.map_err(failed)?;
    Ok((write, read))
}

/// Returns the bytes of the file and its write-ahead log.
pub(super) async fn size(path: &Path) -> Result<u64> {
    let mut size = 0;
    for file in [path, &path.with_extension("db-wal")] {
        size += tokio::fs::metadata(file).await.map_or(0, |metadata| metadata.len());
    }
    Ok(size)
}

/// Writes the current content of the database `from` to the new file `to`, while others go on reading and writing it,
/// in this process or in another.
pub async fn snapshot(from: &Path, to: &Path) -> Result<()> {
    let failed = |e: DbErr| match is_full(&e) {
        true => db_error("copying a database")(e),
        false => Error::internal(&format!("copying {}", from.display()), e),
    };
    let mut options = options(from.to_owned(), false);
    options.max_connections(1);
    let db = Database::connect(options).await.map_err(failed)?;
    let to = to.to_str().ok_or_else(|| Error::new(Code::InvalidArgument, "the path is not UTF-8"))?;
    let copy = Statement::from_sql_and_values(db.get_database_backend(), "VACUUM INTO ?", [to.into()]);
    let copied = db.execute_raw(copy).await.map(drop).map_err(failed);
    db.close().await.map_err(failed)?;
    copied
}

/// Checks the whole database `path`, which no process may have open and which stays unchanged, and reports any damage.
pub async fn check(path: &Path) -> Result<()> {
    let damaged = |e: String| Error::new(Code::InvalidArgument, format!("the database is damaged: {e}"));
    let file = path.to_owned();
    let mut options = ConnectOptions::new("sqlite:hoistway");
    options.max_connections(1).record_stmt_in_spans(false).map_sqlx_sqlite_opts(move |_: SqliteConnectOptions| {
        SqliteConnectOptions::new().filename(&file).read_only(true).immutable(true)
    });
    let db = Database::connect(options).await.map_err(|e| damaged(e.to_string()))?;
    let said = db.query_all_raw(Statement::from_string(db.get_database_backend(), "PRAGMA quick_check(1)")).await;
    let said =
        said.and_then(|rows| rows.iter().map(|row| row.try_get_by_index::<String>(0)).collect::<Result<Vec<_>, _>>());
    let closed = db.close().await;
    match said.map_err(|e| damaged(e.to_string()))?.as_slice() {
        [ok] if ok == "ok" => closed.map_err(|e| Error::internal("closing a database", e)),
        wrong => Err(damaged(wrong.join("; "))),
    }
}

/// Makes the error for a database that cannot be opened, addressed to the operator.
fn open_error(doing: &str, path: &Path, e: DbErr) -> Error {
    let path = path.display();
    let pool_timed_out =
        matches!(&e, DbErr::Conn(RuntimeErr::SqlxError(e)) if matches!(**e, sqlx::Error::PoolTimedOut));
    if pool_timed_out || is_busy(&e) {
        let text = format!("{path} is locked by another process: end it (`fuser {path}` names it) and start again");
        return Error::new(Code::Unavailable, text).with_source(e);
    }
    match is_full(&e) {
        true => db_error(&format!("{doing} {path}"))(e),
        false => Error::internal(&format!("{doing} {path}"), e),
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::make_dir(dir)?;
    }
    // SQLite gives its log and shared memory files the mode of the database file.
    OpenOptions::new().write(true).create(true).truncate(false).mode(fs::PRIVATE_FILE).open(path)?;
    fs::tighten(path, fs::PRIVATE_FILE)
}

fn options(path: PathBuf, read_only: bool) -> ConnectOptions {
    // The path is passed beside the URL: inside it, a `?` or `%` would have a meaning.
    let mut options = ConnectOptions::new("sqlite:hoistway");
    options
        .acquire_timeout(PATIENCE)
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        .record_stmt_in_spans(false)
        .map_sqlx_sqlite_opts(move |_: SqliteConnectOptions| {
            use sea_orm::sqlx::ConnectOptions as _;
            let mut options = SqliteConnectOptions::new()
                .filename(&path)
                .create_if_missing(false)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .pragma("journal_size_limit", LOG_SIZE)
                .busy_timeout(PATIENCE);
            if read_only {
                options = options.pragma("query_only", "ON");
            }
            // Statements are logged at debug under `sqlx::query`, without their values.
            match "debug".parse() {
                Ok(level) => options.log_statements(level).log_slow_statements(level, SLOW),
                Err(_) => options.disable_statement_logging(),
            }
        });
    options
}

/// Whether the writer may be reused. On a full disk SQLite rolls a transaction back by itself, but the driver still
/// counts it as open: later "commits" on that connection would not reach the file. The pool replaces a connection for
/// which this is false.
async fn is_outside_transactions(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // A rollback may still be queued for the connection's thread.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}
