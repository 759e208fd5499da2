//! Documents with something else in each place: a translation refuses or passes over what it does not expect, and never
//! panics.
#![allow(clippy::unwrap_used)]
use super::{
    anthropic::Anthropic,
    bedrock::Bedrock,
    chat_completions::{Chunks, Provider, Translate, parse},
};
use http::HeaderMap;
use serde_json::{Value, json};

/// The document with each of its values, one at a time, replaced by each of some others.
fn mutations(document: &Value) -> Vec<Value> {
    let others =
        [json!(null), json!(true), json!(-1.5), json!("x"), json!([]), json!([[1]]), json!({}), json!({"": {}})];
    let mut all = others.to_vec();
    let places: Vec<(String, &Value)> = match document {
        Value::Array(items) => items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect(),
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        _ => Vec::new(),
    };
    for (place, value) in places {
        for changed in mutations(value) {
            let mut document = document.clone();
            *document.pointer_mut(&format!("/{place}")).unwrap() = changed;
            all.push(document);
        }
    }
    all
}

#[test]
fn no_request_makes_a_translation_panic() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call = json!({"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{}"}});
    let request = json!({
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            ]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "warm"},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": true,
        "max_tokens": 100, "temperature": 1.5, "top_p": 0.5, "stop": ["end"], "user": "u-1",
        "stream": true, "stream_options": {"include_usage": true}, "n": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    });
    let mut translated = 0;
    for request in mutations(&request) {
        let body = request.to_string();
        for make in [Anthropic::request, Bedrock::request] {
            translated += usize::from(parse(body.as_bytes()).and_then(|chat| make("m", chat)).is_ok());
        }
    }
    assert!(translated > 100, "most of what is not read is passed over: {translated}");
}

#[test]
fn no_answer_makes_a_translation_panic() {
    let tool = json!({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}});
    let message = json!({
        "type": "message", "id": "m", "model": "m", "content": [{"type": "text", "text": "Hi"}, tool],
        "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1},
        "error": {"type": "api_error", "message": "No."},
    });
    let tool = json!({"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}});
    let output = json!({
        "output": {"message": {"content": [{"text": "Hi"}, tool]}}, "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 1}, "message": "No.",
    });
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-amzn-errortype"), "A:b".parse().unwrap())]);
    for answer in mutations(&message) {
        let _ = (Anthropic::completion(&answer, 1), Anthropic::error(&headers, &answer));
    }
    for answer in mutations(&output) {
        let _ = (Bedrock::completion(&answer, 1), Bedrock::error(&headers, &answer));
    }
}

#[test]
fn no_event_makes_a_translation_panic() {
    let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    let events = json!([
        {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "error", "error": {"type": "api_error", "message": "No."}},
        {"type": "message_stop"},
    ]);
    for events in mutations(&events) {
        let mut stream = <Anthropic as Provider>::Stream::default();
        let mut chunks = Chunks::new("id".into(), "m".into(), true);
        for event in events.as_array().into_iter().flatten() {
            stream.push(format!("data: {event}\n\n").as_bytes(), &mut chunks).unwrap();
        }
    }
}
