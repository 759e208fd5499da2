#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;

fn read(request: Value) -> Result<ChatRequest, Invalid> {
    parse(request.to_string().as_bytes())
}

/// A request with one message and these members.
fn with(members: Value) -> Value {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    request
}

fn text(text: &str) -> Block {
    Block::Text(text.into())
}

#[test]
fn messages_of_three_kinds_of_speakers_become_turns_of_two_sides() {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let request = read(json!({"messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": " "}], "name": "x"},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "assistant", "content": null, "tool_calls": [call("a", "{\"x\": 1}"), call("b", "")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}]},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": ""},
    ]}));
    let request = request.unwrap();
    assert_eq!(request.system, ["Be kind.", "Be brief."]);
    let input = |value: Value| value.as_object().unwrap().clone();
    let called = |id: &str, value| Block::ToolCall { id: id.into(), name: "f".into(), input: input(value) };
    let result = |id: &str, text: &str| Block::ToolResult { id: id.into(), text: text.into() };
    let user = |blocks| Turn { role: Role::User, blocks };
    let assistant = |blocks| Turn { role: Role::Assistant, blocks };
    let expected = [
        user(vec![text("one"), text("two")]),
        assistant(vec![called("a", json!({"x": 1})), called("b", json!({}))]),
        user(vec![result("a", "1"), result("b", "23"), text("and?")]),
        assistant(vec![text("no")]),
    ];
    assert_eq!(request.turns, expected);
    // The tools that were called are known, and none is to be called now.
    assert_eq!(request.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["f"]);
    assert_eq!(request.tool_choice, Some(ToolChoice::None));
}

#[test]
fn images_are_data_or_a_url() {
    let image = |url: &str| {
        let content = json!([{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]);
        read(json!({"messages": [{"role": "user", "content": content}]}))
            .map(|mut request| request.turns[0].blocks.remove(0))
    };
    let param = "messages[0].content[0].image_url.url";
    let data = Block::Image { media_type: "image/png".into(), data: "aGk=".into(), param: param.into() };
    assert_eq!(image("data:image/png;base64,aGk=").unwrap(), data);
    let url = Block::ImageUrl { url: "HTTPS://a.example/b.png".into(), param: param.into() };
    assert_eq!(image("HTTPS://a.example/b.png").unwrap(), url);
    for wrong in ["data:image/png,hi", "data:;base64,aGk=", "file:///etc/passwd", "é", ""] {
        assert_eq!(image(wrong).unwrap_err().param.as_deref(), Some(param), "{wrong}");
    }
}

#[test]
fn tools_and_whether_to_call_one() {
    let parameters = json!({"properties": {"city": {"type": "string"}}});
    let function = json!({"name": "weather", "description": "Tells it.", "parameters": parameters, "strict": true});
    let tools = json!([{"type": "function", "function": function}, {"type": "function", "function": {"name": "now"}}]);
    for (choice, expected) in [
        (json!(null), None),
        (json!("auto"), Some(ToolChoice::Auto)),
        (json!("required"), Some(ToolChoice::Required)),
        (json!("none"), Some(ToolChoice::None)),
        (json!({"type": "function", "function": {"name": "now"}}), Some(ToolChoice::Named("now".into()))),
    ] {
        let request = read(with(json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false}))).unwrap();
        assert_eq!((request.tool_choice, request.one_tool), (expected, true));
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let (name, description) = ("weather".to_owned(), Some("Tells it.".to_owned()));
        assert_eq!(request.tools[0], Tool { name, description, schema });
        assert_eq!(request.tools[1].schema, json!({"type": "object", "properties": {}}));
    }
}

#[test]
fn parameters_are_read_and_those_that_ask_for_nothing_are_left_out() {
    let schema = json!({"type": "object"});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}});
    let request = read(with(json!({
        "max_tokens": 5, "max_completion_tokens": 7, "temperature": 1.5, "top_p": 1, "stop": "end", "user": "u",
        "response_format": format, "stream": true, "stream_options": {"include_usage": true},
        "n": 1, "logprobs": false, "top_logprobs": null, "logit_bias": {}, "presence_penalty": 0,
        "frequency_penalty": 0.0, "modalities": ["text"], "seed": 1, "store": true, "service_tier": "auto",
        "metadata": {"a": "b"}, "reasoning_effort": "low", "prediction": null, "verbosity": "low", "tool_choice": "auto",
    })));
    let request = request.unwrap();
    assert_eq!((request.max_tokens, request.temperature, request.top_p), (Some(7), Some(1.5), Some(1.0)));
    assert_eq!((request.stop, request.user.as_deref()), (vec!["end".to_owned()], Some("u")));
    assert_eq!((request.schema, request.is_streamed, request.include_usage), (Some(schema), true, true));
    let plain = read(with(json!({"stop": ["a", "b"], "safety_identifier": "s", "response_format": {"type": "text"}})));
    let plain = plain.unwrap();
    assert_eq!((plain.stop.len(), plain.user.as_deref(), plain.schema), (2, Some("s"), None));
    assert_eq!((plain.is_streamed, plain.include_usage, plain.max_tokens), (false, false, None));
}

#[test]
fn invalid_or_unsupported_members_are_named() {
    let message = |message: Value| json!({"messages": [message]});
    let call =
        |function: Value| message(json!({"role": "assistant", "tool_calls": [{"id": "a", "function": function}]}));
    for (request, param) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": [1]}), "messages[0]"),
        (message(json!({"role": "system", "content": "x"})), "messages"),
        (message(json!({"role": "function", "content": "x"})), "messages[0].role"),
        (message(json!({"content": "x"})), "messages[0].role"),
        (message(json!({"role": "user"})), "messages[0].content"),
        (message(json!({"role": "user", "content": " "})), "messages[0].content"),
        (message(json!({"role": "user", "content": [{"type": "input_audio"}]})), "messages[0].content[0].type"),
        (message(json!({"role": "user", "content": ["x"]})), "messages[0].content[0].type"),
        (message(json!({"role": "user", "content": [{"type": "text"}]})), "messages[0].content[0].text"),
        (message(json!({"role": "tool", "content": "x"})), "messages[0].tool_call_id"),
        (message(json!({"role": "assistant", "tool_calls": {}})), "messages[0].tool_calls"),
        (message(json!({"role": "assistant", "function_call": {}})), "messages[0].function_call"),
        (call(json!({"arguments": ""})), "messages[0].tool_calls[0].function.name"),
        (call(json!({"name": "f", "arguments": "[1]"})), "messages[0].tool_calls[0].function.arguments"),
        (call(json!({"name": "f", "arguments": "{"})), "messages[0].tool_calls[0].function.arguments"),
        (with(json!({"n": 2})), "n"),
        (with(json!({"logprobs": true})), "logprobs"),
        (with(json!({"top_logprobs": 2})), "top_logprobs"),
        (with(json!({"logit_bias": {"1": 2}})), "logit_bias"),
        (with(json!({"audio": {}})), "audio"),
        (with(json!({"modalities": ["text", "audio"]})), "modalities"),
        (with(json!({"presence_penalty": 0.5})), "presence_penalty"),
        (with(json!({"frequency_penalty": "x"})), "frequency_penalty"),
        (with(json!({"functions": [{}]})), "functions"),
        (with(json!({"max_tokens": 0})), "max_tokens"),
        (with(json!({"max_completion_tokens": -1})), "max_completion_tokens"),
        (with(json!({"temperature": "hot"})), "temperature"),
        (with(json!({"temperature": -1})), "temperature"),
        (with(json!({"temperature": 2.1})), "temperature"),
        (with(json!({"stop": [1]})), "stop"),
        (with(json!({"user": 1})), "user"),
        (with(json!({"stream": "yes"})), "stream"),
        (with(json!({"stream_options": []})), "stream_options"),
        (with(json!({"stream_options": {"include_usage": 1}})), "stream_options.include_usage"),
        (with(json!({"response_format": {"type": "json_object"}})), "response_format.type"),
        (with(json!({"response_format": "json"})), "response_format.type"),
        (with(json!({"response_format": {"type": "json_schema"}})), "response_format.json_schema.schema"),
        (with(json!({"tools": {}})), "tools"),
        (with(json!({"tools": [{"type": "custom"}]})), "tools[0].type"),
        (with(json!({"tools": [1]})), "tools[0].type"),
        (with(json!({"tools": [{"type": "function"}]})), "tools[0].function.name"),
        (with(json!({"tool_choice": "required"})), "tool_choice"),
        (with(json!({"tool_choice": 1})), "tool_choice"),
        (with(json!({"tool_choice": {"type": "function"}})), "tool_choice.function.name"),
    ] {
        let wrong = read(request.clone()).unwrap_err();
        assert_eq!(wrong.param.as_deref(), Some(param), "{request}");
        assert!(wrong.text.starts_with(&format!("\"{param}\" ")), "{}", wrong.text);
    }
    assert_eq!(parse(b"[]").unwrap_err().param, None);
    assert_eq!(parse(br#"{"temperature": 1e999}"#).unwrap_err().param, None);
}

#[test]
fn an_answer_has_the_members_of_the_openai_api() {
    let usage = Usage { prompt: 5, cached: 2, completion: 3 };
    let call = ToolCall { id: "t".into(), name: "f".into(), arguments: "{}".into() };
    let completion = Completion {
        id: "x".into(),
        model: "m".into(),
        created: 1,
        tool_calls: vec![call],
        finish: Finish::ToolCalls,
        usage,
        ..Completion::default()
    };
    let function = json!({"name": "f", "arguments": "{}"});
    let message = json!({
        "role": "assistant", "content": null, "refusal": null,
        "tool_calls": [{"id": "t", "type": "function", "function": function}],
    });
    let expected = json!({
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"}],
        "usage": {
            "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2},
        },
    });
    assert_eq!(completion.into_json(), expected);
    assert_eq!(Completion::default().into_json()["choices"][0]["message"]["content"], "");
}
