//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0005_….sql`.

use hoistway_kit::{db::Migration, migrations};

/// Every migration, in order; new ones go to the end.
pub(crate) const ALL: &[Migration] = migrations!["m0001_calls", "m0002_call_errors", "m0003_usage", "m0004_budgets",];
