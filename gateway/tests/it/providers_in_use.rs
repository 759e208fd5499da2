//! Model providers and identity providers that agents use.

use crate::{fakes::name, test_gateway::TestGateway};
use serde_json::{Value, json};

async fn put(gateway: &TestGateway, path: &str, body: Value) -> crate::test_gateway::Answer {
    gateway.call("PUT", path, body.to_string()).await
}

#[tokio::test]
async fn a_provider_in_use_is_not_deleted() {
    let gateway = TestGateway::start().await;
    let mine = json!({"provider": "ollama", "endpoint": "http://10.0.0.1:11434"});
    assert_eq!(put(&gateway, "/api/model-providers/mine", mine.clone()).await.status, 201);
    assert_eq!(put(&gateway, "/api/model-providers/mine", mine).await.status, 200);
    assert_eq!(
        gateway.get("/api/model-providers/mine").await.json()["status"]["phase"],
        "Ready",
        "ollama needs no key"
    );
    assert_eq!(put(&gateway, "/api/model-providers/Bad", json!({"provider": "ollama"})).await.status, 400);

    let sso = json!({"name": "sso", "spec": {"host": "a.example", "userIDClaim": "sub",
        "identityProvider": {"issuer": "https://id.example", "jwksUri": "https://id.example/keys", "audiences": ["agents"]}}});
    let answer = gateway.post("/api/v1/identity-providers", sso.clone()).await;
    let mut shape = answer.json();
    assert_eq!((answer.status, shape["status"]["phase"].as_str()), (201, Some("Pending")));
    assert_eq!(gateway.post("/api/identity-providers", sso).await.status, 200);
    assert_eq!(gateway.get("/api/identity-providers").await.json(), json!([shape]));
    shape["spec"]["allowedDomains"] = json!(["example.com"]);
    let answer = put(&gateway, "/api/identity-providers/sso", shape.clone()).await;
    assert_eq!((answer.status, answer.json()), (200, shape.clone()));
    assert_eq!(put(&gateway, "/api/identity-providers/other", shape).await.status, 400, "it names itself otherwise");

    gateway.agents.add("a");
    {
        let mut agents = gateway.agents.agents.lock().unwrap();
        let spec = &mut agents.get_mut(&name("a")).unwrap().spec;
        spec.config.identity_provider = Some(name("sso"));
        spec.config.llm[0].provider = "mine".into();
    }
    for (path, kind) in [
        ("/api/model-providers/mine", "model provider \"mine\""),
        ("/api/identity-providers/sso", "identity provider \"sso\""),
    ] {
        let refused = gateway.call("DELETE", path, "").await.error();
        assert_eq!(refused, format!("409 conflict {kind} is used by the agent \"a\""));
        gateway.agents.agents.lock().unwrap().clear();
        assert_eq!(gateway.call("DELETE", path, "").await.text, r#"{"status":"deleted"}"#);
        gateway.agents.add("a");
        gateway.agents.agents.lock().unwrap().get_mut(&name("a")).unwrap().spec.config.identity_provider =
            Some(name("sso"));
    }
}
