//! `GET /api/events`.

use crate::{fakes::name, streams::chunk, test_gateway::TestGateway};
use hoistway_gateway::events::{KEPT_EVENTS, ToolChange};
use hoistway_model::agent::{AgentChange, AgentEvent, EventPosition, Phase};
use hyper::body::Incoming;
use serde_json::{Value, json};

struct Seen {
    id: String,
    kind: String,
    data: Value,
}

async fn event(body: &mut Incoming) -> Seen {
    let text = chunk(body).await.unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let seen =
        Seen { id: field("id: "), kind: field("event: "), data: serde_json::from_str(&field("data: ")).unwrap() };
    assert_eq!((seen.data["id"].as_str(), seen.data["type"].as_str()), (Some(&*seen.id), Some(&*seen.kind)));
    seen
}

fn happens(gateway: &TestGateway, agent: &str, change: AgentChange) {
    let place = EventPosition { epoch: 1, sequence: 1 };
    gateway
        .agents
        .events
        .send(AgentEvent { place, time_ms: 1_500, agent: name(agent), revision: None, change })
        .unwrap();
}

#[tokio::test]
async fn events_are_followed_filtered_and_resumed() {
    let gateway = TestGateway::start().await;
    while gateway.agents.events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    let mut all = gateway.stream("/api/events", &[]).await;
    let first = chunk(&mut all).await.unwrap();
    assert!(first.starts_with("retry: 2000\nid: ") && first.ends_with("-0\n\n"), "{first}");
    let mut of_b = gateway.stream("/api/v1/events?agent=b&types=tool,agent.phase", &[]).await;
    chunk(&mut of_b).await.unwrap();

    happens(&gateway, "a", AgentChange::Phase(Phase::Running, String::new()));
    let one = event(&mut all).await;
    assert_eq!(
        (one.kind.as_str(), &one.data["agent"], &one.data["data"]["phase"]),
        ("agent.phase", &json!("a"), &json!("Running"))
    );
    assert_eq!(one.data["time"], "1970-01-01T00:00:01.500Z");
    happens(&gateway, "b", AgentChange::Crashed { reason: "exit status 7".into(), restarts: 2 });
    let two = event(&mut all).await;
    assert_eq!((two.kind.as_str(), &two.data["data"]["reason"]), ("agent.crashed", &json!("exit status 7")));
    happens(&gateway, "b", AgentChange::Phase(Phase::Failed, "down".into()));
    assert_eq!(event(&mut of_b).await.data["data"]["message"], "down");
    gateway.state.events.tool_changed(ToolChange::Created, &name("stripe"));
    assert_eq!(event(&mut all).await.kind, "agent.phase");
    assert_eq!(event(&mut all).await.data["data"]["tool"], "stripe");

    for (path, header) in
        [("/api/events".to_owned(), Some(&one.id)), (format!("/api/events?last_event_id={}", one.id), None)]
    {
        let headers: Vec<(&str, &str)> = header.iter().map(|id| ("last-event-id", id.as_str())).collect();
        let mut back = gateway.stream(&path, &headers).await;
        chunk(&mut back).await.unwrap();
        assert_eq!(event(&mut back).await.id, two.id);
    }
    // An id of another process, or one that is too old: all kept events, after one that reports a possible gap.
    let mut old = gateway.stream("/api/events?types=tool", &[("last-event-id", "17-3")]).await;
    chunk(&mut old).await.unwrap();
    assert_eq!(event(&mut old).await.kind, "reset");
    assert_eq!(event(&mut old).await.kind, "tool.created");
    for _ in 0..KEPT_EVENTS {
        gateway.state.events.tool_changed(ToolChange::Updated, &name("stripe"));
    }
    let mut late = gateway.stream("/api/events", &[("last-event-id", &one.id)]).await;
    chunk(&mut late).await.unwrap();
    assert_eq!(event(&mut late).await.kind, "reset");
    assert_eq!(event(&mut late).await.kind, "tool.updated");

    for (query, why) in [
        ("?last_event_id=x", "last_event_id: \"x\" is not an event's id"),
        ("?types=x", "types: \"x\" does not begin with one of deployment, build, agent, tool, budget, call"),
    ] {
        let answer = gateway.get(&format!("/api/events{query}")).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {why}"));
    }
}

#[tokio::test]
async fn the_number_of_followers_is_limited() {
    let gateway = TestGateway::start().await;
    let mut bodies = Vec::new();
    for _ in 0..32 {
        bodies.push(gateway.stream("/api/events", &[]).await);
    }
    let refused = gateway.get("/api/events").await;
    assert_eq!(refused.error(), "429 resource_exhausted 32 logs and events are followed with this key already");
    let events = gateway.state.events.clone();
    let other = |n: usize| events.follower(&format!("key {}", n % 4).into());
    let others: Vec<_> = (0..96).map(|n| other(n).unwrap()).collect();
    let full = "128 logs and events are followed already";
    assert_eq!(events.follower(&"another".into()).unwrap_err().message, full);
    drop((bodies, others));
    while events.follower(&"installation".into()).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_silent_stream_of_events_is_kept_alive_by_comments() {
    let gateway = TestGateway::start().await;
    let mut events = gateway.stream("/api/events", &[]).await;
    assert!(chunk(&mut events).await.unwrap().starts_with("retry: "));
    // After a quarter of a minute.
    assert_eq!(chunk(&mut events).await.unwrap(), ": still here\n\n");
}
