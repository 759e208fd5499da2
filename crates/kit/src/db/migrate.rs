//! Migrations of a schema, forward only.

use crate::time::now_ms;
use hoistway_model::{Code, Error, Result};
use sea_orm::{ActiveValue::Set, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, Schema};
use std::collections::HashSet;

/// A change of the schema, forward only. One that was released is never changed: databases have it already.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The name under which databases record that they have it, which is also its file's.
    pub name: &'static str,
    /// The statements, which are independent of the entities, as those change later.
    pub sql: &'static str,
}

/// The migrations of one service for each engine, in the order in which they are applied. Both lead to the same tables
/// and columns.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: &'static [Migration],
    /// For PostgreSQL.
    pub postgres: &'static [Migration],
}

/// The migrations `ENGINE/NAME.sql` beside the calling file, after those of this crate if any.
#[macro_export]
macro_rules! migrations {
    ($($engine:ident: [$($shared:path;)* $($name:literal),* $(,)?]),* $(,)?) => {
        $crate::db::Migrations {
            $($engine: &[
                $($shared,)*
                $($crate::db::Migration {
                    name: $name,
                    sql: include_str!(concat!(stringify!($engine), "/", $name, ".sql")),
                }),*
            ]),*
        }
    };
}

/// Applies the missing migrations in the caller's transaction: a crash, or a migration that fails, leaves the old
/// schema. `database` is how messages name the database, which is refused where a newer Hoistway has written it.
pub(super) async fn apply(
    txn: &DatabaseTransaction,
    migrations: &[Migration],
    database: &str,
    failed: impl Fn(DbErr) -> Error,
) -> Result<()> {
    let found = recorded(txn).await.map_err(&failed)?;
    let known: HashSet<&str> = migrations.iter().map(|migration| migration.name).collect();
    if let Some(newer) = found.iter().filter(|name| !known.contains(name.as_str())).max() {
        let text = format!(
            "{database} was written by a newer Hoistway (schema \"{newer}\"): start that version, or restore a backup"
        );
        return Err(Error::new(Code::Conflict, text));
    }
    for migration in migrations.iter().filter(|migration| !found.contains(migration.name)) {
        apply_one(txn, migration).await.map_err(&failed)?;
        tracing::debug!("{database}: applied {}", migration.name);
    }
    Ok(())
}

async fn recorded(txn: &DatabaseTransaction) -> Result<HashSet<String>, DbErr> {
    let mut table = Schema::new(txn.get_database_backend()).create_table_from_entity(applied::Entity);
    txn.execute(table.if_not_exists()).await?;
    let rows = applied::Entity::find().all(txn).await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

async fn apply_one(txn: &DatabaseTransaction, Migration { name, sql }: &Migration) -> Result<(), DbErr> {
    txn.execute_unprepared(sql).await?;
    let row = applied::ActiveModel { version: Set((*name).to_owned()), applied_at: Set(now_ms() / 1000) };
    applied::Entity::insert(row).exec_without_returning(txn).await.map(drop)
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
