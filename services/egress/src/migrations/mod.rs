//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0006_….sql`, for both engines.

use hoistway_kit::{db::Migrations, migrations};

/// Every migration, in order; new ones go to the end.
pub(crate) const ALL: &Migrations = &migrations! {
    sqlite: [
        "m0001_calls",
        "m0002_call_errors",
        "m0003_usage",
        "m0004_budgets",
        "m0005_call_ids",
    ],
    postgres: [
        "m0001_tables",
    ],
};
