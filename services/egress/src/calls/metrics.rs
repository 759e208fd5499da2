//! Counts of agents' calls, and how long they take. What is counted has a name that the platform gave: agents and tools
//! that are not known are no label.

use crate::calls::CallRecord;
use hoistway_kit::metrics::{Counter, Histogram};
use hoistway_model::{Name, egress::CallTarget, metric::Family};
use std::{collections::BTreeSet, time::Duration};

/// The calls since the process began.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    calls: Counter,
    durations: Histogram,
}

impl CallMetrics {
    pub(crate) fn new() -> Self {
        Self {
            calls: Counter::new(
                "hoistway_agent_calls_total",
                "Agents' calls by their outcome: the class of the status, or why egress refused the call or it broke off.",
                &["agent", "tool", "outcome"],
            ),
            durations: Histogram::new(
                "hoistway_agent_call_duration_seconds",
                "Time from an agent's call to the head of the answer that it got from its tool or another host.",
                &["agent", "tool"],
            ),
        }
    }

    /// Counts a call that ended.
    pub(crate) fn count(&self, record: &CallRecord) {
        let agent = record.agent.as_ref().map_or("", Name::as_str);
        let tool = match &record.target {
            Some(CallTarget::Tool(tool)) => tool.as_str(),
            Some(CallTarget::ModelProvider(_)) | None => "",
        };
        let class = match record.status.map(|status| status / 100) {
            Some(1) => "1xx",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(5) => "5xx",
            _ => "no_answer",
        };
        self.calls.inc(&[agent, tool, record.refused.or(record.broken).unwrap_or(class)]);
        if record.refused.is_none() && record.status.is_some() {
            self.durations.observe(&[agent, tool], Duration::from_millis(record.first_byte_ms));
        }
    }

    /// The families, of the agents that are known. The series of others are removed: they are gone.
    pub(crate) fn families(&self, known: Option<&BTreeSet<Name>>) -> [Family; 2] {
        if let Some(known) = known {
            // Calls of nobody that could be recognised have no name.
            let is_known = |agent: &str| agent.is_empty() || known.iter().any(|name| name.as_str() == agent);
            self.calls.retain(is_known);
            self.durations.retain(is_known);
        }
        [self.calls.family(), self.durations.family()]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::metrics::text;

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[test]
    fn calls_are_counted_by_outcome_until_their_agent_is_gone() {
        let metrics = CallMetrics::new();
        let call = |agent: Option<&str>, status, refused, broken| CallRecord {
            agent: agent.map(name),
            target: agent.map(|_| CallTarget::Tool(name("t"))),
            status: Some(status),
            first_byte_ms: 40,
            refused,
            broken,
            ..CallRecord::default()
        };
        metrics.count(&call(Some("a"), 201, None, None));
        metrics.count(&call(Some("a"), 204, None, None));
        metrics.count(&call(Some("a"), 403, Some("host_not_allowed"), None));
        metrics.count(&call(Some("b"), 200, None, Some("agent_went_away")));
        metrics.count(&call(None, 407, Some("identity_missing"), None));
        metrics.count(&CallRecord { status: None, target: None, ..call(Some("b"), 0, None, None) });
        let shown = text(metrics.families(None).into());
        for line in [
            "hoistway_agent_calls_total{agent=\"a\",tool=\"t\",outcome=\"2xx\"} 2",
            "hoistway_agent_calls_total{agent=\"a\",tool=\"t\",outcome=\"host_not_allowed\"} 1",
            "hoistway_agent_calls_total{agent=\"b\",tool=\"t\",outcome=\"agent_went_away\"} 1",
            "hoistway_agent_calls_total{agent=\"b\",tool=\"\",outcome=\"no_answer\"} 1",
            "hoistway_agent_calls_total{agent=\"\",tool=\"\",outcome=\"identity_missing\"} 1",
            "hoistway_agent_call_duration_seconds_bucket{agent=\"a\",tool=\"t\",le=\"0.05\"} 2",
            "hoistway_agent_call_duration_seconds_count{agent=\"a\",tool=\"t\"} 2",
        ] {
            assert!(shown.lines().any(|l| l == line), "{line}\n{shown}");
        }
        let shown = text(metrics.families(Some(&BTreeSet::from([name("b")]))).into());
        assert!(
            !shown.contains("agent=\"a\"") && shown.contains("agent=\"b\"") && shown.contains("agent=\"\""),
            "{shown}"
        );
    }
}
