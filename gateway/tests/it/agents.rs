//! `/api/agents`.

use crate::{fakes::name, test_gateway::TestGateway};
use hoistway_model::Digest;
use serde_json::json;

#[tokio::test]
async fn agents_are_listed_and_shown() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.get("/api/agents").await.text, "[]");
    gateway.agents.add("a");
    let mut agent = gateway.get("/api/v1/agents").await.json()[0].take();
    assert!(agent["status"]["revision"].take().is_string());
    assert_eq!(
        agent,
        json!({
            "name": "a",
            "namespace": "agent-system",
            "labels": {},
            "spec": {
                "image": "127.0.0.1:5005/a:a1b2c3",
                "buildId": "build-a1b2c3",
                "systemPrompt": "Be brief.",
                "requiredTools": [{"name": "echo-tool"}],
                "llmConfig": [{"role": "chat", "provider": "openai", "model": "gpt-4o"}],
                "env": [{"name": "LLM_MODEL", "value": "gpt-4o"}, {"name": "MY_SECRET", "value": "********"}],
                "identityProvider": null,
                "framework": null, "description": "",
            },
            "status": {
                "phase": "Running",
                "message": "",
                "revision": null,
                "revisionNumber": 1,
                "idle": false, "imageDigest": Digest::of(b"manifest"),
                "isolation": "not sandboxed",
                "network": "open",
                "limits": "none",
            },
            "created_at": "1970-01-01T00:00:00.000Z",
            "updated_at": "1970-01-01T00:00:00.000Z",
        })
    );
    assert_eq!(gateway.get("/api/agents/a").await.json()["name"], "a");
    let logs = gateway.get("/api/agents/a/logs?tail=5").await;
    assert_eq!((logs.text.as_str(), logs.header("content-type")), ("tail Some(5)\n", "text/plain; charset=utf-8"));
    assert_eq!(
        gateway.get("/api/agents/a/logs?tail=x").await.error(),
        "400 invalid_argument tail: \"x\" is not a whole number from 0 to 100000"
    );
    assert_eq!(gateway.get("/api/agents/b/logs").await.status, 404);
}

#[tokio::test]
async fn deleting_an_agent_releases_its_tools() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    *gateway.tools.release_failures.lock().unwrap() = 1;
    let answer = gateway.call("DELETE", "/api/agents/a", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"deleted"}"#));
    assert_eq!(*gateway.tools.released.lock().unwrap(), [name("a")]);
    // A repeated deletion completes an interrupted one.
    assert_eq!(gateway.call("DELETE", "/api/agents/a", "").await.status, 404);
    assert_eq!(*gateway.tools.released.lock().unwrap(), [name("a"), name("a")]);
}
