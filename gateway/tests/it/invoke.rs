//! `POST /api/agents/{name}/invoke` and `…/invoke/stream`.

use crate::{
    fake_runner::{Runner, Script, answer, changed, route},
    fakes::name,
    test_gateway::{Answer, TestGateway},
};
use hoistway_gateway::state::Limits;
use hoistway_model::agent::{Route, RouteEvent};
use http_body_util::BodyExt;
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;

async fn with_runner(script: Script) -> (TestGateway, Runner) {
    let (gateway, runner) = (TestGateway::start().await, Runner::start(script).await);
    changed(&gateway, runner.route()).await;
    (gateway, runner)
}

async fn invoke(gateway: &TestGateway) -> Answer {
    gateway.post("/api/agents/a/invoke", json!({"message": "hi"})).await
}

#[tokio::test]
async fn requests_are_passed_on_without_forged_headers() {
    let body = r#"{"response": {"deep": [1.0]},  "extra": 7}"#;
    let (gateway, runner) = with_runner(answer("200 OK", body)).await;
    let key = format!("Bearer {}", gateway.key);
    let headers = [
        ("authorization", key.as_str()),
        ("x-end-user-id", "root"),
        ("x-request-id", "my-id"),
        ("x-hoistway-invoke-token", "forged"),
    ];
    let sent = r#"{"message": "hi",  "more": [1]}"#;
    let answer = gateway.call_with("POST", "/api/agents/a/invoke", sent, &headers).await;
    assert_eq!((answer.status, answer.text.as_str(), answer.header("content-type")), (200, body, "application/json"));
    let request = runner.requests.lock().unwrap()[0].clone();
    assert!(request.starts_with("POST /invoke HTTP/1.1\r\n") && request.ends_with(sent), "{request}");
    assert!(
        request.contains("x-hoistway-invoke-token: invoke-token\r\n") && request.contains("x-request-id: my-id\r\n")
    );
    assert!(!request.contains("root") && !request.contains("forged") && !request.contains(&gateway.key));
}

#[tokio::test]
async fn an_agent_that_cannot_be_invoked_is_refused_with_its_reason() {
    let gateway = TestGateway::start().await;
    assert_eq!(invoke(&gateway).await.error(), "404 not_found agent \"a\" not found");
    gateway.agents.add("a");
    let starting = "503 unavailable agent \"a\" is not ready: it is starting";
    let answer = invoke(&gateway).await;
    assert_eq!((answer.error().as_str(), answer.header("retry-after")), (starting, "1"));

    let down = Route { message: "it crashed; next start in 4 s".into(), ..route(None) };
    changed(&gateway, down).await;
    assert_eq!(
        invoke(&gateway).await.error(),
        "503 unavailable agent \"a\" is not ready: it crashed; next start in 4 s"
    );
    // From an agent service that does not specify the provider.
    changed(&gateway, Route { needs_caller_identity: true, ..route(None) }).await;
    let with_key = invoke(&gateway).await.error();
    assert!(with_key.starts_with("401 unauthenticated agent \"a\" must know its user: "), "{with_key}");
    let token = [("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA")];
    let with_token = gateway.call_with("POST", "/api/agents/a/invoke", r#"{"message": "hi"}"#, &token).await;
    assert_eq!(with_token.status, 503, "{}", with_token.text);

    // A port that was just free refuses connections.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    changed(&gateway, route(Some(free.to_string()))).await;
    assert_eq!(invoke(&gateway).await.error(), "503 unavailable agent \"a\" is not ready: it takes no connections");

    for (body, want) in [
        ("", "the body is empty; a JSON object is expected"),
        ("[1]", "the body must be a JSON object, not a list"),
        ("\"hi\"", "the body must be a JSON object, not a string"),
        ("{\"message\": ", "the body is not valid JSON: EOF while parsing a value at line 1 column 12"),
    ] {
        let answer = gateway.call("POST", "/api/agents/a/invoke", body).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {want}"));
    }
    // Only the agent itself checks the members that it needs.
    let without = gateway.post("/api/agents/a/invoke", json!({"city": "Oslo"})).await;
    assert_eq!(without.error(), "503 unavailable agent \"a\" is not ready: it takes no connections");
    changed(&gateway, route(None)).await;
    gateway.agents.route(RouteEvent::Removed(name("a")));
    gateway.call("DELETE", "/api/agents/a", "").await;
    assert_eq!(invoke(&gateway).await.status, 404);
}

#[tokio::test]
async fn failures_of_the_agent_are_api_errors() {
    let raised = r#"{"error": "ValueError: bad-luck-13", "code": "agent_error", "details": ["Traceback", "ValueError: bad-luck-13"]}"#;
    for (script, want) in [
        (
            answer("500 Internal Server Error", raised),
            "500 agent_error ValueError: bad-luck-13 [\"Traceback\",\"ValueError: bad-luck-13\"]",
        ),
        (
            answer("400 Bad Request", r#"{"error": "n is required", "details": ["send it"]}"#),
            "400 invalid_argument n is required [\"send it\"]",
        ),
        (answer("403 Forbidden", r#"{"error": "s3cr3t"}"#), "500 internal internal error while calling agent \"a\""),
        (
            answer("503 Service Unavailable", r#"{"error": "it is draining"}"#),
            "503 unavailable agent \"a\" is not ready: it is draining",
        ),
        (answer("418 Teapot", "<html>"), "500 agent_error agent \"a\" answered with HTTP status 418"),
        (answer("200 OK", "<html>"), "500 agent_error agent \"a\" answered with something that is not JSON"),
        (vec![], "502 agent_crashed agent \"a\" broke the connection off while answering; its logs may say why"),
        (
            vec![Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into())],
            "502 agent_crashed agent \"a\" broke the connection off while answering; its logs may say why",
        ),
    ] {
        let (gateway, runner) = with_runner(script).await;
        assert_eq!(invoke(&gateway).await.error(), want);
        assert_eq!(*runner.seen.borrow(), 1, "nothing is sent twice");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_how_the_agent_ended() {
    let (gateway, runner) = with_runner(vec![None]).await;
    let mut seen = runner.seen.subscribe();
    let ends = async {
        seen.wait_for(|n| *n == 1).await.unwrap();
        runner.go_on.send_replace(true);
        let message = "the agent crashed (killed: out of memory) and is started again".to_owned();
        changed(&gateway, Route { ready: false, message, ..runner.route() }).await;
    };
    let (answer, ()) = tokio::join!(invoke(&gateway), ends);
    let text = "502 agent_crashed agent \"a\" broke the connection off while answering: the agent crashed (killed: out of memory) and is started again";
    assert_eq!(answer.error(), text);
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_that_its_instance_was_replaced_or_deleted() {
    for (is_deleted, want) in [
        (true, "it was deleted"),
        (
            false,
            "the instance was replaced by a newer one, and ended before its answer did (of replaced instances the newest three finish \
             what they answer)",
        ),
    ] {
        let (gateway, runner) = with_runner(vec![None]).await;
        let mut seen = runner.seen.subscribe();
        let goes = async {
            seen.wait_for(|n| *n == 1).await.unwrap();
            let newer = Runner::start(vec![]).await;
            let event = match is_deleted {
                true => RouteEvent::Removed(runner.route().agent),
                false => RouteEvent::Changed(Box::new(newer.route())),
            };
            let mut changes = gateway.state.routes.changes();
            gateway.agents.route(event);
            changes.changed().await.unwrap();
            runner.go_on.send_replace(true);
        };
        let (answer, ()) = tokio::join!(invoke(&gateway), goes);
        let want = format!("502 agent_crashed agent \"a\" broke the connection off while answering: {want}");
        assert_eq!(answer.error(), want);
    }
}

#[tokio::test]
async fn time_size_and_concurrency_are_limited() {
    let limits = Limits {
        invoke_timeout: Duration::from_millis(300),
        invoke_concurrency: 1,
        max_answer: 1000,
        ..Limits::default()
    };
    let gateway = TestGateway::with(limits).await;
    let runner = Runner::start(vec![None]).await;
    changed(&gateway, runner.route()).await;
    let mut seen = runner.seen.subscribe();
    let second = async {
        seen.wait_for(|n| *n == 1).await.unwrap();
        invoke(&gateway).await
    };
    let (slow, busy) = tokio::join!(invoke(&gateway), second);
    let limit = "[\"an invoke may take invoke_timeout_seconds (HOISTWAY_GATEWAY_INVOKE_TIMEOUT_SECONDS); a longer one is for the operator to allow\"]";
    assert_eq!(slow.error(), format!("504 deadline_exceeded agent \"a\" did not answer in time {limit}"));
    assert_eq!(
        busy.error(),
        "429 resource_exhausted agent \"a\" answers 1 invokes already, the limit (setting invoke_concurrency)"
    );
    assert_eq!(busy.header("retry-after"), "1");

    let runner = Runner::start(answer("200 OK", &json!({"response": "x".repeat(1000)}).to_string())).await;
    changed(&gateway, runner.route()).await;
    assert_eq!(
        invoke(&gateway).await.error(),
        "500 agent_error agent \"a\" answered with more than 1000 bytes (setting max_answer_bytes)"
    );
}

#[tokio::test]
async fn a_timeout_shows_the_stack_of_the_handler() {
    let limits = Limits { invoke_timeout: Duration::from_millis(300), ..Limits::default() };
    let gateway = TestGateway::with(limits).await;
    let line = r#"File "/app/agent.py", line 3, in handler"#;
    for (body, want) in [
        (json!({"details": [line, "time.sleep(600)"]}).to_string(), vec![line, "time.sleep(600)"]),
        (json!({"details": vec!["x"; 100]}).to_string(), vec!["x"; 20]),
        (json!({"details": ["x".repeat(100_000)]}).to_string(), vec![]),
        ("{}".to_owned(), vec![]),
    ] {
        let runner = Runner::start(vec![None]).await;
        changed(&gateway, runner.route()).await;
        *runner.stack.lock().unwrap() = Some(body);
        let answer = invoke(&gateway).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (504, Some("deadline_exceeded")));
        let details = answer.json()["details"].as_array().unwrap().clone();
        let (remedy, stack) = details.split_last().unwrap();
        assert_eq!(stack, want);
        assert!(remedy.as_str().unwrap().contains("invoke_timeout_seconds"), "{remedy}");
        let request = runner.requests.lock().unwrap().last().unwrap().clone();
        assert!(request.starts_with("GET /stack HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("x-hoistway-invoke-token: invoke-token\r\n"), "{request}");
        assert!(request.contains(&format!("x-request-id: {}\r\n", answer.header("x-request-id"))), "{request}");
    }
}

#[tokio::test]
async fn a_stream_arrives_as_it_is_sent() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata1\r\n";
    let (gateway, runner) = with_runner(vec![Some(head.into()), None, Some("5\r\ndata2\r\n0\r\n\r\n".into())]).await;
    let key = format!("Bearer {}", gateway.key);
    let response =
        gateway.open("POST", "/api/agents/a/invoke/stream", r#"{"message": "hi"}"#, &[("authorization", &key)]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data1");
    runner.go_on.send_replace(true);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data2");
    assert!(body.frame().await.is_none());
    assert!(runner.requests.lock().unwrap()[0].starts_with("POST /invoke/stream "));
}

#[tokio::test]
async fn silent_events_are_kept_alive_by_comments_between_them() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let whole = vec![Some(format!("{head}9\r\ndata: 1\n\n\r\n")), None, Some("9\r\ndata: 2\n\n\r\n0\r\n\r\n".into())];
    let part = vec![Some(format!("{head}7\r\ndata: 1\r\n")), None, Some("2\r\n\n\n\r\n0\r\n\r\n".into())];
    let ((between, first), (within, second)) = tokio::join!(with_runner(whole), with_runner(part));
    let open = async |gateway: &TestGateway| {
        let key = format!("Bearer {}", gateway.key);
        let body = r#"{"message": "hi"}"#;
        let response = gateway.open("POST", "/api/agents/a/invoke/stream", body, &[("authorization", &key)]).await;
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        response.into_body()
    };
    let (mut commented, uncommented) = (open(&between).await, open(&within).await);
    assert_eq!(commented.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    // The heartbeat after 15 seconds.
    assert_eq!(commented.frame().await.unwrap().unwrap().into_data().unwrap(), ": still here\n\n");
    first.go_on.send_replace(true);
    assert_eq!(commented.collect().await.unwrap().to_bytes(), "data: 2\n\n");
    // An event that is half sent is not split.
    second.go_on.send_replace(true);
    assert_eq!(uncommented.collect().await.unwrap().to_bytes(), "data: 1\n\n");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_terminated_cleanly() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata1\r\n";
    let (gateway, _runner) = with_runner(vec![Some(head.into())]).await;
    let key = format!("Bearer {}", gateway.key);
    let response =
        gateway.open("POST", "/api/agents/a/invoke/stream", r#"{"message": "hi"}"#, &[("authorization", &key)]).await;
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    assert!(response.into_body().collect().await.is_err());
    let (gateway, _runner) =
        with_runner(answer("500 Internal Server Error", r#"{"error": "no", "code": "agent_error"}"#)).await;
    let answer = gateway.post("/api/agents/a/invoke/stream", json!({"message": "hi"})).await;
    assert_eq!(answer.error(), "500 agent_error no");
}

#[tokio::test]
async fn events_that_break_off_end_with_an_error_event() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    let limits = Limits { invoke_timeout: Duration::from_millis(300), ..Limits::default() };
    for (script, begins, code) in [
        (vec![Some(format!("{head}9\r\ndata: 1\n\n\r\n"))], "data: 1\n\nevent: error\ndata: ", "agent_crashed"),
        (vec![Some(format!("{head}6\r\ndata: \r\n"))], "data: \n\nevent: error\ndata: ", "agent_crashed"),
        (
            vec![Some(format!("{head}9\r\ndata: 1\n\n\r\n")), None],
            "data: 1\n\nevent: error\ndata: ",
            "deadline_exceeded",
        ),
    ] {
        let (gateway, runner) = (TestGateway::with(limits.clone()).await, Runner::start(script).await);
        changed(&gateway, runner.route()).await;
        let answer = gateway.post("/api/agents/a/invoke/stream", json!({"message": "hi"})).await;
        let error = answer.text.strip_prefix(begins).unwrap_or_else(|| panic!("{}", answer.text));
        let error: serde_json::Value = serde_json::from_str(error.trim_end()).unwrap();
        assert_eq!(
            (error["code"].as_str(), error["request_id"].as_str()),
            (Some(code), Some(answer.header("x-request-id")))
        );
        let metrics = gateway.get("/metrics").await.text;
        assert!(
            metrics.contains(&format!("hoistway_invokes_total{{agent=\"a\",outcome=\"{code}\"}} 1\n")),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn a_stream_is_counted_with_the_outcome_of_its_trailer() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n";
    for (trailer, outcome) in
        [("", "ok"), ("X-Hoistway-Outcome: ok\r\n", "ok"), ("X-Hoistway-Outcome: agent_error\r\n", "agent_error")]
    {
        let (gateway, _runner) = with_runner(vec![Some(format!("{head}{trailer}\r\n"))]).await;
        let answer = gateway.post("/api/agents/a/invoke/stream", json!({"message": "hi"})).await;
        assert_eq!(answer.text, "data: 1\n\n");
        let metrics = gateway.get("/metrics").await.text;
        assert!(
            metrics.contains(&format!("hoistway_invokes_total{{agent=\"a\",outcome=\"{outcome}\"}} 1\n")),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_slot() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nchunk\r\n";
    let limits = Limits { invoke_concurrency: 1, ..Limits::default() };
    let (gateway, runner) = (TestGateway::with(limits).await, Runner::start(vec![Some(head.into()), None]).await);
    changed(&gateway, runner.route()).await;
    let key = format!("Bearer {}", gateway.key);
    let path = "/api/agents/a/invoke/stream";
    let open = async || gateway.open("POST", path, r#"{"message": "hi"}"#, &[("authorization", &key)]).await;
    let first = open().await;
    assert_eq!((first.status().as_u16(), open().await.status().as_u16()), (200, 429));
    drop(first);
    // The slot is free as soon as the gateway has noticed the disconnect.
    while open().await.status() == 429 {}
    let metrics = gateway.get("/metrics").await.text;
    assert!(metrics.contains("hoistway_invokes_total{agent=\"a\",outcome=\"client_gone\"}"), "{metrics}");
    assert!(metrics.contains("hoistway_invokes_total{agent=\"a\",outcome=\"resource_exhausted\"}"), "{metrics}");
}
