//! Sums of what models were used for, and amounts of money, as the public API shows them.

use hoistway_model::{budget::BudgetLimit, usage::UsageSums};
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

/// An amount of what a limit is of, as it is shown everywhere.
pub fn amount(limit: BudgetLimit, amount: u128) -> Amount {
    match limit {
        BudgetLimit::CostPerDay | BudgetLimit::CostPerMonth => Amount::Text(limit.show(amount)),
        _ => Amount::Number(u64::try_from(amount).unwrap_or(u64::MAX)),
    }
}

/// Sums of calls of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageSums)]
pub struct SumsOut {
    /// The calls.
    #[schema(examples(12))]
    requests: u64,
    /// Those that the provider did not answer, or answered with an error.
    failed_requests: u64,
    /// Those whose tokens are an estimate: the stream was cut, or the provider said no numbers.
    estimated_requests: u64,
    /// Those of models without a price, which `cost` leaves out.
    unpriced_requests: u64,
    /// Tokens of the requests, those from a cache of the provider among them.
    #[schema(examples(3400))]
    input_tokens: u64,
    /// Those of them from a cache.
    cached_input_tokens: u64,
    /// Tokens of the answers.
    #[schema(examples(560))]
    output_tokens: u64,
    /// Tokens of both.
    #[schema(examples(3960))]
    total_tokens: u64,
    /// What the calls of models with a price cost, exactly; null when none of them had one.
    #[schema(required, examples("0.0141"))]
    cost: Option<String>,
}

impl From<UsageSums> for SumsOut {
    fn from(sums: UsageSums) -> Self {
        Self {
            requests: sums.requests,
            failed_requests: sums.failed_requests,
            estimated_requests: sums.estimated_requests,
            unpriced_requests: sums.requests.saturating_sub(sums.priced_requests),
            input_tokens: sums.input_tokens,
            cached_input_tokens: sums.cached_input_tokens,
            output_tokens: sums.output_tokens,
            total_tokens: sums.total_tokens(),
            cost: (sums.priced_requests > 0).then(|| sums.cost.to_string()),
        }
    }
}
