//! Sums of what models were used for, and amounts of money, as the public API shows them.

use crate::api::json::Object;
use hoistway_model::{Money, Result, usage::UsageSums};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Reads an amount of money, a number or exact text, from a member of a request.
pub fn money(object: &mut Object, key: &'static str) -> Result<Option<Money>> {
    let path = object.path_of(key);
    let text = |value| match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        // No amount, and refused as such.
        _ => String::new(),
    };
    object.take(key).map(|value| Money::parse(&path, text(value).trim())).transpose()
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
