//! The schema, forward only: a migration that was released is never changed.

mod m0001_calls;
mod m0002_call_errors;
mod m0003_usage;
mod m0004_budgets;

use hoistway_kit::db::Migrations;

/// Every migration, in order.
pub(crate) fn all() -> Migrations {
    vec![
        Box::new(m0001_calls::Migration),
        Box::new(m0002_call_errors::Migration),
        Box::new(m0003_usage::Migration),
        Box::new(m0004_budgets::Migration),
    ]
}
