#![allow(clippy::unwrap_used)]
use super::*;

fn answer(api: Api, request: Value) -> Value {
    match respond(api, "gpt-4o-mini".into(), request.to_string().as_bytes()).unwrap() {
        Answer::Json(value) => value,
        Answer::Events(text) => panic!("{text}"),
    }
}

fn chunks(api: Api, request: Value) -> Vec<Value> {
    let Answer::Events(text) = respond(api, "m".into(), request.to_string().as_bytes()).unwrap() else { panic!() };
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(|line| if line == "[DONE]" { json!("done") } else { serde_json::from_str(line).unwrap() }).collect()
}

fn weather(message: &str) -> Value {
    let city = json!({"type": "object", "required": ["city", "days"], "properties":
        {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string"}}});
    json!({
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": message}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": city}}],
    })
}

#[test]
fn an_answer_says_what_it_is_and_repeats_the_message() {
    let request = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}]});
    let first = answer(Api::ChatCompletions, request.clone());
    let text = first["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("playground, not a model") && text.ends_with("You said: hello there"), "{text}");
    assert_eq!((&first["system_fingerprint"], &first["model"]), (&json!("hoistway-playground"), &json!("gpt-4o-mini")));
    assert_eq!(first["usage"]["prompt_tokens"], 2);
    assert_eq!(first["usage"]["completion_tokens"], words(text));
    assert_eq!(answer(Api::ChatCompletions, request)["id"], first["id"], "the same request has the same answer");
}

#[test]
fn a_tool_that_the_message_asks_for_is_called_with_its_required_members() {
    for message in ["please get the weather for 3 days", "call get_weather for 3 days"] {
        let choice = answer(Api::ChatCompletions, weather(message))["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "tool_calls");
        let function = &choice["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        assert_eq!((&function["name"], arguments), (&json!("get_weather"), json!({"city": message, "days": 3})));
    }
    let other = answer(Api::ChatCompletions, weather("hello"));
    assert_eq!(other["choices"][0]["finish_reason"], "stop");
    let mut result = weather("get the weather");
    result["messages"].as_array_mut().unwrap().push(json!({"role": "tool", "tool_call_id": "x", "content": "sunny"}));
    let text = answer(Api::ChatCompletions, result)["choices"][0]["message"]["content"].to_string();
    assert!(text.contains("The tool answered: sunny"), "{text}");
    let mut none = weather("get the weather");
    none["tool_choice"] = json!("none");
    assert_eq!(answer(Api::ChatCompletions, none)["choices"][0]["finish_reason"], "stop");
    let mut forced = weather("hello");
    forced["tool_choice"] = json!({"type": "function", "function": {"name": "get_weather"}});
    assert_eq!(answer(Api::ChatCompletions, forced)["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_streamed_answer_is_the_same_in_pieces() {
    let mut request = json!({"messages": [{"role": "user", "content": "a b c"}]});
    let whole = answer(Api::ChatCompletions, request.clone())["choices"][0]["message"]["content"].clone();
    request["stream"] = json!(true);
    request["stream_options"] = json!({"include_usage": true});
    let chunks = chunks(Api::ChatCompletions, request);
    let joined: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(json!(joined), whole);
    let [.., finish, usage, done] = chunks.as_slice() else { panic!() };
    assert_eq!((&finish["choices"][0]["finish_reason"], &finish["usage"]), (&json!("stop"), &json!(null)));
    assert_eq!((&usage["choices"], &usage["usage"]["prompt_tokens"]), (&json!([]), &json!(3)));
    assert_eq!(done, "done");
}

#[test]
fn a_streamed_tool_call_and_a_schema_are_filled() {
    let mut request = weather("get weather");
    request["stream"] = json!(true);
    let parts = chunks(Api::ChatCompletions, request);
    let calls = parts.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"].as_object());
    let arguments: String = calls.filter_map(|function| function["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"city": "get weather", "days": 0}));
    let schema = json!({"type": "object", "required": ["ok", "mood"], "properties":
        {"ok": {"type": "boolean"}, "mood": {"enum": ["good", "bad"]}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let request = json!({"messages": [{"role": "user", "content": "a bad day"}], "response_format": format});
    let text = answer(Api::ChatCompletions, request)["choices"][0]["message"]["content"].clone();
    let value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert_eq!(value, json!({"ok": false, "mood": "bad"}));
}

#[test]
fn responses_have_texts_tool_calls_and_events() {
    let text = answer(Api::Responses, json!({"input": "hi"}))["output"][0]["content"][0]["text"].clone();
    assert!(text.as_str().unwrap().ends_with("You said: hi"), "{text}");
    let tool = json!({"type": "function", "name": "add", "parameters": {"type": "object"}});
    let call = answer(Api::Responses, json!({"input": "add them", "tools": [tool]}))["output"][0].clone();
    assert_eq!(
        (&call["type"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("add"), &json!("{}"))
    );
    let events = chunks(Api::Responses, json!({"input": "hi", "stream": true}));
    assert_eq!(events.first().unwrap()["type"], "response.created");
    assert_eq!(events.last().unwrap()["response"]["output"][0]["content"][0]["text"], text);
    let deltas: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(json!(deltas), text);
}

#[test]
fn embeddings_are_the_same_for_the_same_text_and_have_length_one() {
    let data = answer(Api::Embeddings, json!({"input": ["a", "b", "a"], "dimensions": 8}))["data"].clone();
    assert_eq!(data[0]["embedding"], data[2]["embedding"]);
    assert_ne!(data[0]["embedding"], data[1]["embedding"]);
    let vector: Vec<f64> = serde_json::from_value(data[0]["embedding"].clone()).unwrap();
    let length: f64 = vector.iter().map(|value| value * value).sum();
    assert!(vector.len() == 8 && (length - 1.0).abs() < 1e-5, "{vector:?}");
    let encoded = answer(Api::Embeddings, json!({"input": "a", "encoding_format": "base64"}));
    assert_eq!(encoded["data"][0]["embedding"].as_str().unwrap().len(), 1536 * 4 / 3 * 4);
}

#[test]
fn requests_that_make_no_sense_name_the_member() {
    for (api, request, param) in [
        (Api::ChatCompletions, json!({"messages": []}), "messages"),
        (Api::Completions, json!({}), "prompt"),
        (Api::Responses, json!({"input": 1}), "input"),
        (Api::Embeddings, json!({"input": []}), "input"),
        (Api::Embeddings, json!({"input": "x", "dimensions": 0}), "dimensions"),
    ] {
        let refusal = respond(api, "m".into(), request.to_string().as_bytes()).err().unwrap();
        assert_eq!((refusal.status.as_u16(), refusal.param.as_deref()), (400, Some(param)));
    }
}

#[test]
fn numbers_are_within_the_bounds_of_their_schema() {
    let filled = |message: &str, kind: Value| {
        let schema = json!({"type": "object", "required": ["x"], "properties": {"x": kind}});
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let messages = json!([{"role": "user", "content": message}]);
        let answer = answer(Api::ChatCompletions, json!({"messages": messages, "response_format": format}));
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&text).unwrap()["x"].clone()
    };
    for (message, schema, expected) in [
        ("none", json!({"type": "integer", "minimum": 1}), json!(1)),
        ("7 of them", json!({"type": "integer", "minimum": 1}), json!(7)),
        ("none", json!({"type": "integer", "exclusiveMinimum": 0}), json!(1)),
        ("none", json!({"type": "integer", "minimum": 0.5}), json!(1)),
        ("70 of them", json!({"type": "integer", "minimum": 1, "maximum": 10}), json!(1)),
        ("none", json!({"type": "integer", "maximum": -2}), json!(-2)),
        ("none", json!({"type": "number", "minimum": 0.5}), json!(0.5)),
        ("none", json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}), json!(0.5)),
        ("none", json!({"type": "integer", "minimum": 2, "maximum": 1}), json!(0)),
    ] {
        assert_eq!(filled(message, schema.clone()), expected, "{message}: {schema}");
    }
}

#[test]
fn several_answers_are_refused() {
    for (api, member, value) in [
        (Api::ChatCompletions, "messages", json!([{"role": "user", "content": "hi"}])),
        (Api::Completions, "prompt", json!("hi")),
    ] {
        let asked = |n: Value| respond(api, "m".into(), json!({member: value, "n": n}).to_string().as_bytes());
        assert!(asked(json!(1)).is_ok() && asked(Value::Null).is_ok());
        for n in [json!(2), json!(0), json!("1")] {
            let Err(refusal) = asked(n) else { panic!("it was answered") };
            assert!(refusal.status == 400 && refusal.message.contains("\"n\" must be 1"), "{}", refusal.message);
        }
    }
}
