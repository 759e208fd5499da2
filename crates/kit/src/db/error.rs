//! Errors of the engines and their codes.

use hoistway_model::{Code, Error};
use sea_orm::{
    DbErr, RuntimeErr, SqlErr,
    sqlx::{self, postgres::PgDatabaseError, sqlite::SqliteError},
};

/// Makes an error in `map_err`: a full disk, a busy database, one that cannot be reached and a text that it does not
/// take have codes of their own, all else is internal. `doing` is public.
pub fn db_error(doing: &str) -> impl FnOnce(DbErr) -> Error {
    move |e| {
        let (code, why) = if is_full(&e) {
            (Code::InsufficientStorage, "the disk is full")
        } else if matches!(e, DbErr::ConnectionAcquire(_)) {
            (Code::Unavailable, "the database does not answer")
        } else if is_busy(&e) {
            (Code::Unavailable, "the database is busy")
        } else if is_unreachable(&e) {
            (Code::Unavailable, "the database cannot be reached")
        } else if has_nul(&e) {
            (Code::InvalidArgument, "a text with a NUL character is not accepted")
        } else {
            return Error::internal(doing, e);
        };
        Error::new(code, format!("{why} while {doing}")).with_source(e)
    }
}

/// Whether a row could not be written because of another one with the same key.
pub fn is_unique_violation(e: &DbErr) -> bool {
    matches!(e.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// Whether the disk is full: SQLite's code 13, its extended code of shared memory that cannot grow, and PostgreSQL's
/// `disk_full`.
pub(super) fn is_full(e: &DbErr) -> bool {
    match engine_code(e) {
        Some(EngineCode::Sqlite(code)) => code & 0xff == 13 || code == 4874,
        Some(EngineCode::Postgres(code)) => code == "53100",
        None => false,
    }
}

/// Whether others kept the caller waiting for too long: SQLite's busy (5) and locked (6); PostgreSQL's lock and
/// statement time-outs, its deadlocks, and its limit of connections.
pub(super) fn is_busy(e: &DbErr) -> bool {
    match engine_code(e) {
        Some(EngineCode::Sqlite(code)) => matches!(code & 0xff, 5 | 6),
        Some(EngineCode::Postgres(code)) => matches!(code, "55P03" | "57014" | "40001" | "40P01" | "53300"),
        None => matches!(e, DbErr::ConnectionAcquire(_)),
    }
}

/// Whether the server is not there, goes down, comes up, or is a standby.
fn is_unreachable(e: &DbErr) -> bool {
    match engine_code(e) {
        Some(EngineCode::Postgres(code)) => {
            code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25006")
        }
        Some(EngineCode::Sqlite(_)) => false,
        None => sqlx_error(e).is_some_and(|e| {
            matches!(e, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut)
        }),
    }
}

/// Whether PostgreSQL refused a text because of its NUL character. Callers check what they can; the rest is here.
fn has_nul(e: &DbErr) -> bool {
    matches!(engine_code(e), Some(EngineCode::Postgres("22021" | "22P05")))
}

/// The code of an engine's own error.
enum EngineCode<'a> {
    /// The extended result code; its lowest byte is the primary one.
    Sqlite(u32),
    /// The SQLSTATE.
    Postgres(&'a str),
}

fn engine_code(e: &DbErr) -> Option<EngineCode<'_>> {
    let e = sqlx_error(e)?.as_database_error()?;
    if let Some(e) = e.try_downcast_ref::<PgDatabaseError>() {
        return Some(EngineCode::Postgres(e.code()));
    }
    e.try_downcast_ref::<SqliteError>()?;
    e.code()?.parse().ok().map(EngineCode::Sqlite)
}

/// Returns the driver's error, if there is one.
pub(super) fn sqlx_error(e: &DbErr) -> Option<&sqlx::Error> {
    match e {
        DbErr::Conn(RuntimeErr::SqlxError(e))
        | DbErr::Exec(RuntimeErr::SqlxError(e))
        | DbErr::Query(RuntimeErr::SqlxError(e)) => Some(e),
        _ => None,
    }
}
