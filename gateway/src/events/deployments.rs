//! Events of a deployment: the difference between two states of its journal record.

use super::{Events, ToolChange, short};
use crate::saga::{
    record::Record,
    steps::{Position, saga_log::State},
};
use hoistway_kit::time::now_ms;
use serde_json::json;
use std::time::Duration;

/// The last published state of a deployment.
#[derive(Debug)]
pub struct Published {
    /// The number of steps that began, and the number that ended.
    begun: usize,
    ended: usize,
    undoing: bool,
    tools: bool,
    /// `waiting`, `running` or `undoing`.
    pub state: &'static str,
}

/// Publishes the events that lead to the state of `record`.
pub fn publish(events: &Events, record: &Record) {
    let mut all = events.deployments();
    let (id, agent) = (record.id, Some(&record.agent));
    let about = |more: serde_json::Value| {
        let mut data = json!({ "deployment": id });
        if let (Some(data), serde_json::Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        data
    };
    let published = all.entry(id).or_insert_with(|| {
        let data = about(json!({"request_id": record.log.request_id, "warnings": record.warnings.len()}));
        events.publish("deployment.accepted", record.created_at, agent, data);
        Published { begun: 0, ended: 0, undoing: false, tools: false, state: "waiting" }
    });
    for (i, timing) in record.log.timings.iter().enumerate() {
        let step = timing.step.name();
        if i >= published.begun {
            published.begun = i + 1;
            events.publish("deployment.step_started", timing.started_at, agent, about(json!({ "step": step })));
        }
        if let Some(end) = timing.completed_at.filter(|_| i >= published.ended) {
            published.ended = i + 1;
            let ms = end - timing.started_at;
            events.metrics.deployment_step_ended(step, millis(ms));
            let data = about(json!({"step": step, "duration_ms": ms}));
            events.publish("deployment.step_finished", end, agent, data);
        }
    }
    if record.log.step.has_tools() && !std::mem::replace(&mut published.tools, true) {
        for tool in record.log.tools.iter().flat_map(|tools| &tools.created) {
            events.tool_changed(ToolChange::Created, tool);
        }
    }
    if record.state == State::Undoing && !std::mem::replace(&mut published.undoing, true) {
        events.publish("deployment.undoing", now_ms(), agent, about(failure(record)));
    }
    published.state = match (record.state, record.log.step) {
        (State::Undoing, _) => "undoing",
        (_, Position::PLAN) => "waiting",
        _ => "running",
    };
    let (kind, outcome, more) = match record.state {
        State::Running | State::Undoing => return,
        State::Succeeded => ("deployment.succeeded", "succeeded", json!({ "revision": record.revision() })),
        State::Failed => ("deployment.failed", "failed", failure(record)),
    };
    all.remove(&id);
    let end = record.completed_at.unwrap_or_else(now_ms);
    let ms = end - record.created_at;
    events.metrics.deployment_ended(outcome, millis(ms));
    let mut data = about(more);
    data["duration_ms"] = ms.into();
    events.publish(kind, end, agent, data);
}

fn failure(record: &Record) -> serde_json::Value {
    let error = record.error();
    json!({"error": short(&error.message), "code": error.code.as_str()})
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}
