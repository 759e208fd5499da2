//! Chat completions, and the older completions.

use super::{
    Answer, Envelope, FINGERPRINT, chat_usage, events, is_streamed, one_choice, pieces,
    reply::{Conversation, Reply, Tool},
};
use crate::forward::refusal::Refusal;
use serde_json::{Value, json};

const DONE: &str = "data: [DONE]\n\n";

/// Answers a request for a chat completion.
pub(super) fn chat(envelope: &Envelope, request: &Value) -> Result<Answer, Refusal> {
    let Some(messages) = request["messages"].as_array().filter(|messages| !messages.is_empty()) else {
        return Err(Refusal::bad_request("\"messages\" must be a list with a message").param("messages"));
    };
    one_choice(request)?;
    let conversation = Conversation::read(messages);
    let offered = request["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tools: Vec<Tool<'_>> = offered.iter().filter_map(read_tool).collect();
    let reply = conversation.reply(&tools, &request["tool_choice"], &request["response_format"]);
    let usage = chat_usage(conversation.tokens, reply.tokens());
    if is_streamed(request) {
        return Ok(Answer::Events(stream(envelope, request, &reply, &usage)));
    }
    let (message, reason) = match &reply {
        Reply::Text(text) => (json!({"role": "assistant", "content": text, "refusal": null}), "stop"),
        Reply::ToolCall { name, arguments } => {
            let function = json!({"name": name, "arguments": arguments});
            let call = json!({"id": envelope.id("call"), "type": "function", "function": function});
            (json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [call]}), "tool_calls")
        }
    };
    Ok(Answer::Json(json!({
        "id": envelope.id("chatcmpl"),
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}],
        "usage": usage,
    })))
}

fn read_tool(tool: &Value) -> Option<Tool<'_>> {
    let function = &tool["function"];
    Some(Tool { name: function["name"].as_str()?, parameters: &function["parameters"] })
}

fn stream(envelope: &Envelope, request: &Value, reply: &Reply, usage: &Value) -> String {
    let wants_usage = request["stream_options"]["include_usage"] == true;
    let chunk = |choices: Value, usage: &Value| {
        let mut chunk = json!({
            "id": envelope.id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": envelope.created,
            "model": envelope.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if wants_usage {
            chunk["usage"] = usage.clone();
        }
        chunk
    };
    let delta = |delta: Value, reason: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        chunk(json!([choice]), &Value::Null)
    };
    let mut chunks = Vec::new();
    match reply {
        Reply::Text(text) => {
            chunks.push(delta(json!({"role": "assistant", "content": ""}), None));
            chunks.extend(pieces(text).map(|piece| delta(json!({"content": piece}), None)));
            chunks.push(delta(json!({}), Some("stop")));
        }
        Reply::ToolCall { name, arguments } => {
            let function = json!({"name": name, "arguments": ""});
            let call = json!({"index": 0, "id": envelope.id("call"), "type": "function", "function": function});
            chunks.push(delta(json!({"role": "assistant", "content": null, "tool_calls": [call]}), None));
            let part = |piece: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]});
            chunks.extend(pieces(arguments).map(|piece| delta(part(piece), None)));
            chunks.push(delta(json!({}), Some("tool_calls")));
        }
    }
    if wants_usage {
        chunks.push(chunk(json!([]), usage));
    }
    events(chunks) + DONE
}

/// Answers a request for a completion of a prompt.
pub(super) fn legacy(envelope: &Envelope, request: &Value) -> Result<Answer, Refusal> {
    let prompt = match &request["prompt"] {
        Value::String(prompt) => prompt.clone(),
        Value::Array(prompts) => prompts.first().and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => return Err(Refusal::bad_request("\"prompt\" must be a string").param("prompt")),
    };
    one_choice(request)?;
    let conversation = Conversation::read(&[json!({"role": "user", "content": prompt})]);
    let reply = conversation.reply(&[], &Value::Null, &Value::Null);
    let usage = chat_usage(conversation.tokens, reply.tokens());
    let (Reply::Text(text) | Reply::ToolCall { arguments: text, .. }) = reply;
    let completion = |text: &str, reason: Option<&str>| {
        json!({
            "id": envelope.id("cmpl"),
            "object": "text_completion",
            "created": envelope.created,
            "model": envelope.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": reason}],
        })
    };
    if is_streamed(request) {
        let chunks = pieces(&text).map(|piece| completion(piece, None)).chain([completion("", Some("stop"))]);
        let mut last = completion("", None);
        (last["choices"], last["usage"]) = (json!([]), usage);
        let last = (request["stream_options"]["include_usage"] == true).then_some(last);
        return Ok(Answer::Events(events(chunks.chain(last)) + DONE));
    }
    let mut whole = completion(&text, Some("stop"));
    whole["usage"] = usage;
    Ok(Answer::Json(whole))
}
