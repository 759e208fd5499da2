//! The schema, forward only: a migration that was released is never changed.

mod m0001_calls;

use hoistway_kit::db::Migrations;

/// Every migration, in order.
pub(crate) fn all() -> Migrations {
    vec![Box::new(m0001_calls::Migration)]
}
