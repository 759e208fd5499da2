//! Documents as Anthropic publishes them.
#![allow(clippy::unwrap_used)]
use super::{Anthropic, stream::MessageStream};
use crate::forward::models::chat_completions::{self, Chunks, Provider, Translate};
use http::HeaderMap;
use serde_json::{Value, json};

fn translated(request: Value) -> Value {
    Anthropic::request("claude", chat_completions::parse(request.to_string().as_bytes()).unwrap()).unwrap()
}

#[test]
fn a_request_has_everything_that_was_asked_for() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call =
        json!({"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Paris\"}"}});
    let request = json!({
        "model": "claude",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
            ]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "warm"},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": schema}}],
        "tool_choice": "required", "parallel_tool_calls": false,
        "max_tokens": 100, "temperature": 1.5, "top_p": 0.5, "stop": ["end"], "user": "u-1", "stream": true,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    });
    let expected = json!({
        "model": "claude",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "warm"}]},
        ],
        "tools": [{"name": "weather", "description": "Tells it.", "input_schema": schema}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "stop_sequences": ["end"],
        "temperature": 1.0,
        "top_p": 0.5,
        "metadata": {"user_id": "u-1"},
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "stream": true,
    });
    assert_eq!(translated(request), expected);
}

#[test]
fn a_request_for_little_has_the_limit_that_the_api_insists_on() {
    let request = json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    let expected = json!({
        "model": "claude", "max_tokens": 4096, "temperature": 0.0,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    });
    assert_eq!(translated(request), expected);
}

#[test]
fn every_choice_of_a_tool_has_its_counterpart() {
    let choice = |choice: Value, parallel: Value| {
        translated(json!({
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": choice, "parallel_tool_calls": parallel,
        }))["tool_choice"]
            .clone()
    };
    assert_eq!(choice(json!(null), json!(true)), json!(null));
    assert_eq!(choice(json!(null), json!(false)), json!({"type": "auto", "disable_parallel_tool_use": true}));
    assert_eq!(choice(json!("auto"), json!(null)), json!({"type": "auto"}));
    assert_eq!(choice(json!("required"), json!(null)), json!({"type": "any"}));
    assert_eq!(choice(json!("none"), json!(false)), json!({"type": "none"}));
    let named = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(choice(named, json!(null)), json!({"type": "tool", "name": "f"}));
}

fn completion(message: Value) -> Value {
    Anthropic::completion(&message, 1).unwrap().into_json()
}

#[test]
fn a_message_is_a_chat_completion() {
    let told = completion(json!({
        "id": "msg_013Zva2CMHLNnjNjJJKqJ2EF", "type": "message", "role": "assistant", "model": "claude-3-haiku-20240307",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "text", "text": "Hi! "},
            {"type": "text", "text": "There."},
            {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"location": "Paris"}},
        ],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 7},
    }));
    let choice = &told["choices"][0];
    assert_eq!(
        (&told["id"], &told["model"]),
        (&json!("msg_013Zva2CMHLNnjNjJJKqJ2EF"), &json!("claude-3-haiku-20240307"))
    );
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("Hi! There."), &json!("tool_calls")));
    let function = json!({"name": "get_weather", "arguments": "{\"location\":\"Paris\"}"});
    let call = json!({"id": "toolu_01", "type": "function", "function": function});
    assert_eq!(choice["message"]["tool_calls"], json!([call]));
    let usage = json!({
        "prompt_tokens": 60, "completion_tokens": 7, "total_tokens": 67, "prompt_tokens_details": {"cached_tokens": 30},
    });
    assert_eq!(told["usage"], usage);
}

#[test]
fn every_reason_to_stop_has_its_counterpart() {
    for (reason, expected) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("of the future", "stop"),
    ] {
        let told = completion(json!({"type": "message", "content": [], "stop_reason": reason}));
        assert_eq!(told["choices"][0]["finish_reason"], expected, "{reason}");
    }
}

#[test]
fn malformed_messages_are_refused_without_a_panic() {
    for wrong in [json!(null), json!([]), json!({"type": "error"}), json!({"type": "message", "content": "x"})] {
        assert!(Anthropic::completion(&wrong, 1).is_none(), "{wrong}");
        assert!(Anthropic::error(&HeaderMap::new(), &wrong).is_none(), "{wrong}");
    }
    let odd =
        json!({"type": "message", "id": 1, "content": [1, {"type": "tool_use"}, {}], "usage": [], "stop_reason": 3});
    assert_eq!(completion(odd)["usage"]["total_tokens"], 0);
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"});
    let told = Anthropic::error(&HeaderMap::new(), &error).unwrap();
    assert_eq!((told.0.as_str(), told.1.as_str()), ("overloaded_error", "Overloaded"));
}

/// The translation of a stream: the chunks, the raw text, and whether it is over.
fn streamed(text: &str, include_usage: bool) -> (Vec<Value>, String, bool) {
    let (mut stream, mut chunks) =
        (MessageStream::default(), Chunks::new("id".into(), "asked for".into(), include_usage));
    let mut told = String::new();
    for piece in text.as_bytes().chunks(7) {
        stream.push(piece, &mut chunks).unwrap();
        told.push_str(std::str::from_utf8(&chunks.take()).unwrap());
    }
    let data = told.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    (data.map(|data| serde_json::from_str(data).unwrap()).collect(), told.clone(), chunks.is_over())
}

/// A stream with text and a tool call, after the example of the documentation.
const WITH_TOOL: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_014p7gG3wDgGV9EUtLvnow3U","type":"message","role":"assistant","model":"claude-3-haiku-20240307","stop_sequence":null,"usage":{"input_tokens":472,"cache_read_input_tokens":8,"output_tokens":2},"content":[],"stop_reason":null}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Okay"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":", let's check"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_01T1x1fJ34qAmk2tNTrN7Up6","name":"get_weather","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"location\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":" \"San Francisco\"}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_02","name":"now","input":{}}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: of_the_future
data: {"type":"of_the_future"}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":89}}

event: message_stop
data: {"type":"message_stop"}

"#;

#[test]
fn a_stream_becomes_chunks_that_end_with_the_usage_if_that_is_wanted() {
    let (chunks, text, is_over) = streamed(WITH_TOOL, true);
    let deltas: Vec<&Value> = chunks
        .iter()
        .filter(|chunk| chunk["choices"] != json!([]))
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect();
    let part = |index: usize, piece: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]});
    let begin = |index: usize, id: &str, name: &str| {
        let function = json!({"name": name, "arguments": ""});
        json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
    };
    let expected = [
        json!({"role": "assistant", "content": "", "refusal": null}),
        json!({"content": "Okay"}),
        json!({"content": ", let's check"}),
        begin(0, "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather"),
        part(0, "{\"location\":"),
        part(0, " \"San Francisco\"}"),
        begin(1, "toolu_02", "now"),
        part(1, "{}"),
        json!({}),
    ];
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    let reasons: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(reasons.iter().filter(|reason| !reason.is_null()).collect::<Vec<_>>(), [&&json!("tool_calls")]);
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["prompt_tokens"]), (&json!([]), &json!(480)));
    assert_eq!((&last["usage"]["completion_tokens"], &last["model"]), (&json!(89), &json!("claude-3-haiku-20240307")));
    assert!(chunks.iter().all(|chunk| chunk["id"] == "msg_014p7gG3wDgGV9EUtLvnow3U"));
    assert!(is_over && text.ends_with("data: [DONE]\n\n") && text.contains("\n\n: ping\n\n"), "{text}");

    let (chunks, text, _) = streamed(WITH_TOOL, false);
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"] != json!([])), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"));
}

#[test]
fn an_error_within_a_stream_is_one_of_the_openai_api_and_ends_it() {
    let error = "event: error\ndata: {\"type\": \"error\", \"error\": {\"type\": \"overloaded_error\", \"message\": \"Overloaded\"}}\n\n";
    let (chunks, text, is_over) = streamed(error, true);
    let told = json!({"message": "Overloaded", "type": "overloaded_error", "param": null, "code": "overloaded_error"});
    assert_eq!((chunks[0]["error"].clone(), is_over, text.contains("[DONE]")), (told, true, false));
}

#[test]
fn a_stream_that_is_cut_has_no_end_and_one_that_is_no_json_breaks() {
    let (cut, _) = WITH_TOOL.split_at(WITH_TOOL.find("event: message_stop").unwrap());
    let (_, text, is_over) = streamed(cut, true);
    assert!(!is_over && !text.contains("[DONE]"), "{text}");
    let mut chunks = Chunks::new("id".into(), "m".into(), false);
    assert!(MessageStream::default().push(b"data: {\n\n", &mut chunks).is_err());
    let odd = "data: 1\n\ndata: {\"type\": \"content_block_delta\"}\n\ndata: {\"type\": \"content_block_stop\"}\n\ndata: []\n\n";
    assert_eq!(streamed(odd, true).0, Vec::<Value>::new());
}
