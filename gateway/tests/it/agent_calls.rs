//! `GET /api/agents/{name}/calls`.

use crate::{fake_egress::call, test_gateway::TestGateway};
use hoistway_model::egress::Call;
use serde_json::{Value, json};

fn ids(calls: &Value) -> Vec<&str> {
    calls.as_array().unwrap().iter().map(|call| call["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn calls_are_listed_filtered_and_paged() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    assert_eq!(gateway.get("/api/agents/a/calls").await.json(), json!([]));
    let refused = Call {
        target: None,
        origin: String::new(),
        status: None,
        refused: Some("timeout".into()),
        error: Some("the tool did not answer in time".into()),
        ..call(3, "a", "x")
    };
    let first = call(1, "a", "x");
    *gateway.egress.calls.lock().unwrap() = vec![first.clone(), call(2, "b", "x"), refused, call(4, "a", "y")];

    let all = gateway.get("/api/agents/a/calls").await;
    assert_eq!((ids(&all.json()), all.header("link")), (vec!["4", "3", "1"], ""));
    let expected = json!({
        "id": "1", "time": "1970-01-01T00:00:01.500Z", "agent": "a", "revision": first.revision, "tool": "x",
        "model_provider": null, "method": "POST", "scheme": "https", "host": "api.example:8443",
        "path": "/v1/charges", "status": 201, "latency_ms": 20, "duration_ms": 30, "bytes_sent": 7,
        "bytes_received": 9, "refused": null, "error": null, "broken": null,
    });
    assert_eq!(all.json()[2], expected);
    let unanswered = &all.json()[1];
    for member in ["tool", "scheme", "host", "status", "latency_ms"] {
        assert_eq!(unanswered[member], Value::Null, "{member}");
    }
    assert_eq!(
        (&unanswered["refused"], &unanswered["error"]),
        (&json!("timeout"), &json!("the tool did not answer in time"))
    );

    for (query, wanted) in [
        ("?tool=x", vec!["1"]),
        ("?refused=true", vec!["3"]),
        ("?refused=false&before=4", vec!["3", "1"]),
        ("?tool=nothing", vec![]),
    ] {
        assert_eq!(ids(&gateway.get(&format!("/api/agents/a/calls{query}")).await.json()), wanted, "{query}");
    }
    let page = gateway.get("/api/v1/agents/a/calls?limit=2").await;
    assert_eq!(page.header("link"), "</api/v1/agents/a/calls?limit=2&before=3>; rel=\"next\"");
    assert_eq!(ids(&gateway.get("/api/v1/agents/a/calls?limit=2&before=3").await.json()), ["1"]);
}

#[tokio::test]
async fn wrong_parameters_and_unknown_agents_are_refused() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    for (query, why) in [
        ("?refused=maybe", "refused: \"maybe\" is not true or false"),
        ("?before=-1", "before: \"-1\" is not an id"),
        ("?limit=1001", "limit: \"1001\" is not a whole number from 1 to 1000"),
    ] {
        let answer = gateway.get(&format!("/api/agents/a/calls{query}")).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {why}"));
    }
    let answer = gateway.get("/api/agents/a/calls?tool=No%20Tool").await.error();
    assert!(answer.starts_with("400 invalid_argument tool: "), "{answer}");
    let unknown = gateway.get("/api/agents/b/calls").await;
    assert_eq!(unknown.error(), "404 not_found agent \"b\" not found");

    // Records outlive their agent.
    gateway.egress.calls.lock().unwrap().push(call(1, "b", "x"));
    assert_eq!(ids(&gateway.get("/api/agents/b/calls").await.json()), ["1"]);
    assert_eq!(gateway.get("/api/agents/b/calls?refused=true").await.json(), json!([]));

    *gateway.egress.status.lock().unwrap() = None;
    assert_eq!(gateway.get("/api/agents/a/calls").await.status, 503);
    let (_, invoker) = gateway.make_key("invoker", &["invoke"]).await;
    assert_eq!(gateway.call_as(&invoker, "GET", "/api/agents/a/calls", "").await.status, 403);
}
