//! Logs, events and measurements.

use crate::{fakes::name, harness::Gateway};
use hoistway_gateway::events::{KEPT_EVENTS, ToolChange};
use hoistway_model::{
    RevisionId,
    agent::{AgentChange, AgentEvent, Phase, Place},
    log::{LogLine, LogPiece, LogQuery, LogStream},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

fn line(stream: LogStream, text: &str) -> LogLine {
    LogLine { time_ms: 1_500, stream, revision: None, text: text.into() }
}

pub async fn chunk(body: &mut Incoming) -> Option<String> {
    let data = body.frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

impl Gateway {
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Incoming {
        let key = format!("Bearer {}", self.key);
        let response = self.open("GET", path, "", &[&[("authorization", key.as_str())], headers].concat()).await;
        assert_eq!(response.status(), 200, "{path}");
        response.into_body()
    }

    fn log(&self) -> mpsc::Sender<LogPiece> {
        let (sender, receiver) = mpsc::channel(8);
        *self.agents.log.lock().unwrap() = Some(receiver);
        sender
    }
}

#[tokio::test]
async fn logs_are_asked_for_as_they_are_wanted() {
    let gateway = Gateway::start().await;
    gateway.agents.add("a");
    let asked = async |query: &str| {
        let answer = gateway.get(&format!("/api/agents/a/logs{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        gateway.agents.log_query.lock().unwrap().take().unwrap()
    };
    assert_eq!(asked("").await, LogQuery::default());
    let revision = RevisionId::mint();
    let query = format!("?tail=5&since=1970-01-01T00:00:02Z&stream=STDERR&revision={revision}&follow=false");
    let stream = Some(LogStream::Stderr);
    let expected = LogQuery { since_ms: Some(2_000), stream, revision: Some(revision), ..LogQuery::last(5) };
    assert_eq!(asked(&query).await, expected);
    let now = hoistway_kit::time::now_ms();
    let since = asked("?since=10m&follow").await;
    assert!(since.follow && (now - 600_000..now - 500_000).contains(&since.since_ms.unwrap()), "{since:?}");

    for (query, why) in [
        (
            "?since=yesterday",
            "since: \"yesterday\" is neither a time such as 2026-11-23T15:04:05Z nor a span such as 10m",
        ),
        ("?stream=stdin", "stream: \"stdin\" is not one of stdout, stderr, platform"),
        ("?revision=1", "revision: \"1\" is not an id"),
        ("?format=xml", "format: \"xml\" is not one of text, json, ndjson"),
        ("?tail=-1", "tail: \"-1\" is not a whole number from 0 to 100000"),
    ] {
        let answer = gateway.get(&format!("/api/agents/a/logs{query}")).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {why}"));
    }
    assert_eq!(gateway.get("/api/agents/b/logs?follow=true").await.status, 404);
    assert_eq!(gateway.get("/api/builds/build-1/logs?tail=2").await.text, "two\nthree\n");
}

#[tokio::test]
async fn lines_come_as_text_or_as_json() {
    let gateway = Gateway::start().await;
    gateway.agents.add("a");
    let pieces = async |query: &str, headers: &[(&str, &str)]| {
        let log = gateway.log();
        let lines = vec![line(LogStream::Stdout, "one"), line(LogStream::Stderr, "two \"2\"")];
        log.send(LogPiece::Lines(lines)).await.unwrap();
        log.send(LogPiece::Skipped(7)).await.unwrap();
        drop(log);
        let body = gateway.stream(&format!("/api/agents/a/logs{query}"), headers).await;
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    let gap = "… 7 lines skipped: they came faster than they were read …\n";
    assert_eq!(pieces("", &[]).await, format!("one\ntwo \"2\"\n{gap}"));
    let time = "1970-01-01T00:00:01.500Z";
    assert_eq!(pieces("?timestamps", &[]).await, format!("{time} one\n{time} two \"2\"\n{gap}"));
    let expected = [
        json!({"time": time, "stream": "stdout", "text": "one"}),
        json!({"time": time, "stream": "stderr", "text": "two \"2\""}),
        json!({"skipped": 7}),
    ];
    for text in [pieces("?format=json", &[]).await, pieces("", &[("accept", "application/x-ndjson")]).await] {
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn whoever_follows_gets_lines_at_once_and_an_end_at_shutdown() {
    let gateway = Gateway::start().await;
    gateway.agents.add("a");
    let log = gateway.log();
    let mut body = gateway.stream("/api/agents/a/logs?follow=true", &[]).await;
    for text in ["one", "two"] {
        log.send(LogPiece::Lines(vec![line(LogStream::Stdout, text)])).await.unwrap();
        assert_eq!(chunk(&mut body).await.unwrap(), format!("{text}\n"));
    }
    let mut events = gateway.stream("/api/events", &[]).await;
    chunk(&mut events).await.unwrap();
    gateway.stop();
    assert_eq!((chunk(&mut body).await, chunk(&mut events).await), (None, None));
    log.closed().await;
}

#[tokio::test]
async fn followers_are_bounded_and_give_up_their_place() {
    let gateway = Gateway::start().await;
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

fn happens(gateway: &Gateway, agent: &str, change: AgentChange) {
    let place = Place { epoch: 1, sequence: 1 };
    gateway
        .agents
        .events
        .send(AgentEvent { place, time_ms: 1_500, agent: name(agent), revision: None, change })
        .unwrap();
}

#[tokio::test]
async fn events_are_followed_filtered_and_resumed() {
    let gateway = Gateway::start().await;
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
    // Of another process, or too old: everything that is kept, after a word that it may not be all.
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
async fn measurements_need_a_key_and_have_bounded_labels() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.call_with("GET", "/metrics", "", &[]).await.status, 401);
    for path in ["/api/agents", "/api/v1/agents", "/api/nothing", "/api/agents/none/logs", "/what"] {
        gateway.get(path).await;
    }
    gateway.call("BREW", "/api/agents", "").await;
    gateway.post("/api/agents/none/invoke", json!({"message": "x"})).await;
    let answer = gateway.get("/metrics").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text;
    for line in [
        "# TYPE hoistway_http_requests_total counter",
        "hoistway_http_requests_total{method=\"GET\",route=\"/api/agents\",status=\"200\"} 2",
        "hoistway_http_requests_total{method=\"GET\",route=\"unknown path\",status=\"404\"} 2",
        "hoistway_http_requests_total{method=\"other\",route=\"/api/agents\",status=\"405\"} 1",
        "hoistway_http_requests_total{method=\"GET\",route=\"/api/agents/{name}/logs\",status=\"404\"} 1",
        "hoistway_up{service=\"agent\"} 1",
        "hoistway_up{service=\"build\"} 0",
        "hoistway_up{service=\"egress\"} 1",
        "hoistway_egress_dropped_records_total 0",
        "hoistway_up{service=\"tool-registry\"} 1",
        "hoistway_agent_up{agent=\"a\"} 1",
        "hoistway_deployments{state=\"running\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("hoistway_invokes_total{"), "what does not exist is no label");
    // The fake agent service is in this process, whose memory is counted once.
    assert_eq!(text.matches("process_resident_memory_bytes{").count(), 1);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && name.starts_with(['h', 'p']), "{line}");
    }
}

#[tokio::test]
async fn lists_have_pages() {
    let gateway = Gateway::start().await;
    let first = gateway.get("/api/builds?limit=1&agent=a").await;
    let builds = first.json();
    assert_eq!((builds.as_array().unwrap().len(), &builds[0]["id"]), (1, &json!("build-a1b2c3d4e5f6")));
    assert_eq!((&builds[0]["duration_ms"], &builds[0]["request_id"]), (&json!(1_000), &json!("req-1")));
    assert_eq!(builds[0]["steps"][0]["duration_ms"], 700);
    let link = first.header("link");
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    assert!(next.starts_with("/api/builds?limit=1&agent=a&before="), "{link}");
    let second = gateway.get(next).await;
    assert_eq!((&second.json()[0]["id"], second.header("link")), (&json!("build-0"), ""));

    let id = gateway.deployer.id;
    let deployment = gateway.get(&format!("/api/deployments/{id}")).await.json();
    assert_eq!((&deployment["steps"][0]["duration_ms"], &deployment["duration_ms"]), (&json!(600), &json!(1_000)));
    assert_eq!((&deployment["warnings"], &deployment["request_id"]), (&json!(["careful"]), &json!("req-1")));
    for (query, count) in
        [("?status=succeeded", 1), ("?status=FAILED", 0), (&*format!("?before={id}"), 0), ("?agent=b", 0)]
    {
        assert_eq!(gateway.get(&format!("/api/deployments{query}")).await.json().as_array().unwrap().len(), count);
    }
    let answer = gateway.get("/api/deployments?status=odd").await;
    let all = "PENDING, RUNNING, UNDOING, SUCCEEDED, FAILED";
    assert_eq!(answer.error(), format!("400 invalid_argument status: \"odd\" is not one of {all}"));
}
