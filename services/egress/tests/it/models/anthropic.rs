//! The API of Anthropic, as its own clients speak it.

use super::*;

const MESSAGES: &str = "/v1/messages";

fn claude(base_url: &str) -> ModelPolicy {
    model(LlmRole::Chat, "claude", server_of(Protocol::Anthropic, "main", base_url))
}

/// The same request with these headers.
fn with_headers(request: Request<Full<Bytes>>, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    parts.headers.extend(
        headers.iter().map(|(name, value)| {
            (Some(http::HeaderName::from_static(name)), value.parse::<http::HeaderValue>().unwrap())
        }),
    );
    Request::from_parts(parts, body)
}

#[tokio::test]
async fn the_client_of_anthropic_reaches_its_provider_with_the_providers_key() {
    let (egress, agent, _standin) = egress(vec![claude("https://llm.test/v1")]).await;
    let body = json!({"model": "claude", "max_tokens": 9, "messages": [], "unknown": {"kept": 1}});
    let sent = [
        ("x-api-key", "hoistway-placeholder"),
        ("authorization", "Bearer hoistway-placeholder"),
        ("anthropic-version", "2099-01-01"),
        ("anthropic-beta", "x-2025-01-01"),
    ];
    let request = with_headers(post(&format!("{MESSAGES}?beta=true"), body.to_string()), &sent);
    let told = egress.send(&agent, request).await.json();
    assert_eq!((&told["path"], &told["query"], &told["json"]), (&json!(MESSAGES), &json!("beta=true"), &body));
    let headers = &told["headers"];
    assert_eq!((&headers["x-api-key"], &headers["authorization"]), (&json!("sk-of-main"), &json!(null)));
    assert_eq!(
        (&headers["anthropic-version"], &headers["anthropic-beta"]),
        (&json!("2099-01-01"), &json!("x-2025-01-01"))
    );
    let record = egress.record().await;
    assert_eq!(record.target, Some(CallTarget::ModelProvider(name("main"))));

    let told = egress.send(&agent, post("/v1/messages/count_tokens", "{}")).await.json();
    assert_eq!((&told["path"], &told["json"]), (&json!("/v1/messages/count_tokens"), &json!({"model": "claude"})));
    assert_eq!(told["headers"]["anthropic-version"], "2023-06-01", "a client that names no version gets one");
}

#[tokio::test]
async fn an_error_of_anthropic_comes_out_as_it_is() {
    let (egress, agent, _standin) = egress(vec![claude("https://llm.test/status/529")]).await;
    let answer = egress.send(&agent, post(MESSAGES, "{}")).await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (529, "7"));
    assert_eq!(answer.json()["path"], "/status/529/messages");
}

#[tokio::test]
async fn refusals_have_the_shape_of_anthropics_api_for_its_clients() {
    let (egress, agent, tool_server) = egress(vec![
        claude("https://llm.test/v1"),
        model(LlmRole::Reranking, "gpt", server("other", "https://llm.test/v1")),
        model(LlmRole::Classify, "small", unavailable(ModelUnavailableReason::NoKey, "it has no key")),
    ])
    .await;
    let answer = egress.send(&agent, post(MESSAGES, r#"{"model": "x"}"#)).await;
    let text =
        "this agent may not call the model \"x\", only \"claude\", \"gpt\", \"small\": llm_configs name its models";
    let error = json!({"type": "permission_error", "message": text});
    let whole = json!({"type": "error", "error": error, "reason": "model_not_allowed"});
    assert_eq!((answer.status, answer.json()), (StatusCode::FORBIDDEN, whole));

    let known = [("anthropic-version", "2023-06-01")];
    let too_large = format!(r#"{{"model": "claude", "x": "{}"}}"#, "x".repeat(3 << 20));
    for (request, status, kind, retries) in [
        (post(MESSAGES, r#"{"model": "gpt"}"#), 400, "invalid_request_error", false),
        (post(MESSAGES, r#"{"model": "small"}"#), 502, "api_error", false),
        (post(MESSAGES, "no json"), 400, "invalid_request_error", true),
        (post(MESSAGES, too_large), 413, "request_too_large", true),
        (get(MESSAGES), 405, "invalid_request_error", true),
        (post("/v1/messages/batches", "{}"), 404, "not_found_error", true),
        (with_headers(get("/v1/models/x"), &known), 403, "permission_error", true),
        (with_headers(post("/v1/complete", "{}"), &known), 404, "not_found_error", true),
    ] {
        let uri = request.uri().clone();
        let answer = egress.send(&agent, request).await;
        let told = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &told["type"], &told["error"]["type"]),
            (status, &json!("error"), &json!(kind)),
            "{uri}"
        );
        assert_eq!(answer.headers.get("x-should-retry").is_none(), retries, "{uri}");
    }
    let openai = with_headers(post(CHAT, r#"{"model": "x"}"#), &known);
    let told = egress.send(&agent, openai).await.json();
    assert_eq!(told["error"]["code"], "model_not_allowed", "an API has its own errors, whatever else is sent");
    let anonymous = send(egress.connect().await, post(MESSAGES, "{}")).await;
    assert_eq!(
        (anonymous.status, &anonymous.json()["error"]["type"]),
        (StatusCode::UNAUTHORIZED, &json!("authentication_error"))
    );
    assert_eq!(tool_server.connections(), 0);
}

#[tokio::test]
async fn a_model_of_another_provider_is_refused_with_the_api_that_works() {
    let playground = ModelBackend::Playground(name("playground-llm"));
    let (egress, agent, tool_server) = egress(vec![
        model(LlmRole::Chat, "gpt", server("other", "https://llm.test/v1")),
        model(LlmRole::Reranking, "toy", playground),
    ])
    .await;
    for model in ["gpt", "toy"] {
        let answer = egress.send(&agent, post(MESSAGES, json!({"model": model}).to_string())).await;
        let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == StatusCode::BAD_REQUEST && text.ends_with("/v1/chat/completions"), "{text}");
    }
    assert_eq!(tool_server.connections(), 0);
}

#[tokio::test]
async fn models_are_listed_as_anthropics_client_expects_them() {
    let (egress, agent, _standin) = egress(vec![
        claude("https://llm.test/v1"),
        model(LlmRole::Reranking, "gpt", server("other", "https://llm.test/v1")),
    ])
    .await;
    let known = [("anthropic-version", "2023-06-01")];
    let entry = |id| json!({"type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z"});
    let listed = egress.send(&agent, with_headers(get("/v1/models?limit=20"), &known)).await.json();
    let data = [entry("claude"), entry("gpt")];
    assert_eq!(listed, json!({"data": data, "has_more": false, "first_id": "claude", "last_id": "gpt"}));
    assert_eq!(egress.send(&agent, with_headers(get("/v1/models/gpt"), &known)).await.json(), entry("gpt"));
    assert_eq!(egress.send(&agent, get("/v1/models")).await.json()["data"][0]["object"], "model");
}

#[tokio::test]
async fn a_message_streams_event_by_event() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/stream")]).await;
    let events = tool_server.stream();
    let request = Request::post(MESSAGES).header("proxy-authorization", basic(&agent.token)).header("host", "egress");
    let request = request.body(Full::new(Bytes::from(r#"{"model": "claude", "stream": true}"#))).unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(egress.connect().await)).await.unwrap();
    tokio::spawn(connection);
    let mut response = timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
    for text in ["event: ping\ndata: {\"type\": \"ping\"}\n\n", "event: message_stop\ndata: {}\n\n"] {
        events.send(Bytes::from(text)).await.unwrap();
        let frame = timeout(SOON, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text, "it must not wait for the next one");
    }
}
