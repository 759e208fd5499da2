//! The shapes of everything that can be listed.

use crate::{fakes::name, harness::Gateway};
use hoistway_model::Digest;
use serde_json::{Value, json};

#[tokio::test]
async fn agents() {
    let gateway = Gateway::start().await;
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
                "imageDigest": Digest::of(b"manifest"),
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
async fn the_installation() {
    let gateway = Gateway::start().await;
    let runtime = json!({"name": "process", "isolation": "not sandboxed", "network": "open", "limits": "none",
        "python": "3.11", "details": ["no namespaces for agents: it is a fake"]});
    assert_eq!(
        gateway.get("/api/status").await.json(),
        json!({
            "version": env!("CARGO_PKG_VERSION"), "namespace": "agent-system", "runtime": runtime,
            "egress": {"reachable": true, "complete": true, "connected": true, "tools": 2, "revisions": 1},
        })
    );
    gateway.egress.status.lock().unwrap().as_mut().unwrap().identities.connected = false;
    assert_eq!(gateway.get("/api/status").await.json()["egress"]["connected"], false);
    // An egress that does not answer is a state of the installation, not a failure of the answer.
    *gateway.egress.status.lock().unwrap() = None;
    assert_eq!(
        gateway.get("/api/status").await.json()["egress"],
        json!({"reachable": false, "complete": false, "connected": false, "tools": 0, "revisions": 0})
    );
}

#[tokio::test]
async fn deleting_an_agent_releases_its_tools() {
    let gateway = Gateway::start().await;
    gateway.agents.add("a");
    *gateway.tools.release_failures.lock().unwrap() = 1;
    let answer = gateway.call("DELETE", "/api/agents/a", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"deleted"}"#));
    assert_eq!(*gateway.tools.released.lock().unwrap(), [name("a")]);
    // A deletion that was cut off in the middle is finished by the next one.
    assert_eq!(gateway.call("DELETE", "/api/agents/a", "").await.status, 404);
    assert_eq!(*gateway.tools.released.lock().unwrap(), [name("a"), name("a")]);
}

#[tokio::test]
async fn tools() {
    let gateway = Gateway::start().await;
    let flat = json!({"name": "t", "base_url": "http://a.example:9000", "description": "d", "auth_type": "None", "port": 443, "scheme": "HTTPS"});
    let answer = gateway.post("/api/tools", flat.clone()).await;
    assert_eq!(answer.status, 201);
    let shape = json!({
        "name": "t",
        "namespace": "agent-system",
        "labels": {},
        "spec": {"description": "d", "topology": "External", "accessMode": "Open", "connection": {"baseUrl": "http://a.example:9000", "port": 9000, "scheme": "HTTP", "authentication": {"type": "None"}}},
        "status": {"phase": "Ready", "message": "", "credentials": {"stored": false}},
        "created_at": "1970-01-01T00:00:00.000Z",
        "updated_at": "1970-01-01T00:00:00.000Z",
    });
    assert_eq!(answer.json(), shape);
    assert_eq!(gateway.post("/api/tools", flat).await.status, 200);
    let other = json!({"name": "t", "base_url": "http://b.example"});
    assert_eq!(
        gateway.post("/api/tools", other).await.error(),
        "409 conflict tool \"t\" is registered with another endpoint"
    );
    assert_eq!(gateway.get("/api/tools").await.json(), json!([shape]));
    assert_eq!(
        gateway.post("/api/tools", json!({"name": "t"})).await.error(),
        "400 invalid_argument tool name and base_url are required [\"base_url is missing\"]"
    );

    let key = json!({"name": "k", "spec": {"connection": {"baseUrl": "https://a.example", "topology": "Internal", "authentication": {"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}}}}});
    let keyless = gateway.post("/api/tools", key.clone()).await.json();
    let none = json!({"stored": false});
    let pending = json!({"phase": "Pending", "message": "no credential is stored for APIKey", "credentials": none});
    assert_eq!(keyless["status"], pending);
    assert_eq!(keyless["warnings"], json!(["unknown field \"spec.connection.topology\" is ignored"]));
    let mut with_key = key;
    with_key["credentials"] = json!({"api_key": "s3cr3t"});
    let answer = gateway.post("/api/tools", with_key).await;
    assert!(answer.status == 200 && !answer.text.contains("s3cr3t"), "{}", answer.text);
    assert_eq!(answer.json()["status"]["phase"], "Ready");
    assert_eq!(
        answer.json()["spec"]["connection"]["authentication"]["apiKeyConfig"],
        json!({"in": "Header", "name": "X-Key", "valuePrefix": ""})
    );

    let answer = gateway.call("DELETE", "/api/tools/t", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"deleted"}"#));
    assert_eq!(gateway.get("/api/tools/t").await.error(), "404 not_found tool \"t\" not found");
}

#[tokio::test]
async fn a_new_tool_reaches_the_agents_that_waited_for_it() {
    let gateway = Gateway::start().await;
    let mut bound = gateway.agents.bound.subscribe();
    gateway.post("/api/tools", json!({"name": "t", "base_url": "http://a.example"})).await;
    let seen = bound.wait_for(|bound| !bound.is_empty()).await.unwrap().clone();
    assert_eq!((seen[0].name.as_str(), seen[0].url.as_deref()), ("t", Some("http://a.example")));
}

#[tokio::test]
async fn the_starter_kit_needs_no_body() {
    let gateway = Gateway::start().await;
    for _ in 0..2 {
        let answer = gateway.call("POST", "/api/starter-kit", "").await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"status": "ok", "message": "Starter kit resources created"}))
        );
    }
    let mut bound = gateway.agents.bound.subscribe();
    let seen = bound.wait_for(|bound| bound.len() == 2).await.unwrap().clone();
    assert_eq!(seen[0].name.as_str(), "echo-tool");
}

#[tokio::test]
async fn model_providers() {
    let gateway = Gateway::start().await;
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
    let gateway = Gateway::start().await;
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
async fn a_put_of_a_model_provider_tells_what_it_drops() {
    let gateway = Gateway::start().await;
    let path = "/api/model-providers/mine";
    let whole =
        json!({"provider": "openai", "prices": {"m": {"input": 1, "output": 2}}, "timeout_seconds": 60, "retries": 2});
    let bare = json!({"provider": "openai"});
    let put = async |body: &Value| gateway.call("PUT", path, body.to_string()).await.json();
    for body in [&bare, &whole] {
        assert_eq!(put(body).await["warnings"], Value::Null, "nothing is lost");
    }
    let answer = put(&json!({"spec": bare})).await;
    let warnings: Vec<&str> =
        answer["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, member) in warnings.iter().zip(["prices", "timeout_seconds", "retries"]) {
        assert!(warning.starts_with(&format!("{member} is dropped, because PUT replaces")), "{warning}");
    }
    put(&whole).await;
    let meant = put(&json!({"provider": "openai", "prices": {}, "timeout_seconds": 60, "retries": 0})).await;
    assert_eq!((&meant["warnings"], &meant["spec"]["prices"]), (&Value::Null, &json!({})), "it was asked for");
}

#[tokio::test]
async fn builds_and_deployments() {
    let gateway = Gateway::start().await;
    let steps = json!([{"step": "image", "started_at": "1970-01-01T00:00:01.200Z", "completed_at": "1970-01-01T00:00:01.900Z", "duration_ms": 700}]);
    let mut builds = json!([
        {"id": "build-a1b2c3d4e5f6", "agent": "a", "status": "SUCCEEDED", "image": "127.0.0.1:5005/a:a1b2c3d4e5f6", "error": null,
         "created_at": "1970-01-01T00:00:01.000Z", "completed_at": "1970-01-01T00:00:02.000Z"},
        {"id": "build-0", "agent": "a", "status": "FAILED", "image": null, "error": "no such package",
         "created_at": "1970-01-01T00:00:01.000Z", "completed_at": "1970-01-01T00:00:02.000Z"},
    ]);
    let shown = gateway.get("/api/builds").await.json();
    for (i, build) in builds.as_array_mut().unwrap().iter_mut().enumerate() {
        (build["steps"], build["duration_ms"], build["request_id"]) = (steps.clone(), json!(1_000), json!("req-1"));
        build["attempt"] = shown[i]["attempt"].clone();
    }
    assert_eq!(shown, builds);
    assert_eq!(gateway.get("/api/builds?limit=1").await.json().as_array().unwrap().len(), 1);
    assert_eq!(gateway.get("/api/builds/build-0").await.json(), builds[1]);
    assert_eq!(gateway.get("/api/builds/build-0/logs?tail=2").await.text, "two\nthree\n");

    let id = gateway.deployer.id.to_string();
    let deployment = gateway.get(&format!("/api/deployments/{id}")).await.json();
    assert_eq!(
        deployment,
        json!({
            "id": id, "agent": "a", "kind": "deploy", "status": "SUCCEEDED", "step": "switch", "tools_created": ["t"],
            "build_id": "build-a1b2c3d4e5f6", "image_uri": "127.0.0.1:5005/a:a1b2c3d4e5f6", "error": null,
            "created_at": "1970-01-01T00:00:00.000Z", "updated_at": "1970-01-01T00:00:01.000Z", "completed_at": "1970-01-01T00:00:01.000Z",
            "duration_ms": 1_000, "kind": "deploy", "revision": 1, "revision_id": null, "warnings": ["careful"], "request_id": "req-1",
            "steps": [{"step": "switch", "status": "SUCCEEDED", "started_at": "1970-01-01T00:00:00.400Z",
                "completed_at": "1970-01-01T00:00:01.000Z", "duration_ms": 600}],
        })
    );
    assert_eq!(gateway.get("/api/deployments").await.json(), json!([deployment]));
    assert_eq!(gateway.get("/api/deployments?agent=b").await.json(), json!([]));
}
