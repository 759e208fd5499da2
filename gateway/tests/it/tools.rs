//! `/api/tools`.

use crate::{fakes::name, test_gateway::TestGateway};
use hoistway_model::tool::BoundTool;
use serde_json::{Value, json};

#[tokio::test]
async fn tools_are_created_listed_and_deleted() {
    let gateway = TestGateway::start().await;
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
async fn a_new_tool_is_bound_to_agents_that_require_it() {
    let gateway = TestGateway::start().await;
    let mut bound = gateway.agents.bound.subscribe();
    gateway.post("/api/tools", json!({"name": "t", "base_url": "http://a.example"})).await;
    let seen = bound.wait_for(|bound| !bound.is_empty()).await.unwrap().clone();
    assert_eq!((seen[0].name.as_str(), seen[0].url.as_deref()), ("t", Some("http://a.example")));
}

async fn put(gateway: &TestGateway, path: &str, body: Value) -> crate::test_gateway::Answer {
    gateway.call("PUT", path, body.to_string()).await
}

#[tokio::test]
async fn a_tool_is_replaced_by_put_and_merged_by_patch() {
    let gateway = TestGateway::start().await;
    let body = json!({"name": "t", "base_url": "https://a.example", "description": "d", "auth_type": "APIKey", "labels": {"a": "b"}});
    assert_eq!(gateway.post("/api/tools", body).await.status, 201);
    // The tool changes concurrently: the update is applied again to its new state.
    *gateway.tools.meanwhile.lock().unwrap() = 2;
    let patched = gateway.call("PATCH", "/api/tools/t", r#"{"description": "new"}"#).await;
    let shape = patched.json();
    assert_eq!((patched.status, &shape["spec"]["description"]), (200, &json!("new")));
    assert_eq!(
        (&shape["labels"], &shape["spec"]["connection"]["authentication"]),
        (&json!({"a": "b"}), &json!({"type": "APIKey"}))
    );
    // An answer can be sent back.
    let same = put(&gateway, "/api/v1/tools/t", shape.clone()).await;
    assert_eq!((same.status, same.json()), (200, shape));
    let replaced = put(&gateway, "/api/tools/t", json!({"base_url": "https://b.example"})).await.json();
    assert_eq!((&replaced["labels"], &replaced["spec"]["description"]), (&json!({}), &json!("")));
    assert_eq!(replaced["spec"]["connection"]["authentication"], json!({"type": "None"}));

    assert_eq!(
        put(&gateway, "/api/tools/no", json!({"base_url": "https://b.example"})).await.error(),
        "404 not_found tool \"no\" not found"
    );
    assert_eq!(
        put(&gateway, "/api/tools/t", json!({})).await.error(),
        "400 invalid_argument tool name and base_url are required [\"base_url is missing\"]"
    );
    *gateway.tools.meanwhile.lock().unwrap() = 100;
    assert_eq!(put(&gateway, "/api/tools/t", json!({"base_url": "https://b.example"})).await.status, 409);
}

#[tokio::test]
async fn a_moved_tool_is_bound_again() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    gateway.post("/api/tools", json!({"name": "echo-tool", "base_url": "http://old.example"})).await;
    let mut bound = gateway.agents.bound.subscribe();
    bound.wait_for(|bound| bound.len() == 1).await.unwrap();
    let at = |url: &str| BoundTool { name: name("echo-tool"), url: Some(url.into()) };
    gateway.agents.agents.lock().unwrap().get_mut(&name("a")).unwrap().spec.tools = vec![at("http://older.example")];
    put(&gateway, "/api/tools/echo-tool", json!({"base_url": "http://new.example"})).await;
    let seen = bound.wait_for(|bound| bound.len() == 3).await.unwrap().clone();
    assert_eq!(seen[1..], [at("http://new.example"), at("http://new.example")]);
    let replaced = gateway.agents.replaced.lock().unwrap()[1..].to_vec();
    assert_eq!(replaced, [Some("http://old.example".to_owned()), Some("http://older.example".to_owned())]);
    // A new description changes no agent's binding.
    gateway.call("PATCH", "/api/tools/echo-tool", r#"{"description": "x"}"#).await;
    assert_eq!(gateway.agents.bound.borrow().len(), 3);
}
