//! What agents use of models: requests, tokens, and what they cost.

use crate::{Name, money::Money};
use std::{ops::AddAssign, str::FromStr};

/// Sums of some calls of models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageSums {
    /// The calls.
    pub requests: u64,
    /// Those of them that the provider did not answer, or answered with an error.
    pub failed_requests: u64,
    /// Those whose tokens are an estimate, because the provider's own numbers did not come.
    pub estimated_requests: u64,
    /// Those of models that had a price.
    pub priced_requests: u64,
    /// Tokens of the requests, from caches or not.
    pub input_tokens: u64,
    /// Those of them that came from a cache of the provider.
    pub cached_input_tokens: u64,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// What the calls of models with a price cost.
    pub cost: Money,
}

impl UsageSums {
    /// Tokens of requests and answers.
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

/// A span of time that has sums of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UsagePeriod {
    /// An hour.
    Hour,
    /// A day of UTC.
    Day,
    /// All of the time that is asked for.
    #[default]
    Total,
}

impl UsagePeriod {
    /// The public spelling.
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

/// What sums are told apart by, besides their time.
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

/// Which sums are wanted.
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
    /// From this moment, in milliseconds since the epoch: the period that it is in counts as a whole.
    pub from: i64,
    /// To this moment, in the same way.
    pub to: i64,
    /// The time of each sum.
    pub per: UsagePeriod,
    /// What else tells sums apart.
    pub group_by: UsageGroups,
}

/// The sums of a period and of what they are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// When the period begins; milliseconds since the epoch.
    pub start: i64,
    /// The agent; empty where sums are not grouped by it, as the others are.
    pub agent: String,
    /// The model provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The user; also empty where none was stated.
    pub user: String,
    /// The sums.
    pub sums: UsageSums,
}

/// The sums that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageReport {
    /// From when they are, as whole periods; milliseconds since the epoch.
    pub from: i64,
    /// To when.
    pub to: i64,
    /// They themselves, by time and then by what they are grouped by.
    pub rows: Vec<UsageRow>,
}
