//! A streamed answer as the OpenAI API tells it: Server-Sent Events with a chunk each.

use super::{Finish, Usage, answer};
use bytes::{Bytes, BytesMut};
use hoistway_kit::time::now_ms;
use serde_json::{Value, json};

/// Writes the chunks of one answer.
#[derive(Debug)]
pub(in crate::forward::models) struct Chunks {
    id: String,
    model: String,
    created: i64,
    include_usage: bool,
    tools: usize,
    written: BytesMut,
    is_over: bool,
}

impl Chunks {
    /// `id` and `model` are what the answer says unless the provider says it.
    pub(in crate::forward::models) fn new(id: String, model: String, include_usage: bool) -> Self {
        let created = now_ms() / 1000;
        Self { id, model, created, include_usage, tools: 0, written: BytesMut::new(), is_over: false }
    }

    /// The text that was written since the last call.
    pub(in crate::forward::models) fn take(&mut self) -> Bytes {
        self.written.split().freeze()
    }

    /// Whether the answer is there to its end, or to an error that ended it.
    pub(in crate::forward::models) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The beginning, with the answer's identifier and the model that gives it, as far as the provider says them.
    pub(in crate::forward::models) fn start(&mut self, id: Option<&str>, model: Option<&str>) {
        if let Some(id) = id {
            id.clone_into(&mut self.id);
        }
        if let Some(model) = model {
            model.clone_into(&mut self.model);
        }
        self.delta(json!({"role": "assistant", "content": "", "refusal": null}), None);
    }

    pub(in crate::forward::models) fn text(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.delta(json!({"content": piece}), None);
        }
    }

    /// The beginning of a tool call; its number among the answer's.
    pub(in crate::forward::models) fn tool_call(&mut self, id: &str, name: &str) -> usize {
        let index = self.tools;
        self.tools += 1;
        let function = json!({"name": name, "arguments": ""});
        let call = json!({"index": index, "id": id, "type": "function", "function": function});
        self.delta(json!({"tool_calls": [call]}), None);
        index
    }

    /// A piece of the arguments of a tool call.
    pub(in crate::forward::models) fn arguments(&mut self, index: usize, piece: &str) {
        if !piece.is_empty() {
            self.delta(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), None);
        }
    }

    pub(in crate::forward::models) fn finish(&mut self, finish: Finish) {
        self.delta(json!({}), Some(finish));
    }

    /// The end of an answer that is complete.
    pub(in crate::forward::models) fn end(&mut self, usage: Usage) {
        if self.include_usage {
            let chunk = self.chunk(json!([]), usage.to_json());
            self.event(&chunk);
        }
        self.write(b"data: [DONE]\n\n");
        self.is_over = true;
    }

    /// The end of an answer that the provider gave up.
    pub(in crate::forward::models) fn error(&mut self, kind: &str, message: &str) {
        self.event(&answer::error(kind, message));
        self.is_over = true;
    }

    /// A comment: it tells everybody in between that the answer goes on.
    pub(in crate::forward::models) fn keep_alive(&mut self) {
        self.write(b": ping\n\n");
    }

    fn delta(&mut self, delta: Value, finish: Option<Finish>) {
        let choice = json!({
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish.map(Finish::as_str),
        });
        let chunk = self.chunk(json!([choice]), Value::Null);
        self.event(&chunk);
    }

    fn chunk(&self, choices: Value, usage: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage;
        }
        chunk
    }

    fn event(&mut self, value: &Value) {
        self.write(format!("data: {value}\n\n").as_bytes());
    }

    /// Anything that a provider still sends after the end is not for the agent.
    fn write(&mut self, text: &[u8]) {
        if !self.is_over {
            self.written.extend_from_slice(text);
        }
    }
}
