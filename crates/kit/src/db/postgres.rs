//! PostgreSQL: one schema for each service.

use super::{
    PATIENCE, SLOW,
    error::{db_error, is_full, sqlx_error},
    execute_raw,
    marker::{Installation, Marker},
    migrate::{Migration, apply},
    query_raw,
};
use crate::address_scope::is_this_machine;
use hoistway_model::{Code, Error, Result, Secret};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait,
    sqlx::{
        self, ConnectOptions as _, Connection as _,
        postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode},
    },
};
use std::{env, fmt, time::Duration};
use url::Url;
use uuid::Uuid;

/// The oldest major version of the server that is supported by its own project.
const OLDEST: i32 = 13;
/// The longest time of one statement, which the server ends then.
const STATEMENT: Duration = Duration::from_secs(60);
/// The longest time of one statement of a migration, and of a process' wait for another one that migrates.
const MIGRATION: Duration = Duration::from_secs(600);
/// The time after which the server ends a transaction whose client does nothing, and notices one that is gone: others
/// wait for it.
const IDLE: Duration = Duration::from_secs(60);
/// The time for which a connection is used again without asking whether it still works.
const FRESH: Duration = Duration::from_secs(1);
/// The first half of the keys of advisory locks; the second one is the schema's.
const LOCKS: i32 = 0x486f_6973;

/// A schema on a server, and the way to it. Its texts never have the password.
pub struct Server {
    options: PgConnectOptions,
    schema: String,
    connections: u32,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        write!(
            f,
            "schema {} of database {} at ",
            self.schema,
            options.get_database().unwrap_or(options.get_username())
        )?;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display()),
            None => write!(f, "{}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl Server {
    /// Reads the settings. A server on another machine must prove its name with a certificate of the system's
    /// authorities, unless `url` says otherwise (`sslmode`, `sslrootcert`).
    pub(super) fn new(
        service: &str,
        url: &Secret,
        password: Option<&Secret>,
        schema: String,
        connections: u32,
    ) -> Result<Self> {
        let wrong = |why: String| Error::field("database.url", why);
        // The reasons of the parsers do not repeat the text, which may have a password.
        let parsed = Url::parse(url.expose()).map_err(|e| wrong(format!("is not a URL: {e}")))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(wrong(format!("begins with \"{}:\", not with \"postgres:\"", parsed.scheme())));
        }
        if let Some((key, _)) = parsed.query_pairs().find(|(key, _)| !is_known(key)) {
            return Err(wrong(format!("has the unknown parameter \"{key}\"")));
        }
        let mut options = PgConnectOptions::from_url(&parsed).map_err(|e| wrong(e.to_string()))?;
        let says_mode = parsed.query_pairs().any(|(key, _)| matches!(&*key, "sslmode" | "ssl-mode"));
        if !says_mode && env::var_os("PGSSLMODE").is_none() && !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        if let Some(password) = password {
            options = options.password(password.expose());
        }
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if schema.is_empty() || schema.len() > 63 || !schema.chars().all(is_plain) || schema.starts_with("pg_") {
            let text = "is not a name of 1 to 63 letters a-z, digits and \"_\" that does not begin with \"pg_\"";
            return Err(Error::field("database.schema", text));
        }
        if connections < 2 {
            return Err(Error::field("database.connections", "must be 2 or more"));
        }
        let mut options = options.application_name(&format!("hoistway-{service}")).options([
            ("search_path", schema.as_str()),
            // Each statement of a transaction sees what was committed before it got its lock.
            ("default_transaction_isolation", "read committed"),
            ("client_min_messages", "warning"),
            ("lock_timeout", &milliseconds(PATIENCE)),
            ("statement_timeout", &milliseconds(STATEMENT)),
            ("idle_in_transaction_session_timeout", &milliseconds(IDLE)),
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
        ]);
        // Statements are logged at debug under `sqlx::query`, without their values.
        if let Ok(level) = "debug".parse() {
            options = options.log_statements(level).log_slow_statements(level, SLOW);
        }
        Ok(Self { options, schema, connections })
    }

    #[cfg(test)]
    pub(super) fn ssl_mode(&self) -> PgSslMode {
        self.options.get_ssl_mode()
    }

    fn pool(&self, connections: u32, read_only: bool) -> ConnectOptions {
        let mut server = self.options.clone();
        if read_only {
            server = server.options([("default_transaction_read_only", "on")]);
        }
        // The server is passed beside the URL, which would end up in messages.
        let mut options = ConnectOptions::new("postgres://hoistway");
        options
            .max_connections(connections)
            .min_connections(0)
            .acquire_timeout(PATIENCE)
            .connect_lazy(true)
            // One that was used just now is there, most likely; asking would double each statement's round trips.
            .test_before_acquire_if_idle_for(FRESH)
            .record_stmt_in_spans(false)
            .map_sqlx_postgres_opts(move |_| server.clone());
        options
    }
}

/// A session that has the schema for this process. A server that restarts forgets it; it is meant for the start.
#[derive(Debug)]
pub struct Hold(PgConnection);

impl Hold {
    /// Ends the session. One that is dropped ends as soon as the server notices.
    pub(super) async fn release(self) {
        if let Err(e) = self.0.close().await {
            tracing::debug!("the server does not answer the end of a session: {e}");
        }
    }
}

/// Waits until no other process has the schema open.
pub(super) async fn hold(server: &Server) -> Result<Hold> {
    let failed = |e: sqlx::Error| match e.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("55P03") => {
            let text = format!("{server} is used by another Hoistway: stop it first, or use another database");
            Error::new(Code::Conflict, text).with_source(e)
        }
        _ => open_error("opening", server, DbErr::Conn(sea_orm::RuntimeErr::SqlxError(e.into()))),
    };
    // A pool waits for a server that comes up; one connection does not.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
    let pool = pool.connect_with(server.options.clone()).await.map_err(failed)?;
    let mut connection = pool.acquire().await.map_err(failed)?.detach();
    let lock = format!("SELECT pg_advisory_lock({}, hashtext('{}'))", LOCKS + 1, server.schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut connection).await.map_err(failed)?;
    Ok(Hold(connection))
}

/// Opens the schema, which is created if it does not exist; returns the writing and the reading connections.
pub(super) async fn connect(
    server: &Server,
    marker: &Marker,
    migrations: &[Migration],
) -> Result<(DatabaseConnection, DatabaseConnection)> {
    let readers = server.connections / 2;
    let failed = |e| open_error("opening", server, e);
    let write = Database::connect(server.pool(server.connections - readers, false)).await.map_err(failed)?;
    check_server(&write, server).await?;
    let migrating = |e| open_error("migrating", server, e);
    let txn = write.begin().await.map_err(failed)?;
    let patience = MIGRATION.as_millis();
    let limits = format!("SET LOCAL lock_timeout = {patience}; SET LOCAL statement_timeout = {patience}");
    txn.execute_unprepared(&limits).await.map_err(migrating)?;
    lock(&txn, server).await.map_err(migrating)?;
    let exists = query_raw(&txn, "SELECT 1 FROM pg_namespace WHERE nspname = $1", [server.schema.as_str().into()]);
    if exists.await.map_err(migrating)?.is_empty() {
        txn.execute_unprepared(&format!("CREATE SCHEMA \"{}\"", server.schema)).await.map_err(migrating)?;
    }
    check_session(&txn, server).await?;
    let id = identify(&txn, server, marker).await?;
    apply(&txn, migrations, &server.to_string(), migrating).await?;
    txn.commit().await.map_err(migrating)?;
    marker.write(&id, &server.to_string()).await?;
    let read = Database::connect(server.pool(readers, true)).await.map_err(failed)?;
    Ok((write, read))
}

/// Begins a transaction that is the only one of its schema, in all processes together. What it reads stays true until
/// its commit, as under SQLite's write lock: no service has to repeat one that failed to be serialised.
pub(super) async fn begin_alone(
    connection: &DatabaseConnection,
    server: &Server,
) -> Result<DatabaseTransaction, DbErr> {
    let txn = connection.begin().await?;
    lock(&txn, server).await?;
    Ok(txn)
}

async fn lock(txn: &DatabaseTransaction, server: &Server) -> Result<(), DbErr> {
    let lock = format!("SELECT pg_advisory_xact_lock({LOCKS}, hashtext('{}'))", server.schema);
    txn.execute_unprepared(&lock).await.map(drop)
}

/// Returns the id of the installation whose tables these are; new tables get one. Those of another installation are
/// refused, and so is an empty schema in the place of a known one: what is sealed elsewhere would look lost.
async fn identify(txn: &DatabaseTransaction, server: &Server, marker: &Marker) -> Result<String> {
    let failed = |e| open_error("migrating", server, e);
    txn.execute_unprepared("CREATE TABLE IF NOT EXISTS installation (id TEXT NOT NULL)").await.map_err(failed)?;
    let rows = query_raw(txn, "SELECT id FROM installation", []).await.map_err(failed)?;
    let found: Option<String> = rows.first().map(|row| row.try_get_by_index(0)).transpose().map_err(failed)?;
    let refused = |why: &str, known: &Installation| {
        let text = format!("{server} {why}; the tables of this data directory were in {}", known.server);
        Err(Error::new(Code::Conflict, text))
    };
    match (found, &marker.known) {
        (Some(id), Some(known)) if id != known.id => refused("belongs to another installation", known),
        (None, Some(known)) => refused("has no tables of this installation", known),
        (Some(id), _) => Ok(id),
        (None, None) => {
            let id = Uuid::now_v7().to_string();
            let inserted = execute_raw(txn, "INSERT INTO installation VALUES ($1)", [id.as_str().into()]).await;
            inserted.map_err(failed)?;
            Ok(id)
        }
    }
}

/// Refuses a way to the server that loses the session's settings, as poolers do.
async fn check_session(txn: &DatabaseTransaction, server: &Server) -> Result<()> {
    let failed = |e| open_error("opening", server, e);
    let text = "SELECT COALESCE(current_schema(), ''), current_setting('idle_in_transaction_session_timeout')";
    let rows = query_raw(txn, text, []).await.map_err(failed)?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (schema, idle): (String, String) =
        (row.try_get_by_index(0).map_err(failed)?, row.try_get_by_index(1).map_err(failed)?);
    if schema == server.schema && idle != "0" {
        return Ok(());
    }
    let text = format!(
        "{server}: the session has the schema \"{schema}\". If there is a pooler, connect without it, or let it pass on \
         `options` and keep sessions; otherwise grant USAGE on the schema"
    );
    Err(Error::new(Code::InvalidArgument, text))
}

/// Returns the bytes of the schema's tables with their indexes.
pub(super) async fn size(connection: &DatabaseConnection) -> Result<u64> {
    let failed = || db_error("measuring the database");
    let text = "SELECT COALESCE(SUM(pg_total_relation_size(c.oid)), 0)::BIGINT
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname = current_schema()";
    let rows = query_raw(connection, text, []).await.map_err(failed())?;
    let size: Option<i64> = rows.first().map(|row| row.try_get_by_index(0)).transpose().map_err(failed())?;
    Ok(size.unwrap_or_default().unsigned_abs())
}

/// Refuses servers that are too old, and databases that cannot hold every text.
async fn check_server(connection: &DatabaseConnection, server: &Server) -> Result<()> {
    let failed = |e| open_error("opening", server, e);
    let text = "SELECT current_setting('server_version_num')::INT / 10000, current_setting('server_encoding')";
    let rows = query_raw(connection, text, []).await.map_err(failed)?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (version, encoding): (i32, String) =
        (row.try_get_by_index(0).map_err(failed)?, row.try_get_by_index(1).map_err(failed)?);
    let refused = |why: String| Err(Error::new(Code::InvalidArgument, format!("{server}: {why}")));
    match encoding.as_str() {
        _ if version < OLDEST => refused(format!("PostgreSQL {version} is too old: {OLDEST} or newer is needed")),
        "UTF8" => Ok(()),
        other => refused(format!("its encoding is {other}: create a database with the encoding UTF8")),
    }
}

/// Makes the error for a database that cannot be opened, addressed to the operator.
fn open_error(doing: &str, server: &Server, e: DbErr) -> Error {
    if is_full(&e) {
        return db_error(&format!("{doing} {server}"))(e);
    }
    let (code, why) = match sqlx_error(&e) {
        Some(sqlx::Error::Database(reported)) => {
            let advice = match reported.code().as_deref() {
                Some("28P01" | "28000") => ": check the user and the password",
                Some("3D000") => ": create it first",
                Some("42501") => ": grant it, or create the schema with this user as its owner",
                Some("25006") => ": name the primary server, not a standby",
                _ => "",
            };
            (Code::Unavailable, format!("{}{advice}", reported.message()))
        }
        Some(sqlx::Error::Tls(reason)) => {
            let advice = "where the network is trusted, `?sslmode=disable` in the URL does without TLS, and \
                          `?sslrootcert=FILE` names an authority of your own";
            (Code::Unavailable, format!("no TLS connection: {reason}; {advice}"))
        }
        Some(sqlx::Error::Io(reason)) => (Code::Unavailable, reason.to_string()),
        Some(sqlx::Error::PoolTimedOut) => (Code::Unavailable, "no server answers there".to_owned()),
        _ if matches!(e, DbErr::ConnectionAcquire(_)) => (Code::Unavailable, "no server answers there".to_owned()),
        _ => return Error::internal(&format!("{doing} {server}"), e),
    };
    Error::new(code, format!("{doing} {server}: {why}")).with_source(e)
}

/// Whether a parameter of a URL is one of the driver's, which would write an unknown one into the log.
fn is_known(key: &str) -> bool {
    const KNOWN: [&str; 16] = [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "options",
    ];
    KNOWN.contains(&key) || key.starts_with("options[")
}

/// Whether nobody else can listen on the way to the server.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host)
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}
