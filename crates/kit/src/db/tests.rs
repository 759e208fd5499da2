#![allow(clippy::unwrap_used)]

use super::*;
use crate::idempotency;
use hoistway_model::{Code, Secret};
use sea_orm::{
    ConnectionTrait,
    sqlx::{self, ConnectOptions as _, sqlite::SqliteConnectOptions},
};
use std::{os::unix::fs::PermissionsExt, path::Path};

const FIRST: Migration = Migration { name: "m1", sql: "create table t (id integer primary key)" };
const SECOND: Migration =
    Migration { name: "m2", sql: "alter table t add column name text; create unique index t_name on t (name)" };
const BROKEN: Migration = Migration { name: "m2", sql: "create table broken (" };

const fn same(migrations: &'static [Migration]) -> Migrations {
    Migrations { sqlite: migrations, postgres: migrations }
}

const ONE: Migrations = same(&[FIRST]);
const BOTH: Migrations = same(&[FIRST, SECOND]);
const OPERATIONS: Migrations = Migrations { sqlite: &[idempotency::SQLITE], postgres: &[idempotency::POSTGRES] };

/// A database of each engine that is there.
async fn engines(dir: &Path) -> Vec<Location> {
    let mut locations = vec![DatabaseConfig::default().location("tools", dir).await.unwrap()];
    locations.extend(server(dir).await);
    locations
}

/// A database of PostgreSQL, where it is installed.
async fn server(dir: &Path) -> Option<Location> {
    let config = DatabaseConfig::from(Some(hoistway_testing::postgres(dir)?));
    Some(config.location("test-tools", dir).await.unwrap())
}

/// A database with the table of operations, of the engine that tests use.
pub(crate) async fn operations(dir: &Path) -> Db {
    let config = DatabaseConfig::from(hoistway_testing::database_url(dir));
    Db::open(&config.location("test", dir).await.unwrap(), &OPERATIONS).await.unwrap()
}

async fn count(db: &Db) -> i64 {
    let rows = query_raw(db.read(), "select count(*) from t", []).await.unwrap();
    rows[0].try_get_by_index(0).unwrap()
}

async fn pragma(connection: &DatabaseConnection, name: &str) -> String {
    let rows = query_raw(connection, format!("select cast({name} as text) from pragma_{name}"), []).await.unwrap();
    rows[0].try_get_by_index(0).unwrap()
}

#[tokio::test]
async fn schemas_are_migrated_in_order_and_readers_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    for location in engines(dir.path()).await {
        Db::open(&location, &ONE).await.unwrap().close().await;
        let db = Db::open(&location, &BOTH).await.unwrap();
        db.write().execute_unprepared("insert into t values (1, 'a')").await.unwrap();
        assert_eq!(count(&db).await, 1);
        assert!(db.size().await.unwrap() > 0);
        assert!(db.read().execute_unprepared("delete from t").await.is_err());
        let e = db.write().execute_unprepared("insert into t values (2, 'a')").await.unwrap_err();
        assert!(is_unique_violation(&e));
        assert_eq!(db_error("adding a tool")(e).code, Code::Internal);
        db.close().await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for location in engines(dir.path()).await {
        Db::open(&location, &BOTH).await.unwrap().close().await;
        let e = Db::open(&location, &ONE).await.unwrap_err();
        let expected =
            "was written by a newer Hoistway (schema \"m2\"): start that version, or restore a backup".to_owned();
        assert!(e.code == Code::Conflict && e.message.ends_with(&expected), "{e:?}");
        Db::open(&location, &BOTH).await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for location in engines(dir.path()).await {
        assert!(Db::open(&location, &same(&[FIRST, BROKEN])).await.is_err());
        Db::open(&location, &BOTH).await.unwrap();
    }
}

#[tokio::test]
async fn a_transaction_is_rolled_back_when_dropped_and_unseen_until_its_commit() {
    crate::telemetry::tests::start();
    let dir = tempfile::tempdir().unwrap();
    for location in engines(dir.path()).await {
        let db = Db::open(&location, &OPERATIONS).await.unwrap();
        let count = async || {
            let rows = query_raw(db.read(), "select count(*) from operations", []).await.unwrap();
            rows[0].try_get_by_index::<i64>(0).unwrap()
        };
        let insert = "insert into operations values ('a', 'k', 'd', null, false, 0)";
        let txn = db.begin().await.unwrap();
        txn.execute_unprepared(insert).await.unwrap();
        assert_eq!(count().await, 0);
        drop(txn);
        let txn = db.begin().await.unwrap();
        txn.execute_unprepared(insert).await.unwrap();
        txn.commit().await.unwrap();
        assert_eq!(count().await, 1);
    }
}

#[tokio::test]
async fn a_transaction_is_alone_in_all_processes() {
    let dir = tempfile::tempdir().unwrap();
    for location in engines(dir.path()).await {
        // Each has connections of its own, as processes have.
        let mut opened = Vec::new();
        for _ in 0..3 {
            opened.push(Db::open(&location, &BOTH).await.unwrap());
        }
        let add = async |db: Db| {
            for _ in 0..10 {
                let txn = db.begin().await.unwrap();
                let rows = query_raw(&txn, "select count(*) from t", []).await.unwrap();
                let next: i64 = rows[0].try_get_by_index(0).unwrap();
                // Two that read the same number would write the same key.
                execute_raw(&txn, format!("insert into t values ({next}, 'name {next}')"), []).await.unwrap();
                txn.commit().await.unwrap();
            }
        };
        futures_util::future::join_all(opened.iter().cloned().map(add)).await;
        assert_eq!(count(&opened[0]).await, 30);
    }
}

#[tokio::test]
async fn an_installation_whose_tables_are_elsewhere_is_refused() {
    let (dir, service) = (tempfile::tempdir().unwrap(), "test-tools");
    let Some(location) = server(dir.path()).await else { return };
    assert!(!is_in_postgres(service, dir.path()), "it was not opened yet");
    Db::open(&location, &BOTH).await.unwrap();
    assert!(is_in_postgres(service, dir.path()));
    let e = DatabaseConfig::default().location(service, dir.path()).await.unwrap_err();
    assert!(e.message.contains("the tables of") && e.message.contains("schema test_tools of database"), "{e:?}");
    assert_eq!(e.field.as_deref(), Some("database.url"));

    let other = tempfile::tempdir().unwrap();
    let sqlite = DatabaseConfig::default().location(service, other.path()).await.unwrap();
    Db::open(&sqlite, &BOTH).await.unwrap();
    let config = DatabaseConfig::from(Some("postgres://h/d".to_owned()));
    let e = config.location(service, other.path()).await.unwrap_err();
    assert!(e.message.contains("test-tools.db has the tables"), "{e:?}");
}

#[tokio::test]
async fn the_tables_of_another_installation_are_refused_and_so_is_an_empty_schema_in_their_place() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (Some(first), Some(second)) = (server(dirs[0].path()).await, server(dirs[1].path()).await) else { return };
    for location in [first, second] {
        Db::open(&location, &BOTH).await.unwrap().close().await;
    }
    let of = |database: &Path| DatabaseConfig::from(hoistway_testing::postgres(database));
    for (database, why) in [(1, "belongs to another installation"), (2, "has no tables of this installation")] {
        let location = of(dirs[database].path()).location("test-tools", dirs[0].path()).await.unwrap();
        let e = Db::open(&location, &BOTH).await.unwrap_err();
        assert!(e.code == Code::Conflict && e.message.contains(why), "{e:?}");
    }
    Db::open(&server(dirs[0].path()).await.unwrap(), &BOTH).await.unwrap().close().await;
    // A directory without a note takes over what is there: programs may have directories that are made anew.
    let location = of(dirs[0].path()).location("test-tools", dirs[2].path()).await.unwrap();
    Db::open(&location, &BOTH).await.unwrap();
}

#[tokio::test]
async fn an_exclusive_schema_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let Some(location) = server(dir.path()).await.map(Location::exclusive) else { return };
    let db = Db::open(&location, &BOTH).await.unwrap();
    let e = Db::open(&location, &BOTH).await.unwrap_err();
    assert!(e.code == Code::Conflict && e.message.contains("is used by another Hoistway"), "{e:?}");
    // Somebody may still have it.
    let closed = db.clone();
    db.close().await;
    Db::open(&location, &BOTH).await.unwrap();
    drop(closed);
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_with_the_reason_and_without_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "from-a-file\n").unwrap();
    let opened = async |url: &str| {
        let (url, password_file) = (Some(Secret::new(url)), Some(password.clone()));
        let config = DatabaseConfig { url, password_file, ..DatabaseConfig::default() };
        let location = config.location("gateway", dir.path()).await?;
        Db::open(&location, &BOTH).await
    };
    for (url, expected) in [
        ("hunter2", "is not a URL"),
        ("mysql://u:hunter2@h/d", "begins with \"mysql:\""),
        ("postgres://u:hunter2@127.0.0.1:1/d", "schema gateway of database d at 127.0.0.1:1: no server answers there"),
        ("postgres://u:hunter2@127.0.0.1:1/d?sslmode=nonsense", "nonsense"),
        ("postgres://u@127.0.0.1:1/d?pasword=hunter2", "has the unknown parameter \"pasword\""),
    ] {
        let e = opened(url).await.unwrap_err();
        assert!(e.to_string().contains(expected), "{url}: {e}");
        assert!(!format!("{e:?} {}", e.chain()).contains("hunter2"), "{e:?}");
    }
    let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
    let e = opened(&format!("{}_missing", url)).await.unwrap_err();
    assert!(e.message.contains("does not exist: create it first"), "{e:?}");
}

#[test]
fn a_server_on_another_machine_must_prove_its_name_unless_the_url_says_otherwise() {
    let mode = |url: &str| {
        let server = postgres::Server::new("gateway", &Secret::new(url), None, "gateway".into(), 2).unwrap();
        format!("{:?}", server.ssl_mode())
    };
    for (url, expected) in [
        ("postgres://h/d", "VerifyFull"),
        ("postgres://192.0.2.1/d", "VerifyFull"),
        ("postgres://h/d?sslmode=disable", "Disable"),
        ("postgres://h/d?sslmode=verify-ca", "VerifyCa"),
        ("postgres://localhost/d", "Prefer"),
        ("postgres://127.0.0.1/d", "Prefer"),
        ("postgres://[::1]/d", "Prefer"),
        ("postgres://%2Frun%2Fpostgresql/d", "Prefer"),
    ] {
        assert_eq!(mode(url), expected, "{url}");
    }
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let Some(location) = server(dir.path()).await else { return };
    let opening = (0..8).map(|_| Db::open(&location, &BOTH));
    for opened in futures_util::future::join_all(opening).await {
        assert_eq!(count(&opened.unwrap()).await, 0);
    }
}

#[tokio::test]
async fn connections_that_the_server_ended_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let Some(location) = server(dir.path()).await else { return };
    let db = Db::open(&location, &BOTH).await.unwrap();
    let admin = Db::open(&location, &BOTH).await.unwrap();
    let end_others = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    // Each connection that was used just before fails once: it is not asked whether it still works.
    let begun = async || loop {
        match db.begin().await {
            Ok(txn) => break txn,
            Err(e) => assert_eq!(e.code, Code::Unavailable, "{e:?}"),
        }
    };
    for _ in 0..3 {
        let txn = begun().await;
        while query_raw(admin.write(), end_others, []).await.is_err() {}
        let e = txn.execute_unprepared("insert into t values (1, 'a')").await.unwrap_err();
        let e = db_error("adding a tool")(e);
        assert_eq!((e.code, &*e.message), (Code::Unavailable, "the database cannot be reached while adding a tool"));
        drop(txn);
        let txn = begun().await;
        assert!(query_raw(&txn, "select * from t", []).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_wait_for_another_transaction_ends() {
    let dir = tempfile::tempdir().unwrap();
    for location in engines(dir.path()).await {
        let (db, other) = (Db::open(&location, &BOTH).await.unwrap(), Db::open(&location, &BOTH).await.unwrap());
        let held = other.begin().await.unwrap();
        let e = db.begin().await.unwrap_err();
        assert_eq!((e.code, &*e.message), (Code::Unavailable, "the database is busy while beginning a transaction"));
        drop(held);
        db.begin().await.unwrap();
    }
}

#[tokio::test]
async fn a_database_is_private_durable_and_migrated_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd ? %41 name/tools.db");
    let db = Db::open(&Location::Sqlite(path.clone()), &ONE).await.unwrap();
    db.close().await;
    let db = Db::open(&Location::Sqlite(path.clone()), &BOTH).await.unwrap();
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
async fn a_damaged_database_is_noticed_and_a_whole_one_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("tools.db"), dir.path().join("copy.db"));
    let db = Db::open(&Location::Sqlite(path.clone()), &BOTH).await.unwrap();
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
async fn a_database_that_another_process_holds_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tools.db");
    let db = Db::open(&Location::Sqlite(path.clone()), &ONE).await.unwrap();
    let held = db.begin().await.unwrap();
    let e = Db::open(&Location::Sqlite(path.clone()), &ONE).await.unwrap_err();
    drop(held);
    db.close().await;
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::raw_sql("pragma locking_mode = exclusive; begin exclusive").execute(&mut other).await.unwrap();
    let exclusive = Db::open(&Location::Sqlite(path.clone()), &ONE).await.unwrap_err();
    for e in [e, exclusive] {
        let expected = format!("{} is locked by another process: ", path.display());
        assert!(e.code == Code::Unavailable && e.message.starts_with(&expected), "{e:?}");
    }
}

#[tokio::test]
async fn what_is_committed_after_sqlite_rolled_back_by_itself_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&Location::Sqlite(dir.path().join("t.db")), &BOTH).await.unwrap();
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
