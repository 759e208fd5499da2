//! Documents as Amazon publishes them.
#![allow(clippy::unwrap_used)]
use super::{Bedrock, ConverseStream};
use crate::forward::models::chat_completions::{self, Chunks, Provider, Translate};
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use http::HeaderMap;
use serde_json::{Value, json};

fn parsed(request: Value) -> chat_completions::ChatRequest {
    chat_completions::parse(request.to_string().as_bytes()).unwrap()
}

fn translated(request: Value) -> Value {
    Bedrock::request("m", parsed(request)).unwrap()
}

#[test]
fn a_request_has_everything_that_was_asked_for() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call =
        json!({"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Paris\"}"}});
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
        "tool_choice": "required",
        "max_tokens": 100, "temperature": 1.5, "top_p": 0.5, "stop": ["end"], "user": "u-1", "stream": true,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    });
    let expected = json!({
        "system": [{"text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [
                {"text": "What is this?"}, {"image": {"format": "png", "source": {"bytes": "aGk="}}},
            ]},
            {"role": "assistant", "content": [
                {"text": "Let me see."},
                {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Paris"}}},
            ]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "warm"}]}}]},
        ],
        "inferenceConfig": {"maxTokens": 100, "temperature": 1.0, "topP": 0.5, "stopSequences": ["end"]},
        "toolConfig": {
            "tools": [{"toolSpec": {"name": "weather", "description": "Tells it.", "inputSchema": {"json": schema}}}],
            "toolChoice": {"any": {}},
        },
        "outputConfig": {"textFormat": {
            "type": "json_schema", "structure": {"jsonSchema": {"name": "answer", "schema": schema.to_string()}},
        }},
    });
    assert_eq!(translated(request), expected);
    let little = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(translated(little), json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}));
}

#[test]
fn every_choice_of_a_tool_has_its_counterpart_and_what_has_none_is_named() {
    let request = |choice: Value| {
        json!({
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": choice,
        })
    };
    let config = |choice: Value| translated(request(choice))["toolConfig"].clone();
    assert_eq!(config(json!(null)).get("toolChoice"), None);
    assert_eq!(config(json!("auto"))["toolChoice"], json!({"auto": {}}));
    let named = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(config(named)["toolChoice"], json!({"tool": {"name": "f"}}));
    assert_eq!(config(json!("none")), Value::Null, "the API has no such choice");

    let call = json!({"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let with_calls = json!({"messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": ""},
    ]});
    let told = translated(with_calls);
    assert_eq!(told["toolConfig"]["tools"][0]["toolSpec"]["name"], "f", "calls need the tools that they are of");
    assert_eq!(told["messages"][2]["content"][0]["toolResult"]["content"], json!([]));

    let mut one = request(json!("auto"));
    one["parallel_tool_calls"] = json!(false);
    let image = |url: &str| {
        let content = json!([{"type": "image_url", "image_url": {"url": url}}]);
        json!({"messages": [{"role": "user", "content": content}]})
    };
    let url = "messages[0].content[0].image_url.url";
    for (request, param) in [
        (one, "parallel_tool_calls"),
        (image("https://a.example/b.png"), url),
        (image("data:image/tiff;base64,aGk="), url),
    ] {
        let wrong = format!("{:?}", Bedrock::request("m", parsed(request)).unwrap_err());
        assert!(wrong.contains(&format!("param: Some(\"{param}\")")), "{wrong}");
    }
}

#[test]
fn a_models_identifier_is_one_segment_of_the_path() {
    let path = Bedrock::path("anthropic.claude-3-haiku-20240307-v1:0", false);
    assert_eq!(path, "model/anthropic.claude-3-haiku-20240307-v1%3A0/converse");
    let arn = "arn:aws:bedrock:us-east-1:1:inference-profile/x";
    let expected = "model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fx/converse-stream";
    assert_eq!(Bedrock::path(arn, true), expected);
}

#[test]
fn an_answer_is_a_chat_completion() {
    let told = Bedrock::completion(
        &json!({
            "output": {"message": {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm"}}},
                {"text": "Hi!"},
                {"toolUse": {"toolUseId": "tooluse_1", "name": "weather", "input": {"city": "Paris"}}},
            ]}},
            "stopReason": "tool_use",
            "usage": {
                "inputTokens": 10, "outputTokens": 7, "totalTokens": 67,
                "cacheReadInputTokens": 30, "cacheWriteInputTokens": 20,
            },
            "metrics": {"latencyMs": 1},
        }),
        1,
    );
    let told = told.unwrap().into_json();
    let choice = &told["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("Hi!"), &json!("tool_calls")));
    let function = json!({"name": "weather", "arguments": "{\"city\":\"Paris\"}"});
    let call = json!({"id": "tooluse_1", "type": "function", "function": function});
    assert_eq!(choice["message"]["tool_calls"], json!([call]));
    let usage = json!({
        "prompt_tokens": 60, "completion_tokens": 7, "total_tokens": 67, "prompt_tokens_details": {"cached_tokens": 30},
    });
    assert_eq!(told["usage"], usage);
    for (reason, expected) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
    ] {
        let answer = json!({"output": {"message": {"content": [1, {}]}}, "stopReason": reason});
        let told = Bedrock::completion(&answer, 1).unwrap().into_json();
        assert_eq!(told["choices"][0]["finish_reason"], expected, "{reason}");
    }
    for wrong in [json!(null), json!({"output": {}}), json!([])] {
        assert!(Bedrock::completion(&wrong, 1).is_none(), "{wrong}");
    }
}

#[test]
fn the_kind_of_an_error_stands_in_a_header() {
    let mut headers = HeaderMap::new();
    let body = json!({"message": "Too many requests"});
    assert_eq!(Bedrock::error(&headers, &body), None);
    let kind = "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/";
    headers.insert("x-amzn-errortype", kind.parse().unwrap());
    let expected = Some(("ThrottlingException".to_owned(), "Too many requests".to_owned()));
    assert_eq!(Bedrock::error(&headers, &body), expected);
    assert_eq!(Bedrock::error(&headers, &json!(null)), None);
}

/// A message of a stream.
fn frame(headers: &[(&'static str, &'static str)], payload: &str) -> Vec<u8> {
    let mut message = Message::new(payload.as_bytes().to_vec());
    for (name, value) in headers {
        message = message.add_header(Header::new(*name, HeaderValue::String((*value).into())));
    }
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

fn event(kind: &'static str, payload: &Value) -> Vec<u8> {
    frame(&[(":message-type", "event"), (":event-type", kind)], &payload.to_string())
}

/// The translation of a stream: the chunks, the raw text, and whether it is over.
fn streamed(stream: &[u8]) -> (Vec<Value>, String, bool) {
    let (mut translator, mut chunks) = (ConverseStream::default(), Chunks::new("id".into(), "m".into(), true));
    let mut told = String::new();
    for piece in stream.chunks(7) {
        translator.push(piece, &mut chunks).unwrap();
        told.push_str(std::str::from_utf8(&chunks.take()).unwrap());
    }
    let data = told.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    (data.map(|data| serde_json::from_str(data).unwrap()).collect(), told.clone(), chunks.is_over())
}

#[test]
fn a_stream_becomes_chunks_that_end_with_the_usage() {
    let delta = |delta: Value| event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": delta}));
    let start = |id: &str| json!({"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": id, "name": "f"}}});
    let stop = || event("contentBlockStop", &json!({"contentBlockIndex": 0}));
    let stream = [
        event("messageStart", &json!({"role": "assistant"})),
        delta(json!({"text": "Hi"})),
        stop(),
        event("contentBlockStart", &start("t1")),
        delta(json!({"toolUse": {"input": "{\"a\":"}})),
        delta(json!({"toolUse": {"input": "1}"}})),
        stop(),
        event("contentBlockStart", &start("t2")),
        stop(),
        event("ofTheFuture", &json!({})),
        event("messageStop", &json!({"stopReason": "tool_use"})),
        event("metadata", &json!({"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}})),
        event("messageStart", &json!({"role": "assistant"})),
    ]
    .concat();
    let (chunks, text, is_over) = streamed(&stream);
    let part = |index: usize, piece: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]});
    let begin = |index: usize, id: &str| {
        let function = json!({"name": "f", "arguments": ""});
        json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
    };
    let expected = [
        json!({"role": "assistant", "content": "", "refusal": null}),
        json!({"content": "Hi"}),
        begin(0, "t1"),
        part(0, "{\"a\":"),
        part(0, "1}"),
        begin(1, "t2"),
        part(1, "{}"),
        json!({}),
    ];
    let deltas: Vec<&Value> = chunks.iter().take(8).map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert_eq!(chunks[7]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!((chunks.len(), &chunks[8]["usage"]["total_tokens"]), (9, &json!(5)));
    assert!(is_over && text.ends_with("data: [DONE]\n\n"), "what comes after the end is nothing: {text}");
}

#[test]
fn an_exception_within_a_stream_is_an_error_of_the_openai_api_and_ends_it() {
    let exception = [(":message-type", "exception"), (":exception-type", "throttlingException")];
    let (chunks, text, is_over) = streamed(&frame(&exception, r#"{"message": "Slow down"}"#));
    let told = json!({
        "message": "Slow down", "type": "throttlingException", "param": null, "code": "throttlingException",
    });
    assert_eq!((&chunks[0]["error"], is_over, text.contains("[DONE]")), (&told, true, false));
}

#[test]
fn a_stream_with_a_wrong_checksum_no_json_or_too_large_an_event_breaks() {
    let push = |bytes: &[u8]| {
        let mut chunks = Chunks::new("id".into(), "m".into(), false);
        ConverseStream::default().push(bytes, &mut chunks)
    };
    let mut flipped = event("messageStart", &json!({"role": "assistant"}));
    *flipped.last_mut().unwrap() ^= 1;
    assert!(push(&flipped).is_err());
    assert!(push(&frame(&[(":message-type", "event"), (":event-type", "metadata")], "{")).is_err());
    let large = event("contentBlockDelta", &json!({"delta": {"text": "x".repeat(2 << 20)}}));
    assert!(push(&large[..large.len() - 1]).is_err());
    assert!(push(&large[..large.len() / 4]).is_ok());
}
