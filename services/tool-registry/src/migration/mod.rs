//! The schema, forward only: a migration that was released is never changed.

mod m0002_tools;

use hoistway_kit::{db::Migrations, operations};

/// Every migration, in order.
pub(crate) fn all() -> Migrations {
    vec![Box::new(operations::Migration), Box::new(m0002_tools::Migration)]
}
