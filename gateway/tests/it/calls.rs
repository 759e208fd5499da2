//! Records of agents' outbound calls.

use crate::{fake_egress::call, fakes::name, harness::Gateway, seeing::chunk};
use hoistway_gateway::events::{KEPT_EVENTS, ToolChange};
use hoistway_model::egress::{Call, CallUpdate, Check, CheckKind, CheckStep};
use hyper::body::Incoming;
use serde_json::{Value, json};

fn ids(calls: &Value) -> Vec<&str> {
    calls.as_array().unwrap().iter().map(|call| call["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn calls_of_an_agent_are_listed_narrowed_and_paged() {
    let gateway = Gateway::start().await;
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
async fn wrong_parameters_and_unknown_agents_are_named() {
    let gateway = Gateway::start().await;
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

/// The lines of an event, and its data.
async fn event(body: &mut Incoming) -> (String, Value) {
    let text = chunk(body).await.unwrap();
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_else(|| panic!("{text}"));
    let data = serde_json::from_str(data).unwrap();
    (text, data)
}

fn ended(call: Call) -> CallUpdate {
    CallUpdate::Call(Box::new(call))
}

#[tokio::test]
async fn a_call_that_ended_is_an_event_that_pushes_out_no_others() {
    let gateway = Gateway::start().await;
    let mut all = gateway.stream("/api/events", &[]).await;
    chunk(&mut all).await.unwrap();
    let mut of_a = gateway.stream("/api/events?agent=a&types=call", &[]).await;
    chunk(&mut of_a).await.unwrap();
    let mut tools = gateway.stream("/api/events?types=tool", &[]).await;
    chunk(&mut tools).await.unwrap();

    gateway.state.events.tool_changed(ToolChange::Created, &name("stripe"));
    let (_, created) = event(&mut all).await;
    gateway.egress.update(1, ended(call(1, "b", "x"))).await;
    gateway.egress.update(1, ended(call(2, "a", "x"))).await;
    let (text, of_b) = event(&mut all).await;
    assert!(text.starts_with("event: call.ended\ndata: "), "a call has no id: {text}");
    assert_eq!((&of_b["id"], &of_b["type"], &of_b["agent"]), (&created["id"], &json!("call.ended"), &json!("b")));
    assert_eq!(of_b["time"], "1970-01-01T00:00:01.530Z");
    let (_, first) = event(&mut of_a).await;
    gateway.agents.add("a");
    gateway.egress.calls.lock().unwrap().push(call(2, "a", "x"));
    let mut listed = gateway.get("/api/agents/a/calls").await.json()[0].clone();
    listed["revision"] = first["data"]["revision"].clone();
    assert_eq!(first["data"], listed, "an event has what the list has");

    for id in 3..KEPT_EVENTS as u64 + 10 {
        gateway.egress.update(1, ended(call(id, "b", "x"))).await;
    }
    gateway.egress.update(1, ended(call(9_999_999, "a", "last"))).await;
    while !event(&mut of_a).await.1["data"]["tool"].eq("last") {}
    gateway.state.events.tool_changed(ToolChange::Updated, &name("stripe"));
    assert_eq!(event(&mut tools).await.1["type"], "tool.created");
    assert_eq!(event(&mut tools).await.1["type"], "tool.updated");
    let mut back = gateway.stream("/api/events", &[("last-event-id", created["id"].as_str().unwrap())]).await;
    chunk(&mut back).await.unwrap();
    assert_eq!(event(&mut back).await.1["type"], "tool.updated", "nothing was pushed out, and no call is repeated");
}

#[tokio::test]
async fn calls_are_followed_on_after_egress_was_away() {
    let gateway = Gateway::start().await;
    let mut calls = gateway.stream("/api/events?types=call.ended", &[]).await;
    chunk(&mut calls).await.unwrap();
    gateway.egress.update(1, ended(call(7, "a", "x"))).await;
    assert_eq!(event(&mut calls).await.1["data"]["id"], "7");
    gateway.egress.hang_up();
    gateway.egress.update(2, CallUpdate::Missed(3)).await;
    assert_eq!(event(&mut calls).await.1["type"], "call.missed");
    gateway.egress.hang_up();
    gateway.egress.update(3, ended(call(11, "a", "x"))).await;
    assert_eq!(event(&mut calls).await.1["data"]["id"], "11");
    assert_eq!(*gateway.egress.watched.lock().unwrap(), [None, Some(7), Some(10)]);
}

#[tokio::test]
async fn a_check_needs_the_scope_admin_and_tells_what_was_found() {
    let gateway = Gateway::start().await;
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
