//! `POST /api/tools/{name}/check` and `POST /api/model-providers/{name}/check`.

use crate::test_gateway::TestGateway;
use hoistway_model::egress::{Check, CheckKind, CheckStep};
use serde_json::{Value, json};

#[tokio::test]
async fn a_check_needs_the_scope_admin_and_returns_its_findings() {
    let gateway = TestGateway::start().await;
    let path = "/api/tools/t/check";
    assert_eq!(gateway.call("POST", path, "").await.error(), "404 not_found tool \"t\" not found");
    assert_eq!(gateway.post("/api/tools", json!({"name": "t", "base_url": "https://t.example"})).await.status, 201);
    let step = |check, ok, message: &str| CheckStep { check, ok, message: message.into() };
    let address = step(CheckKind::Address, true, "it answers");
    let steps = vec![address.clone(), step(CheckKind::Credential, false, "it answered 401")];
    *gateway.egress.check.lock().unwrap() = Some(Check { status: Some(401), latency_ms: Some(7), steps });
    let expected = json!({"ok": false, "status": 401, "latency_ms": 7, "checks": [
        {"check": "address", "ok": true, "message": "it answers"},
        {"check": "credential", "ok": false, "message": "it answered 401"},
    ]});
    let answer = gateway.call("POST", path, "").await;
    assert_eq!((answer.status, answer.json()), (200, expected));
    *gateway.egress.check.lock().unwrap() = Some(Check { status: None, latency_ms: None, steps: vec![address] });
    let answer = gateway.call("POST", path, "").await.json();
    assert_eq!((&answer["ok"], &answer["status"]), (&json!(true), &Value::Null));

    let provider = "/api/model-providers/p/check";
    assert_eq!(gateway.call("POST", provider, "").await.error(), "404 not_found model provider \"p\" not found");
    let registered = gateway.post("/api/model-providers", json!({"name": "p", "provider": "openai"})).await;
    assert_eq!(registered.status, 201);
    assert_eq!(gateway.call("POST", provider, "").await.json(), answer);

    let (_, deployer) = gateway.make_key("deployer", &["deploy"]).await;
    assert_eq!(gateway.call_as(&deployer, "POST", path, "").await.status, 403);
    assert_eq!(gateway.call_as(&deployer, "POST", provider, "").await.status, 403);
    let (_, operator) = gateway.make_key("operator", &["admin"]).await;
    assert_eq!(gateway.call_as(&operator, "POST", path, "").await.status, 200);
    let audited = gateway.get("/api/audit?action=tool.check&target=t").await.json();
    assert_eq!((&audited[0]["outcome"], &audited[0]["key"]["name"]), (&json!("success"), &json!("operator")));
}
