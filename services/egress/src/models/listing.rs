//! `GET /v1/models`: the agent's own models.

use super::json;
use crate::{
    call::Answer,
    policy::{AgentPolicy, ModelPolicy},
    refuse::Refusal,
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// Lists the agent's models, each once.
pub(super) fn all(policy: &AgentPolicy) -> Answer {
    let mut models: Vec<&ModelPolicy> = Vec::new();
    for model in &policy.models {
        if models.iter().all(|listed| listed.model != model.model) {
            models.push(model);
        }
    }
    let data: Vec<Value> = models.into_iter().map(shown).collect();
    Answer::Own(json(&json!({"object": "list", "data": data})))
}

/// Shows one of them.
pub(super) fn one(policy: &AgentPolicy, name: &str) -> Result<Answer, Refusal> {
    let name = percent_decode_str(name).decode_utf8_lossy();
    let found = policy.models.iter().find(|model| model.model == name);
    let missing = || super::not_allowed(policy, &name);
    found.map(|model| Answer::Own(json(&shown(model)))).ok_or_else(missing)
}

fn shown(model: &ModelPolicy) -> Value {
    json!({"id": model.model, "object": "model", "created": 0, "owned_by": model.provider})
}
