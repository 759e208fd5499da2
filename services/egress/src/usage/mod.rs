//! The usage of models by agents, summed up: in memory until it is committed, and then in the database.

mod budgets;
mod ledger;
mod metrics;
mod outage;

pub(crate) use budgets::Budgets;
pub(crate) use ledger::{Batch, Commit, Counts, KeepsUsage, Ledger, Uncommitted, UncommittedSums, keep};
pub(crate) use metrics::UsageMetrics;

use hoistway_kit::time::now_ms;
use hoistway_model::{Name, usage::UsageSums};
use std::collections::HashMap;

/// Milliseconds of an hour, and of a day.
pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const DAY: i64 = 24 * HOUR;

/// Whose calls are summed up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UsageKey {
    pub(crate) agent: Name,
    pub(crate) provider: Name,
    pub(crate) model: String,
    /// The user for whom the agent worked; empty where none was stated.
    pub(crate) user: String,
}

/// Sums by the beginning of their hour and by whose they are.
pub(crate) type Sums = HashMap<(i64, UsageKey), UsageSums>;

/// The beginning of the hour that it is.
fn this_hour() -> i64 {
    let now = now_ms();
    now - now.rem_euclid(HOUR)
}
