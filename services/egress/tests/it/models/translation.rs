//! Chat completions of the OpenAI API at a provider that speaks the API of Anthropic.

use super::*;

fn claude(base_url: &str) -> ModelPolicy {
    model(LlmRole::Chat, "claude", server_of(Protocol::Anthropic, "main", base_url))
}

fn hello() -> Value {
    json!({"model": "claude", "messages": [{"role": "user", "content": "hello"}]})
}

#[tokio::test]
async fn a_chat_completion_becomes_a_message_and_its_answer_a_chat_completion() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/canned")]).await;
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-3-haiku-20240307",
        "content": [{"type": "text", "text": "Hi!"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    });
    tool_server.cans(200, &[("request-id", "req_7"), ("content-type", "application/json")], message.to_string());
    let (mut parts, body) = post(&format!("{CHAT}?api-version=1"), hello().to_string()).into_parts();
    for (name, value) in [("authorization", "Bearer x"), ("openai-organization", "o"), ("accept-encoding", "gzip")] {
        parts.headers.insert(name, value.parse().unwrap());
    }
    let answer = egress.send(&agent, Request::from_parts(parts, body)).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["object"]), (StatusCode::OK, &json!("chat.completion")));
    assert_eq!(told["choices"][0]["message"]["content"], "Hi!");
    assert_eq!(
        (&told["usage"]["total_tokens"], &answer.headers["x-request-id"]),
        (&json!(5), &"req_7".parse().unwrap())
    );
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string().as_str());

    let seen = &tool_server.seen("/canned/messages")[0];
    let headers = &seen["headers"];
    assert_eq!((&headers["x-api-key"], &headers["authorization"]), (&json!("sk-of-main"), &json!(null)));
    assert_eq!((&headers["anthropic-version"], &headers["openai-organization"]), (&json!("2023-06-01"), &json!(null)));
    assert_eq!((&headers["accept-encoding"], &seen["query"]), (&json!("identity"), &json!(null)));
    assert_eq!((&seen["json"]["max_tokens"], &seen["json"]["model"]), (&json!(4096), &json!("claude")));
    let record = egress.record().await;
    assert_eq!((record.path.as_str(), record.status), ("/canned/messages", Some(200)));
    assert_eq!(record.bytes_up, seen["length"].as_u64().unwrap());
}

#[tokio::test]
async fn the_errors_of_the_provider_are_told_as_the_openai_api_does() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/canned")]).await;
    for (status, kind) in
        [(401, "authentication_error"), (429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error")]
    {
        let error = json!({"type": "error", "error": {"type": kind, "message": "No."}});
        tool_server.cans(status, &[("retry-after", "7"), ("request-id", "req_8")], error.to_string());
        let mut request = hello();
        request["stream"] = json!(status > 500);
        let answer = chat(&egress, &agent, request).await;
        let told = json!({"error": {"message": "No.", "type": kind, "param": null, "code": kind}});
        assert_eq!((answer.status.as_u16(), answer.json()), (status, told));
        assert_eq!(
            (&answer.headers["retry-after"], &answer.headers["x-request-id"]),
            (&"7".parse().unwrap(), &"req_8".parse().unwrap())
        );
        assert!(answer.headers.get("x-hoistway-egress").is_none(), "it is not egress that says so");
    }
    tool_server.cans(503, &[], "<html>down</html>");
    let answer = chat(&egress, &agent, hello()).await;
    let text = "the model provider \"main\" answered 503";
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (503, &json!(text)));
    for (stream, body) in [(false, "<html>"), (false, "{}"), (true, "{}")] {
        tool_server.cans(200, &[], body);
        let mut request = hello();
        request["stream"] = json!(stream);
        let answer = chat(&egress, &agent, request).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (502, "bad_answer"), "{body}");
    }
}

#[tokio::test]
async fn untranslatable_requests_are_refused_by_member_name() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/v1")]).await;
    let mut request = hello();
    request["n"] = json!(2);
    let answer = chat(&egress, &agent, request).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("n")));
    for api in ["completions", "embeddings", "responses"] {
        let answer = egress.send(&agent, post(&format!("/v1/{api}"), r#"{"model": "claude"}"#)).await;
        let text = format!(
            "\"claude\" is served by the provider \"main\", which has no {api}: call it with /v1/chat/completions"
        );
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &json!(text)));
        assert_eq!(answer.headers["x-should-retry"], "false");
    }
    assert_eq!(tool_server.connections(), 0);
}

/// The answer to a streamed request, whose body is read by the test.
async fn streamed(egress: &TestEgress, agent: &Agent) -> http::Response<hyper::body::Incoming> {
    let mut body = hello();
    body["stream"] = json!(true);
    let request = Request::post(CHAT).header("proxy-authorization", basic(&agent.token)).header("host", "egress");
    let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(egress.connect().await)).await.unwrap();
    tokio::spawn(connection);
    timeout(SOON, sender.send_request(request)).await.unwrap().unwrap()
}

fn event(data: &Value) -> Bytes {
    Bytes::from(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()))
}

fn start() -> Bytes {
    event(
        &json!({"type": "message_start", "message": {"id": "msg_1", "model": "claude-3", "usage": {"input_tokens": 1}}}),
    )
}

async fn next(response: &mut http::Response<hyper::body::Incoming>) -> Option<Result<String, hyper::Error>> {
    let frame = timeout(SOON, response.body_mut().frame()).await.unwrap()?;
    Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
}

#[tokio::test]
async fn a_streamed_message_becomes_chunks_event_by_event() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/stream")]).await;
    let events = tool_server.stream();
    let mut response = streamed(&egress, &agent).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let text =
        |piece: &str| event(&json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}}));
    let stop = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}});
    for (sent, expected) in [
        (start(), "\"role\":\"assistant\""),
        (text("one"), "\"content\":\"one\""),
        (event(&json!({"type": "ping"})), ": ping\n\n"),
        (text("two"), "\"content\":\"two\""),
        (event(&stop), "\"finish_reason\":\"stop\""),
        (event(&json!({"type": "message_stop"})), "data: [DONE]\n\n"),
    ] {
        events.send(sent).await.unwrap();
        let told = next(&mut response).await.unwrap().unwrap();
        assert!(told.contains(expected), "it must not wait for the next one: {told}");
    }
    drop(events);
    assert!(next(&mut response).await.is_none());
    assert_eq!(egress.record().await.broken, None);
}

#[tokio::test]
async fn a_stream_that_is_cut_breaks_off_for_the_agent_too() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/stream")]).await;
    let events = tool_server.stream();
    let mut response = streamed(&egress, &agent).await;
    events.send(start()).await.unwrap();
    assert!(next(&mut response).await.unwrap().unwrap().contains("assistant"));
    drop(events);
    assert!(next(&mut response).await.unwrap().is_err(), "an end without the last event is none");
    assert_eq!(egress.record().await.broken, Some("tool_broke_off"));
}

#[tokio::test]
async fn an_error_within_a_stream_is_told_as_the_openai_api_does() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/stream")]).await;
    let events = tool_server.stream();
    let mut response = streamed(&egress, &agent).await;
    events
        .send(event(&json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})))
        .await
        .unwrap();
    let told = next(&mut response).await.unwrap().unwrap();
    let error: Value = serde_json::from_str(told.strip_prefix("data: ").unwrap().trim_end()).unwrap();
    assert_eq!(error["error"]["message"], "Overloaded");
    drop(events);
    assert!(next(&mut response).await.is_none());
}
