//! The Responses API, as far as texts and tools go.

use super::{
    Answer, Envelope, is_streamed, pieces,
    reply::{Conversation, Reply, Tool},
};
use crate::forward::refusal::Refusal;
use serde_json::{Value, json};

/// Answers a request for a response.
pub(super) fn respond(envelope: &Envelope, request: &Value) -> Result<Answer, Refusal> {
    let items = match &request["input"] {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) => items.clone(),
        _ => return Err(Refusal::bad_request("\"input\" must be a string or a list of items").param("input")),
    };
    let conversation = Conversation::read(&items);
    let offered = request["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tools: Vec<Tool<'_>> = offered.iter().filter_map(read_tool).collect();
    let reply = conversation.reply(&tools, &request["tool_choice"], &request["text"]["format"]);
    let item = match &reply {
        Reply::Text(text) => json!({
            "id": envelope.id("msg"),
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [part(text)],
        }),
        Reply::ToolCall { name, arguments } => json!({
            "id": envelope.id("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": envelope.id("call"),
            "name": name,
            "arguments": arguments,
        }),
    };
    let (input, output) = (conversation.tokens, reply.tokens());
    let usage = json!({
        "input_tokens": input,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + output,
    });
    let done = response(envelope, request, "completed", &json!([item]), &usage);
    if !is_streamed(request) {
        return Ok(Answer::Json(done));
    }
    let begun = response(envelope, request, "in_progress", &json!([]), &Value::Null);
    let mut events = Events::default();
    events.push("response.created", json!({"response": begun}));
    events.push("response.in_progress", json!({"response": begun}));
    match &reply {
        Reply::Text(text) => stream_text(&mut events, &item, text),
        Reply::ToolCall { arguments, .. } => stream_call(&mut events, &item, arguments),
    }
    events.push("response.output_item.done", json!({"output_index": 0, "item": item}));
    events.push("response.completed", json!({"response": done}));
    Ok(Answer::Events(events.text))
}

fn read_tool(tool: &Value) -> Option<Tool<'_>> {
    Some(Tool { name: tool["name"].as_str()?, parameters: &tool["parameters"] })
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn response(envelope: &Envelope, request: &Value, status: &str, output: &Value, usage: &Value) -> Value {
    let tools = if request["tools"].is_array() { request["tools"].clone() } else { json!([]) };
    let choice = if request["tool_choice"].is_null() { json!("auto") } else { request["tool_choice"].clone() };
    json!({
        "id": envelope.id("resp"),
        "object": "response",
        "created_at": envelope.created,
        "status": status,
        "model": envelope.model,
        "output": output,
        "usage": usage,
        "error": null,
        "incomplete_details": null,
        "instructions": request["instructions"],
        "metadata": {"system_fingerprint": super::FINGERPRINT},
        "parallel_tool_calls": false,
        "tool_choice": choice,
        "tools": tools,
    })
}

/// Server-Sent Events with a type and a number each.
#[derive(Default)]
struct Events {
    text: String,
    number: u64,
}

impl Events {
    fn push(&mut self, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        self.text.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
    }
}

fn stream_text(events: &mut Events, item: &Value, text: &str) {
    let mut empty = item.clone();
    (empty["status"], empty["content"]) = (json!("in_progress"), json!([]));
    events.push("response.output_item.added", json!({"output_index": 0, "item": empty}));
    let at = |mut data: Value| {
        (data["item_id"], data["output_index"], data["content_index"]) = (item["id"].clone(), json!(0), json!(0));
        data
    };
    events.push("response.content_part.added", at(json!({"part": part("")})));
    for piece in pieces(text) {
        events.push("response.output_text.delta", at(json!({"delta": piece, "logprobs": []})));
    }
    events.push("response.output_text.done", at(json!({"text": text, "logprobs": []})));
    events.push("response.content_part.done", at(json!({"part": part(text)})));
}

fn stream_call(events: &mut Events, item: &Value, arguments: &str) {
    let mut empty = item.clone();
    (empty["status"], empty["arguments"]) = (json!("in_progress"), json!(""));
    events.push("response.output_item.added", json!({"output_index": 0, "item": empty}));
    let at = |mut data: Value| {
        (data["item_id"], data["output_index"]) = (item["id"].clone(), json!(0));
        data
    };
    events.push("response.function_call_arguments.delta", at(json!({"delta": arguments})));
    let done = json!({"arguments": arguments, "name": item["name"]});
    events.push("response.function_call_arguments.done", at(done));
}
