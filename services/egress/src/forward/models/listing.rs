//! `GET /v1/models`: the agent's own models, as the client of either API expects them.

use super::{anthropic, json};
use crate::{
    forward::Answer,
    forward::refusal::Refusal,
    policy::{AgentPolicy, ModelPolicy},
};
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// Lists the agent's models, each once.
pub(super) fn all(policy: &AgentPolicy, headers: &HeaderMap) -> Answer {
    let mut models: Vec<&ModelPolicy> = Vec::new();
    for model in &policy.models {
        if models.iter().all(|listed| listed.model != model.model) {
            models.push(model);
        }
    }
    if anthropic::is_client(headers) {
        let (first, last) = (models.first().map(|model| &model.model), models.last().map(|model| &model.model));
        let data: Vec<Value> = models.iter().map(|model| anthropic_model(model)).collect();
        return Answer::Own(json(&json!({"data": data, "has_more": false, "first_id": first, "last_id": last})));
    }
    let data: Vec<Value> = models.into_iter().map(openai_model).collect();
    Answer::Own(json(&json!({"object": "list", "data": data})))
}

/// Shows one of them.
pub(super) fn one(policy: &AgentPolicy, headers: &HeaderMap, name: &str) -> Result<Answer, Refusal> {
    let name = percent_decode_str(name).decode_utf8_lossy();
    let found = policy.models.iter().find(|model| model.model == name);
    let missing = || super::not_allowed(policy, &name);
    let shown = if anthropic::is_client(headers) { anthropic_model } else { openai_model };
    found.map(|model| Answer::Own(json(&shown(model)))).ok_or_else(missing)
}

fn openai_model(model: &ModelPolicy) -> Value {
    json!({"id": model.model, "object": "model", "created": 0, "owned_by": model.provider})
}

fn anthropic_model(model: &ModelPolicy) -> Value {
    // The epoch means that the release date is not known.
    json!({"type": "model", "id": model.model, "display_name": model.model, "created_at": "1970-01-01T00:00:00Z"})
}
