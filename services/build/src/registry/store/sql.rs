//! Statements that are clearer as SQL.

use hoistway_kit::db::{db_error, execute_raw};
use hoistway_model::Result;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};

/// Runs a statement; how many rows it changed.
pub(super) async fn execute<C: ConnectionTrait>(
    conn: &C,
    doing: &str,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<u64> {
    execute_raw(conn, text, values).await.map_err(db_error(doing))
}

/// Runs a query.
pub(super) async fn query<C: ConnectionTrait, T: FromQueryResult>(
    conn: &C,
    doing: &str,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<T>> {
    let statement = Statement::from_sql_and_values(conn.get_database_backend(), text, values);
    T::find_by_statement(statement).all(conn).await.map_err(db_error(doing))
}
