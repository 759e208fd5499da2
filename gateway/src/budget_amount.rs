//! Amounts of budgets and prices, as the public API and its events show them.

use hoistway_model::budget::BudgetLimit;
use serde::Serialize;
use utoipa::ToSchema;

/// A number, or an exact decimal number of money as text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A number.
    Number(u64),
    /// An amount of money.
    Text(String),
}

/// Returns an amount in the form of its limit: money as text, everything else as a number.
pub fn amount(limit: BudgetLimit, amount: u128) -> Amount {
    match limit {
        BudgetLimit::CostPerDay | BudgetLimit::CostPerMonth => Amount::Text(limit.show(amount)),
        _ => Amount::Number(u64::try_from(amount).unwrap_or(u64::MAX)),
    }
}
