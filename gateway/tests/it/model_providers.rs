//! `/api/model-providers`.

use crate::test_gateway::TestGateway;
use serde_json::{Value, json};

#[tokio::test]
async fn model_providers_are_created_listed_and_deleted() {
    let gateway = TestGateway::start().await;
    let body = json!({"name": "mine", "provider": "OpenAI", "endpoint": "http://llm.example/v1", "models": ["m"], "labels": {"a": "b"}});
    let answer = gateway.post("/api/model-providers", body.clone()).await;
    let shape = json!({
        "name": "mine",
        "namespace": "agent-system",
        "labels": {"a": "b"},
        "spec": {"provider": "openai", "endpoint": "http://llm.example/v1", "models": ["m"], "prices": {}, "retries": 0},
        "status": {"phase": "Pending", "message": "no credential is stored", "credentials": {"stored": false}},
        "created_at": "1970-01-01T00:00:00.000Z",
        "updated_at": "1970-01-01T00:00:00.000Z",
    });
    assert_eq!((answer.status, answer.json()), (201, shape.clone()));
    let nested = json!({"name": "mine", "labels": {"a": "b"}, "spec": {"provider": "openai", "endpoint": "http://llm.example/v1", "models": ["m"]}});
    let answer = gateway.post("/api/model-providers", nested).await;
    assert_eq!((answer.status, answer.json()), (200, shape.clone()));
    assert_eq!(gateway.get("/api/model-providers").await.json(), json!([shape]));
    for (body, want) in [
        (json!({"provider": "openai"}), "name: is required"),
        (json!({"name": "x"}), "provider: is required"),
        (
            json!({"name": "x", "provider": "skynet"}),
            "provider: \"skynet\" is not one of openai, anthropic, bedrock, ollama",
        ),
        (
            json!({"name": "x", "spec": {"provider": "openai", "endpoint": "x"}}),
            "spec.endpoint: \"x\" is not a URL that begins with http:// or https://",
        ),
        (json!({"name": "x", "provider": "openai", "models": ["a", ""]}), "models[1]: is not a model identifier"),
    ] {
        assert_eq!(gateway.post("/api/model-providers", body).await.error(), format!("400 invalid_argument {want}"));
    }
    assert_eq!(gateway.call("DELETE", "/api/model-providers/mine", "").await.text, r#"{"status":"deleted"}"#);
    assert_eq!(gateway.get("/api/model-providers/mine").await.status, 404);
}

#[tokio::test]
async fn a_model_provider_in_a_private_network_is_ready_without_a_key() {
    let gateway = TestGateway::start().await;
    for (name, endpoint, phase) in [
        ("vllm", "http://10.0.0.7:8000/v1", "Ready"),
        ("llama", "http://localhost:8080", "Ready"),
        ("six", "http://[fd00::1]:8000", "Ready"),
        ("container", "http://vllm:8000", "Ready"),
        ("intranet", "https://models.internal", "Ready"),
        ("public", "https://8.8.8.8/v1", "Pending"),
        ("named", "https://llm.example", "Pending"),
        ("standard", "", "Pending"),
    ] {
        let body = json!({"name": name, "provider": "openai", "endpoint": endpoint});
        assert_eq!(gateway.post("/api/model-providers", body).await.json()["status"]["phase"], phase, "{endpoint}");
    }
}

#[tokio::test]
async fn a_put_warns_of_members_that_it_drops() {
    let gateway = TestGateway::start().await;
    let path = "/api/model-providers/mine";
    let full =
        json!({"provider": "openai", "prices": {"m": {"input": 1, "output": 2}}, "timeout_seconds": 60, "retries": 2});
    let bare = json!({"provider": "openai"});
    let put = async |body: &Value| gateway.call("PUT", path, body.to_string()).await.json();
    for body in [&bare, &full] {
        assert_eq!(put(body).await["warnings"], Value::Null, "nothing is lost");
    }
    let answer = put(&json!({"spec": bare})).await;
    let warnings: Vec<&str> =
        answer["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, member) in warnings.iter().zip(["prices", "timeout_seconds", "retries"]) {
        assert!(warning.starts_with(&format!("{member} is dropped, because PUT replaces")), "{warning}");
    }
    put(&full).await;
    let meant = put(&json!({"provider": "openai", "prices": {}, "timeout_seconds": 60, "retries": 0})).await;
    assert_eq!((&meant["warnings"], &meant["spec"]["prices"]), (&Value::Null, &json!({})), "it was asked for");
}

#[tokio::test]
async fn prices_are_changed_by_administrators_alone() {
    let gateway = TestGateway::start().await;
    let (_, key) = gateway.make_key("ci", &["deploy"]).await;
    let provider = |more: &str| format!(r#"{{"provider": "openai", "models": ["m"]{more}}}"#);
    let priced = |price: u32| format!(r#", "prices": {{"m": {{"input": {price}, "output": {price}}}}}"#);
    let path = "/api/model-providers/p";
    assert_eq!(gateway.call("PUT", path, provider(&priced(9))).await.status, 201);
    for change in [priced(0), String::new()] {
        let answer = gateway.call_as(&key, "PUT", path, provider(&change)).await;
        assert_eq!(
            answer.error(),
            "403 permission_denied the API key \"ci\" does not have the scope \"admin\", which changing the prices of a model provider needs"
        );
    }
    assert_eq!(gateway.call_as(&key, "PUT", path, provider(&priced(9))).await.status, 200, "they stay as they are");
    assert_eq!(gateway.call("PUT", path, provider("")).await.status, 200);
}
