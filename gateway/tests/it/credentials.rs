//! `/api/tools/{name}/credentials` and `/api/model-providers/{name}/credentials`, and credentials in bodies.

use crate::test_gateway::TestGateway;
use serde_json::{Value, json};

async fn put(gateway: &TestGateway, path: &str, body: Value) -> crate::test_gateway::Answer {
    gateway.call("PUT", path, body.to_string()).await
}

#[tokio::test]
async fn credentials_are_stored_and_never_shown() {
    let gateway = TestGateway::start().await;
    let tool = json!({"name": "t", "base_url": "https://a.example", "auth_type": "APIKey"});
    gateway.post("/api/tools", tool).await;
    gateway.post("/api/model-providers", json!({"name": "m", "provider": "openai"})).await;
    for path in ["/api/tools/t", "/api/model-providers/m"] {
        let credentials = format!("{path}/credentials");
        for body in [json!({"api_key": "s3cr3t"}), json!({"credentials": {"api_key": "s3cr3t"}})] {
            let answer = put(&gateway, &credentials, body).await;
            assert!(answer.status == 200 && !answer.text.contains("s3cr3t"), "{}", answer.text);
            let stored = json!({"stored": true, "setAt": "1970-01-01T00:00:00.000Z"});
            let status = json!({"phase": "Ready", "message": "", "credentials": stored});
            assert_eq!((&answer.json()["status"], &gateway.get(path).await.json()["status"]), (&status, &status));
        }
        let wrong = put(&gateway, &credentials, json!({"apikey": "s3cr3t"})).await.error();
        assert!(wrong.starts_with("400 invalid_argument ") && wrong.contains("api_key: is required"), "{wrong}");
        assert_eq!(gateway.call("DELETE", &credentials, "").await.text, r#"{"status":"deleted"}"#);
        assert_eq!(gateway.get(path).await.json()["status"]["phase"], "Pending");
    }
}

#[tokio::test]
async fn credentials_in_a_body_need_the_scope_admin() {
    let gateway = TestGateway::start().await;
    let (_, key) = gateway.make_key("ci", &["deploy"]).await;
    let refused =
        "403 permission_denied the API key \"ci\" does not have the scope \"admin\", which storing credentials needs";
    let tool = |name: &str, more: &str| {
        format!(r#"{{"name": "{name}", "base_url": "https://a.example", "auth_type": "APIKey"{more}}}"#)
    };
    let with_key = r#", "credentials": {"api_key": "sk_live_1"}"#;
    assert_eq!(gateway.call_as(&key, "POST", "/api/tools", tool("t", with_key)).await.error(), refused);
    assert_eq!(gateway.get("/api/tools").await.json(), json!([]), "nothing was changed");
    assert_eq!(gateway.call_as(&key, "POST", "/api/tools", tool("t", "")).await.status, 201);
    assert_eq!(gateway.call_as(&key, "PUT", "/api/tools/t", tool("t", with_key)).await.error(), refused);
    let patch = r#"{"credentials": {"api_key": "sk_live_1"}}"#;
    assert_eq!(gateway.call_as(&key, "PATCH", "/api/tools/t", patch).await.error(), refused);
    let provider = r#"{"name": "p", "provider": "openai", "models": ["m"], "api_key": "sk-1"}"#;
    assert_eq!(gateway.call_as(&key, "POST", "/api/model-providers", provider).await.error(), refused);
    assert_eq!(gateway.call_as(&key, "PUT", "/api/model-providers/p", provider).await.error(), refused);
    assert_eq!(gateway.post("/api/tools", json!({"name": "u", "base_url": "https://a.example", "auth_type": "APIKey", "credentials": {"api_key": "k"}})).await.status, 201);
}
