//! `/api/agents/{name}/app/…`.

use crate::{
    fake_runner::{Runner, Script, answer, changed},
    test_gateway::TestGateway,
};

async fn with_runner(script: Script) -> (TestGateway, Runner) {
    let (gateway, runner) = (TestGateway::start().await, Runner::start(script).await);
    changed(&gateway, runner.route()).await;
    (gateway, runner)
}

fn of_application(status: &str, headers: &str, body: &str) -> Script {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nx-hoistway-answer: application\r\n{headers}content-length: {length}\r\n");
    vec![Some(format!("{head}\r\n{body}"))]
}

#[tokio::test]
async fn requests_and_answers_are_passed_on_unchanged() {
    let headers = "content-type: text/plain\r\nset-cookie: a=b\r\nx-mine: 1\r\n";
    let (gateway, runner) = with_runner(of_application("201 Created", headers, "made")).await;
    let key = format!("Bearer {}", gateway.key);
    let sent = [("authorization", key.as_str()), ("content-type", "text/json"), ("cookie", "c=d")];
    let answer = gateway.call_with("PUT", "/api/agents/a/app/v1/chat?q=a%20b", r#"{"a": 1}"#, &sent).await;
    assert_eq!((answer.status, answer.text.as_str(), answer.header("content-type")), (201, "made", "text/plain"));
    assert_eq!((answer.header("x-mine"), answer.header("content-length"), answer.header("set-cookie")), ("1", "4", ""));
    assert!(!answer.header("x-request-id").is_empty());
    let request = runner.requests.lock().unwrap()[0].clone();
    assert!(
        request.starts_with("PUT /app/v1/chat?q=a%20b HTTP/1.1\r\n") && request.ends_with(r#"{"a": 1}"#),
        "{request}"
    );
    assert!(request.contains("x-hoistway-app-root: /api/agents/a/app\r\n"), "{request}");
    assert!(
        request.contains("x-hoistway-invoke-token: invoke-token\r\n")
            && request.contains("content-type: text/json\r\n")
    );
    assert!(!request.contains(&gateway.key) && !request.contains("c=d"), "{request}");
}

#[tokio::test]
async fn a_call_is_counted_as_an_invoke_with_the_outcome_of_its_status() {
    for (status, outcome) in [("201 Created", "ok"), ("404 Not Found", "ok"), ("500 Oh", "agent_error")] {
        let (gateway, _runner) = with_runner(of_application(status, "", "as long as it says")).await;
        gateway.call("POST", "/api/agents/a/app/x", "{}").await;
        let metrics = gateway.get("/metrics").await.text;
        let counted = format!("hoistway_invokes_total{{agent=\"a\",outcome=\"{outcome}\"}} 1\n");
        assert!(metrics.contains(&counted), "{status}: {metrics}");
    }
}

#[tokio::test]
async fn an_error_of_the_application_is_passed_on() {
    let body = r#"{"error": "mine"}"#;
    let (gateway, _runner) =
        with_runner(of_application("404 Not Found", "content-type: application/json\r\n", body)).await;
    let answer = gateway.call("POST", "/api/v1/agents/a/app/x", "{}").await;
    assert_eq!((answer.status, answer.text.as_str()), (404, body));
}

#[tokio::test]
async fn an_agent_without_an_application_is_404() {
    let said = r#"{"error": "the agent has no web application", "code": "no_application"}"#;
    let (gateway, _runner) = with_runner(answer("404 Not Found", said)).await;
    let error = gateway.call("POST", "/api/agents/a/app/x", "{}").await.error();
    assert_eq!(error, "404 not_found agent \"a\" is no web application: it answers invoke and invoke/stream alone");

    let said = r#"{"error": "there is no /app/x here", "code": "not_found"}"#;
    let (gateway, _runner) = with_runner(answer("404 Not Found", said)).await;
    let error = gateway.call("POST", "/api/agents/a/app/x", "{}").await.error();
    assert!(error.ends_with("deploy it with ?refresh=true"), "{error}");
}

#[tokio::test]
async fn a_caller_without_the_scope_invoke_is_refused() {
    let (gateway, runner) = with_runner(of_application("200 OK", "", "secret")).await;
    for path in ["/api/agents/a/app", "/api/agents/a/app/", "/api/agents/a/app/x"] {
        let answer = gateway.call_with("GET", path, "", &[]).await;
        assert_eq!(answer.status, 401, "{path}: {}", answer.text);
    }
    let (_, reader) = gateway.make_key("reader", &["read"]).await;
    assert_eq!(gateway.call_as(&reader, "GET", "/api/agents/a/app/x", "").await.status, 403);
    assert_eq!(gateway.call("GET", "/api/agents/nobody/app/x", "").await.status, 404);
    assert!(runner.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_root_redirects_to_a_directory() {
    let gateway = TestGateway::start().await;
    let answer = gateway.call("GET", "/api/agents/a/app?q=1", "").await;
    assert_eq!((answer.status, answer.header("location")), (308, "app/?q=1"));
}
