//! Counts of calls of models and of their tokens. Agents and models have names that users configured; those of agents
//! that are gone are no label.

use super::UsageKey;
use hoistway_kit::metrics::Counter;
use hoistway_model::{Name, metric::Family, usage::UsageSums};
use std::collections::BTreeSet;

/// The usage since the process began.
#[derive(Debug)]
pub(crate) struct UsageMetrics {
    requests: Counter,
    tokens: Counter,
}

impl UsageMetrics {
    pub(super) const fn new() -> Self {
        Self {
            requests: Counter::new(
                "hoistway_model_requests_total",
                "Agents' calls of models that have ended, by their outcome: ok or failed.",
                &["agent", "provider", "model", "outcome"],
            ),
            tokens: Counter::new(
                "hoistway_model_tokens_total",
                "Tokens of agents' calls of models; input is without what came from a cache of the provider.",
                &["agent", "provider", "model", "type"],
            ),
        }
    }

    pub(super) fn count(&self, key: &UsageKey, sums: &UsageSums) {
        let (agent, provider, model) = (key.agent.as_str(), key.provider.as_str(), key.model.as_str());
        let outcome = if sums.failed_requests > 0 { "failed" } else { "ok" };
        self.requests.inc(&[agent, provider, model, outcome]);
        let cached = sums.cached_input_tokens;
        for (kind, tokens) in [
            ("input", sums.input_tokens.saturating_sub(cached)),
            ("cached_input", cached),
            ("output", sums.output_tokens),
        ] {
            if tokens > 0 {
                self.tokens.add(&[agent, provider, model, kind], tokens as f64);
            }
        }
    }

    /// The families, of the agents that are known. The series of others are removed: they are gone.
    pub(crate) fn families(&self, known: Option<&BTreeSet<Name>>) -> [Family; 2] {
        if let Some(known) = known {
            let is_known = |agent: &str| known.iter().any(|name| name.as_str() == agent);
            self.requests.retain(is_known);
            self.tokens.retain(is_known);
        }
        [self.requests.family(), self.tokens.family()]
    }
}
