//! SQLite databases of the services: one file, one writer, a few readers, forward-only migrations.

use crate::{fs, time::now_ms};
use hoistway_model::{Code, Error, Result};
use sea_orm::{
    ActiveValue::Set,
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, RuntimeErr,
    Schema, SqlErr, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    sqlx::{
        self, Connection as _,
        sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
    },
};
use std::{
    collections::HashSet,
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
/// The longest wait of a caller for the writer, and of the writer for a lock of another process.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });
const SLOW: Duration = Duration::from_secs(1);

/// A change of the schema, forward only. One that was released is never changed: databases have it already.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The name under which databases record that they have it, which is also its file's.
    pub name: &'static str,
    /// The statements, which are independent of the entities, as those change later.
    pub sql: &'static str,
}

/// The migrations `NAME.sql` beside the calling file, in the order in which they are applied, after those of
/// this crate if any.
#[macro_export]
macro_rules! migrations {
    ($($shared:path;)* $($name:literal),* $(,)?) => {
        &[$($shared,)* $($crate::db::Migration { name: $name, sql: include_str!(concat!($name, ".sql")) }),*]
    };
}

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    write: DatabaseConnection,
    read: DatabaseConnection,
}

impl Db {
    /// Opens the file `path`, which is created (0600) if it does not exist, and migrates its schema in one transaction.
    /// A database of a newer Hoistway is refused and left unchanged.
    pub async fn open(path: &Path, migrations: &[Migration]) -> Result<Self> {
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
        migrate(&write, path, migrations).await?;

        let mut options = self::options(path.to_owned(), true);
        options.max_connections(READERS).min_connections(0).connect_lazy(true);
        let read = Database::connect(options).await.map_err(failed)?;
        Ok(Self { write, read })
    }

    /// Returns the connections for queries. They see every commit made before they begin, and never wait for the
    /// writer.
    pub fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// Returns the connection for a change of one statement. There is one writer: a caller that holds a transaction
    /// must not use it.
    pub fn write(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Begins a transaction for several changes, or for a change that depends on a query. It takes the write lock at
    /// once (BEGIN IMMEDIATE), so data read inside stays true until the commit. Dropped without commit, it is rolled
    /// back.
    pub async fn begin(&self) -> Result<DatabaseTransaction> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.write.begin_with_options(options).await.map_err(db_error("beginning a transaction"))
    }

    /// Closes every connection; the last one checkpoints the write-ahead log into the file.
    pub async fn close(&self) {
        for connection in [&self.read, &self.write] {
            if let Err(e) = connection.close_by_ref().await {
                tracing::warn!("closing a database: {e}");
            }
        }
    }
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

/// Makes an error in `map_err`: a full disk and a busy database have codes of their own, all else is internal. `doing`
/// is public.
pub fn db_error(doing: &str) -> impl FnOnce(DbErr) -> Error {
    move |e| {
        let (code, why) = match sqlite_code(&e) {
            _ if is_full(&e) => (Code::InsufficientStorage, "the disk is full"),
            Some(5 | 6) => (Code::Unavailable, "the database is busy"),
            _ if matches!(e, DbErr::ConnectionAcquire(_)) => (Code::Unavailable, "the database is busy"),
            _ => return Error::internal(doing, e),
        };
        Error::new(code, format!("{why} while {doing}")).with_source(e)
    }
}

/// Makes the error for a database that cannot be opened, addressed to the operator.
fn open_error(doing: &str, path: &Path, e: DbErr) -> Error {
    let path = path.display();
    let pool_timed_out =
        matches!(&e, DbErr::Conn(RuntimeErr::SqlxError(e)) if matches!(**e, sqlx::Error::PoolTimedOut));
    if pool_timed_out || matches!(sqlite_code(&e), Some(5 | 6)) || matches!(e, DbErr::ConnectionAcquire(_)) {
        let text = format!("{path} is locked by another process: end it (`fuser {path}` names it) and start again");
        return Error::new(Code::Unavailable, text).with_source(e);
    }
    match is_full(&e) {
        true => db_error(&format!("{doing} {path}"))(e),
        false => Error::internal(&format!("{doing} {path}"), e),
    }
}

/// Whether a row could not be written because of another one with the same key.
pub fn is_unique_violation(e: &DbErr) -> bool {
    matches!(e.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// Whether the disk is full: SQLite's code 13, and the extended code of shared memory that cannot grow.
fn is_full(e: &DbErr) -> bool {
    extended_code(e).is_some_and(|code| code & 0xff == 13 || code == 4874)
}

/// Returns SQLite's primary result code: 5 is busy, 6 locked.
fn sqlite_code(e: &DbErr) -> Option<u32> {
    extended_code(e).map(|code| code & 0xff)
}

fn extended_code(e: &DbErr) -> Option<u32> {
    let (DbErr::Conn(RuntimeErr::SqlxError(e))
    | DbErr::Exec(RuntimeErr::SqlxError(e))
    | DbErr::Query(RuntimeErr::SqlxError(e))) = e
    else {
        return None;
    };
    e.as_database_error()?.code()?.parse().ok()
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

/// Applies missing migrations in one transaction: a crash, or a migration that fails, leaves the old schema.
async fn migrate(db: &DatabaseConnection, path: &Path, migrations: &[Migration]) -> Result<()> {
    let failed = |e| open_error("migrating", path, e);
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let txn = db.begin_with_options(options).await.map_err(failed)?;
    let mut table = Schema::new(txn.get_database_backend()).create_table_from_entity(applied::Entity);
    txn.execute(table.if_not_exists()).await.map_err(failed)?;

    let found = applied::Entity::find().all(&txn).await.map_err(failed)?;
    let found: HashSet<String> = found.into_iter().map(|row| row.version).collect();
    let known: HashSet<&str> = migrations.iter().map(|migration| migration.name).collect();
    if let Some(newer) = found.iter().filter(|name| !known.contains(name.as_str())).max() {
        let text = format!(
            "{} was written by a newer Hoistway (schema \"{newer}\"): start that version, or restore a backup",
            path.display()
        );
        return Err(Error::new(Code::Conflict, text));
    }

    for Migration { name, sql } in migrations.iter().filter(|migration| !found.contains(migration.name)) {
        txn.execute_unprepared(sql).await.map_err(failed)?;
        let row = applied::ActiveModel { version: Set((*name).to_owned()), applied_at: Set(now_ms() / 1000) };
        applied::Entity::insert(row).exec_without_returning(&txn).await.map_err(failed)?;
        tracing::debug!("{}: applied {name}", path.display());
    }
    txn.commit().await.map_err(failed)
}

/// The table of the migrations that a database has, as sea-orm's own migrator names it.
mod applied {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "seaql_migrations")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: String,
        /// Seconds since the Unix epoch.
        pub applied_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::idempotency;
    use sea_orm::sqlx::ConnectOptions as _;
    use std::os::unix::fs::PermissionsExt;

    const FIRST: Migration = Migration { name: "m1", sql: "create table t (id integer primary key)" };
    const SECOND: Migration =
        Migration { name: "m2", sql: "alter table t add column name text; create unique index t_name on t (name)" };

    async fn pragma(connection: &DatabaseConnection, name: &str) -> String {
        let row = connection
            .query_one_raw(sea_orm::Statement::from_string(
                connection.get_database_backend(),
                format!("select cast({name} as text) from pragma_{name}"),
            ))
            .await
            .unwrap()
            .unwrap();
        row.try_get_by_index(0).unwrap()
    }

    #[tokio::test]
    async fn a_database_is_private_durable_and_migrated_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd ? %41 name/tools.db");
        let db = Db::open(&path, &[FIRST]).await.unwrap();
        db.close().await;
        let db = Db::open(&path, &[FIRST, SECOND]).await.unwrap();
        db.write().execute_unprepared("insert into t values (1, 'a')").await.unwrap();
        for file in [path.clone(), path.with_extension("db-wal"), path.with_extension("db-shm")] {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        }
        for connection in [db.read(), db.write()] {
            assert_eq!(pragma(connection, "journal_mode").await, "wal");
            assert_eq!(pragma(connection, "synchronous").await, "2");
            assert_eq!(pragma(connection, "foreign_keys").await, "1");
        }
        assert!(db.read().execute_unprepared("delete from t").await.is_err());

        let e = db.write().execute_unprepared("insert into t values (2, 'a')").await.unwrap_err();
        assert!(is_unique_violation(&e));
        assert_eq!(db_error("adding a tool")(e).code, Code::Internal);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.db");
        Db::open(&path, &[FIRST, SECOND]).await.unwrap().close().await;
        let e = Db::open(&path, &[FIRST]).await.unwrap_err();
        let expected = format!(
            "{} was written by a newer Hoistway (schema \"m2\"): start that version, or restore a backup",
            path.display()
        );
        assert_eq!((e.code, e.message), (Code::Conflict, expected));
        Db::open(&path, &[FIRST, SECOND]).await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_database_is_noticed_and_a_whole_one_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("tools.db"), dir.path().join("copy.db"));
        let db = Db::open(&path, &[FIRST, SECOND]).await.unwrap();
        for n in 0..2000 {
            db.write().execute_unprepared(&format!("insert into t values ({n}, 'name {n}')")).await.unwrap();
        }
        snapshot(&path, &copy).await.unwrap();
        let whole = std::fs::read(&copy).unwrap();
        check(&copy).await.unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), whole);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left beside it");

        let cut = whole[..whole.len() / 2].to_vec();
        let mut scribbled = whole.clone();
        scribbled[4096 * 3..4096 * 4].fill(0xa5);
        for damaged in [cut, scribbled, b"not a database at all, but longer than a header of one".repeat(99)] {
            std::fs::write(&copy, damaged).unwrap();
            assert_eq!(check(&copy).await.unwrap_err().code, Code::InvalidArgument);
        }
    }

    #[tokio::test]
    async fn a_migration_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.db");
        let broken = Migration { name: "m2", sql: "create table broken (" };
        assert!(Db::open(&path, &[FIRST, broken]).await.is_err());
        Db::open(&path, &[FIRST, SECOND]).await.unwrap();
    }

    #[tokio::test]
    async fn a_database_that_another_process_holds_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.db");
        let db = Db::open(&path, &[FIRST]).await.unwrap();
        let held = db.begin().await.unwrap();
        let e = Db::open(&path, &[FIRST]).await.unwrap_err();
        drop(held);
        db.close().await;
        let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        sqlx::raw_sql("pragma locking_mode = exclusive; begin exclusive").execute(&mut other).await.unwrap();
        let exclusive = Db::open(&path, &[FIRST]).await.unwrap_err();
        for e in [e, exclusive] {
            let expected = format!("{} is locked by another process: ", path.display());
            assert!(e.code == Code::Unavailable && e.message.starts_with(&expected), "{e:?}");
        }
    }

    #[tokio::test]
    async fn a_transaction_is_alone_and_rolled_back_when_dropped() {
        crate::telemetry::tests::start();
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("t.db"), &[idempotency::MIGRATION]).await.unwrap();
        let count = async || {
            let sql = "select count(*) from operations";
            let query = sea_orm::Statement::from_string(db.read().get_database_backend(), sql);
            db.read().query_one_raw(query).await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
        };
        let insert = "insert into operations values ('a', 'k', 'd', null, 0, 0)";
        let txn = db.begin().await.unwrap();
        txn.execute_unprepared(insert).await.unwrap();
        assert_eq!(count().await, 0);
        drop(txn);
        let txn = db.begin().await.unwrap();
        txn.execute_unprepared(insert).await.unwrap();
        txn.commit().await.unwrap();
        assert_eq!(count().await, 1);
    }

    #[tokio::test]
    async fn what_is_committed_after_sqlite_rolled_back_by_itself_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("t.db"), &[FIRST, SECOND]).await.unwrap();
        for round in 0..3 {
            // SQLite rolls back by itself here, as on a full disk.
            let txn = db.begin().await.unwrap();
            txn.execute_unprepared("insert or rollback into t values (100, 'a'), (100, 'b')").await.unwrap_err();
            drop(txn);
            drop(db.begin().await.unwrap());

            let txn = db.begin().await.unwrap();
            txn.execute_unprepared(&format!("insert into t values ({round}, 'name {round}')")).await.unwrap();
            txn.commit().await.unwrap();
            let sql = "select count(*) from t";
            let count = sea_orm::Statement::from_string(db.read().get_database_backend(), sql);
            let count = db.read().query_one_raw(count).await.unwrap().unwrap();
            assert_eq!(count.try_get_by_index::<i64>(0).unwrap(), round + 1, "another connection sees it");
        }
    }
}
