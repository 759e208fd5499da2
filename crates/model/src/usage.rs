//! The usage of models by agents: requests, tokens and cost.

use crate::{Name, money::Money};
use std::{ops::AddAssign, str::FromStr};

/// Totals of some calls of models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageSums {
    /// The number of calls.
    pub requests: u64,
    /// Those of them without a response from the provider, or with an error.
    pub failed_requests: u64,
    /// Those whose tokens are an estimate, because the provider did not report them.
    pub estimated_requests: u64,
    /// Those of models that had a price.
    pub priced_requests: u64,
    /// Tokens of the requests, cached or not.
    pub input_tokens: u64,
    /// Those of them that came from a cache of the provider.
    pub cached_input_tokens: u64,
    /// Tokens of the responses.
    pub output_tokens: u64,
    /// The cost of the calls of models with a price.
    pub cost: Money,
}

impl UsageSums {
    /// Returns the tokens of requests and responses.
    pub const fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

impl AddAssign for UsageSums {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.failed_requests, other.failed_requests),
            (&mut self.estimated_requests, other.estimated_requests),
            (&mut self.priced_requests, other.priced_requests),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_input_tokens, other.cached_input_tokens),
            (&mut self.output_tokens, other.output_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.cost = self.cost + other.cost;
    }
}

/// The period of one total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UsagePeriod {
    /// An hour.
    Hour,
    /// A UTC day.
    Day,
    /// The whole requested time.
    #[default]
    Total,
}

impl UsagePeriod {
    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Total => "total",
        }
    }
}

impl FromStr for UsagePeriod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Hour, Self::Day, Self::Total].into_iter().find(|per| per.as_str() == text);
        found.ok_or_else(|| format!("\"{}\" is not one of hour, day, total", text.escape_debug()))
    }
}

/// The dimensions by which totals are grouped, besides time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageGroups {
    /// The agent.
    pub agent: bool,
    /// The model provider.
    pub provider: bool,
    /// The model.
    pub model: bool,
    /// The user for whom the agent worked.
    pub user: bool,
}

/// A selection of totals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// Those of one agent.
    pub agent: Option<Name>,
    /// Those of one model provider.
    pub provider: Option<Name>,
    /// Those of one model.
    pub model: Option<String>,
    /// Those of one user.
    pub user: Option<String>,
    /// The start, in milliseconds since the epoch: the period that contains it counts as a whole.
    pub from: i64,
    /// The end, in the same way.
    pub to: i64,
    /// The period of each total.
    pub per: UsagePeriod,
    /// The further grouping.
    pub group_by: UsageGroups,
}

/// The totals of a period and of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The start of the period; milliseconds since the epoch.
    pub start: i64,
    /// The agent; empty if not grouped by it, like the others.
    pub agent: String,
    /// The model provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The user; also empty where none was stated.
    pub user: String,
    /// The totals.
    pub sums: UsageSums,
}

/// The requested totals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageReport {
    /// Their start, in whole periods; milliseconds since the epoch.
    pub from: i64,
    /// Their end.
    pub to: i64,
    /// The totals, ordered by time and then by group.
    pub rows: Vec<UsageRow>,
}
