//! An answer of the Converse API as a chat completion.

use crate::forward::models::chat_completions::{Completion, Finish, ToolCall, Usage, count};
use serde_json::Value;

/// Reads an answer. `None`: it is none.
pub(super) fn completion(answer: &Value, created: i64) -> Option<Completion> {
    let mut completion = Completion {
        created,
        finish: finish(&answer["stopReason"]),
        usage: usage(&answer["usage"]),
        ..Completion::default()
    };
    for block in answer.pointer("/output/message/content")?.as_array()? {
        if let Some(text) = block["text"].as_str() {
            completion.text.push_str(text);
        }
        if let Some(call) = block.get("toolUse") {
            completion.tool_calls.push(ToolCall {
                id: call["toolUseId"].as_str().unwrap_or_default().to_owned(),
                name: call["name"].as_str().unwrap_or_default().to_owned(),
                arguments: call["input"].to_string(),
            });
        }
    }
    Some(completion)
}

pub(super) fn finish(reason: &Value) -> Finish {
    match reason.as_str() {
        Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
        Some("tool_use") => Finish::ToolCalls,
        Some("guardrail_intervened" | "content_filtered") => Finish::ContentFilter,
        _ => Finish::Stop,
    }
}

/// Tokens that were read from a cache and written to one are counted apart from the other input.
pub(super) fn usage(usage: &Value) -> Usage {
    let count = |name: &str| count(&usage[name]).unwrap_or_default();
    let cached = count("cacheReadInputTokens");
    let prompt = count("inputTokens").saturating_add(cached).saturating_add(count("cacheWriteInputTokens"));
    Usage { prompt, cached, completion: count("outputTokens") }
}
