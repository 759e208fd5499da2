//! Deployments, told from one state of their journal record to the next.

use super::{Seen, ToolChange, short};
use crate::saga::{
    record::Record,
    steps::{Position, log::State},
};
use hoistway_kit::time::now_ms;
use serde_json::json;
use std::time::Duration;

/// What was told of a deployment.
#[derive(Debug)]
pub struct Told {
    /// Steps that began and that ended.
    begun: usize,
    ended: usize,
    undoing: bool,
    tools: bool,
    /// Where it is now.
    pub state: &'static str,
}

/// Tells what is new in `record`.
pub fn tell(seen: &Seen, record: &Record) {
    let mut all = seen.deployments();
    let (id, agent) = (record.id, Some(&record.agent));
    let about = |more: serde_json::Value| {
        let mut data = json!({ "deployment": id });
        if let (Some(data), serde_json::Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        data
    };
    let told = all.entry(id).or_insert_with(|| {
        let data = about(json!({"request_id": record.log.request_id, "warnings": record.warnings.len()}));
        seen.tell("deployment.accepted", record.created_at, agent, data);
        Told { begun: 0, ended: 0, undoing: false, tools: false, state: "waiting" }
    });
    for (i, timing) in record.log.timings.iter().enumerate() {
        let step = timing.step.name();
        if i >= told.begun {
            told.begun = i + 1;
            seen.tell("deployment.step_started", timing.started_at, agent, about(json!({ "step": step })));
        }
        if let Some(end) = timing.completed_at.filter(|_| i >= told.ended) {
            told.ended = i + 1;
            let ms = end - timing.started_at;
            seen.step_durations.observe(&[step], millis(ms));
            let data = about(json!({"step": step, "duration_ms": ms}));
            seen.tell("deployment.step_finished", end, agent, data);
        }
    }
    if record.log.step.has_tools() && !std::mem::replace(&mut told.tools, true) {
        for tool in record.log.tools.iter().flat_map(|tools| &tools.created) {
            seen.tool(ToolChange::Created, tool);
        }
    }
    if record.state == State::Undoing && !std::mem::replace(&mut told.undoing, true) {
        seen.tell("deployment.undoing", now_ms(), agent, about(failure(record)));
    }
    told.state = match (record.state, record.log.step) {
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
    seen.deploys.inc(&[outcome]);
    seen.deploy_durations.observe(&[outcome], millis(ms));
    let mut data = about(more);
    data["duration_ms"] = ms.into();
    seen.tell(kind, end, agent, data);
}

fn failure(record: &Record) -> serde_json::Value {
    let error = record.error();
    json!({"error": short(&error.message), "code": error.code.as_str()})
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}
