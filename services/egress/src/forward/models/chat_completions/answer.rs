//! A whole answer, and an error, as the OpenAI API tells them.

use serde_json::{Value, json};

/// The answer to a request, whoever has given it.
#[derive(Debug, Default)]
pub(in crate::forward::models) struct Completion {
    pub(in crate::forward::models) id: String,
    pub(in crate::forward::models) model: String,
    /// Seconds since the epoch.
    pub(in crate::forward::models) created: i64,
    pub(in crate::forward::models) text: String,
    pub(in crate::forward::models) tool_calls: Vec<ToolCall>,
    pub(in crate::forward::models) finish: Finish,
    pub(in crate::forward::models) usage: Usage,
}

/// A call of a tool that the model asks for.
#[derive(Debug)]
pub(in crate::forward::models) struct ToolCall {
    pub(in crate::forward::models) id: String,
    pub(in crate::forward::models) name: String,
    /// A JSON object.
    pub(in crate::forward::models) arguments: String,
}

/// Why the model says no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::forward::models) enum Finish {
    #[default]
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
}

impl Finish {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// The tokens of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::forward::models) struct Usage {
    /// All that the model read, cached or not.
    pub(in crate::forward::models) prompt: u64,
    /// The part that was read from a cache.
    pub(in crate::forward::models) cached: u64,
    pub(in crate::forward::models) completion: u64,
}

/// A count as a provider says it; some write `10.0`.
pub(in crate::forward::models) fn count(value: &Value) -> Option<u64> {
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..1e15).contains(number);
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|number| number as u64))
}

impl Usage {
    pub(super) fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt.saturating_add(self.completion),
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}

impl Completion {
    pub(in crate::forward::models) fn into_json(self) -> Value {
        let call = |ToolCall { id, name, arguments }: ToolCall| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let calls: Vec<Value> = self.tool_calls.into_iter().map(call).collect();
        let content = if self.text.is_empty() && !calls.is_empty() { Value::Null } else { self.text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish.as_str()});
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": self.usage.to_json(),
        })
    }
}

/// An error of a provider: its own word for the kind of error is type and code.
pub(in crate::forward::models) fn error(kind: &str, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": kind}})
}
