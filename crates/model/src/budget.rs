//! Budgets of agents for the use of models.

use crate::{Error, Money, Result};
use std::{fmt, str::FromStr};

/// One limit of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetLimit {
    /// Tokens of requests and responses in a UTC day.
    TokensPerDay,
    /// The same in a calendar month.
    TokensPerMonth,
    /// The cost of calls of models with a price in a UTC day.
    CostPerDay,
    /// The same in a calendar month.
    CostPerMonth,
    /// Calls in a minute of the clock.
    RequestsPerMinute,
}

impl BudgetLimit {
    /// All limits.
    pub const ALL: [Self; 5] =
        [Self::TokensPerDay, Self::TokensPerMonth, Self::CostPerDay, Self::CostPerMonth, Self::RequestsPerMinute];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokensPerDay => "tokens_per_day",
            Self::TokensPerMonth => "tokens_per_month",
            Self::CostPerDay => "cost_per_day",
            Self::CostPerMonth => "cost_per_month",
            Self::RequestsPerMinute => "requests_per_minute",
        }
    }

    /// Formats an amount for display: money, or a number.
    pub fn show(self, amount: u128) -> String {
        match self {
            Self::CostPerDay | Self::CostPerMonth => Money::from_units(amount).to_string(),
            Self::TokensPerDay | Self::TokensPerMonth | Self::RequestsPerMinute => amount.to_string(),
        }
    }
}

impl fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BudgetLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|limit| limit.as_str() == text);
        found.ok_or_else(|| format!("\"{}\" is no limit of a budget", text.escape_debug()))
    }
}

/// The limits of an agent, at least one. Amounts of money are in the smallest unit of [`Money`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget(Vec<(BudgetLimit, u128)>);

impl Budget {
    /// Creates a budget; each limit occurs once and none is zero.
    pub fn new(limits: impl IntoIterator<Item = (BudgetLimit, u128)>) -> Result<Self> {
        let mut limits: Vec<_> = limits.into_iter().collect();
        limits.sort_unstable();
        if let Some((limit, _)) = limits.iter().find(|(_, most)| *most == 0) {
            return Err(Error::field(limit.as_str(), "must be more than 0; stop the agent to let it use nothing"));
        }
        if let Some(pair) = limits.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::field(pair[0].0.as_str(), "is given twice"));
        }
        match limits.is_empty() {
            true => {
                let names = BudgetLimit::ALL.map(BudgetLimit::as_str).join(", ");
                Err(Error::field("budget", format!("has no limit; there are {names}")))
            }
            false => Ok(Self(limits)),
        }
    }

    /// Returns the limits.
    pub fn limits(&self) -> &[(BudgetLimit, u128)] {
        &self.0
    }
}

/// The usage of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitUse {
    /// The limit.
    pub limit: BudgetLimit,
    /// The maximum.
    pub most: u128,
    /// The used amount.
    pub used: u128,
    /// The time of its reset; milliseconds since the epoch.
    pub resets_at: i64,
}

impl LimitUse {
    /// Returns the used share, in thousandths.
    pub fn share(&self) -> u64 {
        u64::try_from(self.used.saturating_mul(1000) / self.most.max(1)).unwrap_or(u64::MAX)
    }
}

/// A budget and its usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetUse {
    /// Each limit.
    pub limits: Vec<LimitUse>,
    /// Models that the agent called this month and that had no price, so that the cost does not include them.
    pub unpriced_models: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_budget_has_limits_that_leave_something() {
        let message = |limits: &[(BudgetLimit, u128)]| Budget::new(limits.iter().copied()).unwrap_err().message;
        assert!(message(&[]).starts_with("budget: has no limit; there are tokens_per_day, "));
        assert!(message(&[(BudgetLimit::CostPerDay, 0)]).starts_with("cost_per_day: must be more than 0"));
        assert_eq!(message(&[(BudgetLimit::CostPerDay, 1); 2]), "cost_per_day: is given twice");
        let budget = Budget::new([(BudgetLimit::CostPerDay, 5), (BudgetLimit::TokensPerDay, 7)]).unwrap();
        assert_eq!(budget.limits(), [(BudgetLimit::TokensPerDay, 7), (BudgetLimit::CostPerDay, 5)]);
        for limit in BudgetLimit::ALL {
            assert_eq!(limit.as_str().parse(), Ok(limit));
        }
        assert_eq!(BudgetLimit::CostPerDay.show(1_500_000_000_000), "1.5");
    }
}
