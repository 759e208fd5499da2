//! A message as a chat completion.

use crate::forward::models::chat_completions::{Completion, Finish, ToolCall, Usage, count};
use serde_json::Value;

/// Reads a message. What the OpenAI API has nothing for, such as thinking, is left out. `None`: it is no message.
pub(super) fn completion(message: &Value, created: i64) -> Option<Completion> {
    if message["type"] != "message" {
        return None;
    }
    let mut completion = Completion {
        id: string(&message["id"]),
        model: string(&message["model"]),
        created,
        finish: finish(&message["stop_reason"]),
        ..Completion::default()
    };
    for block in message["content"].as_array()? {
        match block["type"].as_str() {
            Some("text") => completion.text.push_str(block["text"].as_str().unwrap_or_default()),
            Some("tool_use") => completion.tool_calls.push(ToolCall {
                id: string(&block["id"]),
                name: string(&block["name"]),
                arguments: block["input"].to_string(),
            }),
            _ => {}
        }
    }
    let mut usage = TokenCounts::default();
    usage.update(&message["usage"]);
    completion.usage = usage.total();
    Some(completion)
}

pub(super) fn finish(reason: &Value) -> Finish {
    match reason.as_str() {
        Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
        Some("tool_use") => Finish::ToolCalls,
        Some("refusal") => Finish::ContentFilter,
        _ => Finish::Stop,
    }
}

/// The type and the text of an error, `{"type": "error", "error": {"type", "message"}}`.
pub(super) fn error(body: &Value) -> Option<(&str, &str)> {
    let error = body.get("error")?;
    Some((error["type"].as_str()?, error["message"].as_str()?))
}

/// The tokens of a message. The API counts what the model read in three parts.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    input: u64,
    cache_creation: u64,
    cache_read: u64,
    output: u64,
}

impl TokenCounts {
    /// Takes over the counts that are there. Within a stream they are totals so far.
    pub(super) fn update(&mut self, usage: &Value) {
        for (name, said) in [
            ("input_tokens", &mut self.input),
            ("cache_creation_input_tokens", &mut self.cache_creation),
            ("cache_read_input_tokens", &mut self.cache_read),
            ("output_tokens", &mut self.output),
        ] {
            *said = count(&usage[name]).unwrap_or(*said);
        }
    }

    pub(super) fn total(&self) -> Usage {
        let prompt = self.input.saturating_add(self.cache_creation).saturating_add(self.cache_read);
        Usage { prompt, cached: self.cache_read, completion: self.output }
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
