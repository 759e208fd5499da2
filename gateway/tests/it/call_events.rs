//! Events of agents' outbound calls on `GET /api/events`.

use crate::{fake_egress::call, fakes::name, streams::chunk, test_gateway::TestGateway};
use hoistway_gateway::events::{KEPT_EVENTS, ToolChange};
use hoistway_model::egress::{Call, CallUpdate};
use hyper::body::Incoming;
use serde_json::{Value, json};

/// Returns the lines of an event, and its data.
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
async fn an_ended_call_is_an_event_that_displaces_no_others() {
    let gateway = TestGateway::start().await;
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
async fn calls_are_followed_again_after_egress_returns() {
    let gateway = TestGateway::start().await;
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
