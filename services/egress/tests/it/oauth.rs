//! Access tokens.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, TestEgress, get, post, tool},
};
use hoistway_egress::policy::{Credential, OAuth2Client};
use hoistway_model::Secret;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

fn token(text: &str, life: u64) -> (u16, Value) {
    (200, json!({"access_token": text, "token_type": "Bearer", "expires_in": life}))
}

async fn start() -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let mut api = tool("api", "https://api.test");
    api.credential = Credential::OAuth2(Arc::new(OAuth2Client {
        token_url: "https://api.test/token?tenant=7".into(),
        client_id: "the client".into(),
        client_secret: Secret::new("s3cret"),
        scopes: vec!["read".into(), "write".into()],
        audience: Some("https://api.test/".into()),
    }));
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let (egress, [agent]) = TestEgress::start(&ca, [vec![api]], |config| config.resolve = resolve).await;
    (egress, agent, tool_server)
}

#[tokio::test]
async fn concurrent_calls_share_one_token_request() {
    let (egress, agent, tool_server) = start().await;
    tool_server.tokens([token("first", 3600)]);
    tool_server.wants("first");
    let calls = (0..16).map(|_| egress.send(&agent, get("/tools/api/guarded")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, StatusCode::OK);
    }
    let asked = tool_server.seen("/token");
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0]["method"].as_str(), asked[0]["query"].as_str()), (Some("POST"), Some("tenant=7")));
    // "the+client:s3cret", both halves encoded as a form first.
    assert_eq!(asked[0]["headers"]["authorization"], "Basic dGhlK2NsaWVudDpzM2NyZXQ=");
    let form = "grant_type=client_credentials&scope=read+write&audience=https%3A%2F%2Fapi.test%2F";
    assert_eq!(asked[0]["length"], form.len());
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let (egress, agent, tool_server) = start().await;
    tool_server.tokens([token("first", 3600), token("second", 3600)]);
    tool_server.wants("second");
    assert_eq!(egress.send(&agent, get("/tools/api/guarded")).await.status, StatusCode::OK);
    assert_eq!((tool_server.seen("/token").len(), tool_server.seen("/guarded").len()), (2, 2));
    tool_server.wants("third");
    // A request with a body cannot be sent again; it gets the tool's answer.
    assert_eq!(egress.send(&agent, post("/tools/api/guarded", "x")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!((tool_server.seen("/token").len(), tool_server.seen("/guarded").len()), (2, 3));
}

#[tokio::test]
async fn a_tool_that_refuses_every_token_does_not_have_one_asked_for_by_each_call() {
    let (egress, agent, tool_server) = start().await;
    tool_server.tokens(std::array::from_fn::<_, 10, _>(|n| token(&format!("token-{n}"), 3600)));
    tool_server.wants("none of them");
    for _ in 0..8 {
        assert_eq!(egress.send(&agent, get("/tools/api/guarded")).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!((tool_server.seen("/token").len(), tool_server.seen("/guarded").len()), (2, 9));
}

#[tokio::test]
async fn a_token_that_has_expired_is_not_used() {
    let (egress, agent, tool_server) = start().await;
    tool_server.tokens([token("first", 0), token("second", 3600)]);
    tool_server.wants("first");
    assert_eq!(egress.send(&agent, get("/tools/api/guarded")).await.status, StatusCode::OK);
    tool_server.wants("second");
    assert_eq!(egress.send(&agent, post("/tools/api/guarded", "x")).await.status, StatusCode::OK);
    assert_eq!(tool_server.seen("/token").len(), 2);
}

#[tokio::test]
async fn a_server_that_wants_the_secret_in_the_body_gets_it_there() {
    let (egress, agent, tool_server) = start().await;
    tool_server.tokens([(401, json!({"error": "invalid_client"})), token("first", 0), token("second", 3600)]);
    tool_server.wants("first");
    assert_eq!(egress.send(&agent, get("/tools/api/guarded")).await.status, StatusCode::OK);
    let asked = tool_server.seen("/token");
    assert_eq!((asked.len(), asked[1]["headers"]["authorization"].is_null()), (2, true));
    tool_server.wants("second");
    assert_eq!(egress.send(&agent, get("/tools/api/guarded")).await.status, StatusCode::OK);
    assert!(tool_server.seen("/token")[2]["headers"]["authorization"].is_null(), "what has worked is remembered");
}

#[tokio::test]
async fn no_token_is_said_so_and_not_asked_for_by_each() {
    let (egress, agent, tool_server) = start().await;
    tool_server.tokens([(500, json!({"error": "s3cret trouble"}))]);
    let calls = (0..4).map(|_| egress.send(&agent, get("/tools/api/x")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::BAD_GATEWAY, "credential_unavailable"));
        assert_eq!(answer.json()["error"], "no access token for the tool \"api\": the token endpoint answered 500");
    }
    assert_eq!((tool_server.seen("/token").len(), tool_server.seen("/x").len()), (1, 0));
}

#[tokio::test]
async fn a_token_endpoint_at_a_private_address_is_not_asked() {
    let ca = TestCa::new();
    let tool_server = MockTool::plain().await;
    let mut api = tool("api", "https://api.test");
    api.credential = Credential::OAuth2(Arc::new(OAuth2Client {
        token_url: format!("http://{}/token", tool_server.address),
        client_id: "c".into(),
        client_secret: Secret::new("s3cret"),
        scopes: Vec::new(),
        audience: None,
    }));
    let (egress, [agent]) = TestEgress::start(&ca, [vec![api]], |_| {}).await;
    let answer = egress.send(&agent, get("/tools/api/x")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "private_address"));
    assert_eq!(tool_server.connections(), 0);
}
