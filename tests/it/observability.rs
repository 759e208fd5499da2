//! Observability for users: logs, events, streamed answers, measurements.

use crate::{
    http::{self, Chunks},
    processes::Processes,
    test_installation::{Stack, says},
};
use serde_json::{Value, json};
use std::sync::Arc;

impl Stack {
    pub fn chunks(&self, method: &str, path: &str, body: Option<&Value>) -> Chunks {
        let key = format!("Bearer {}", self.key);
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        http::open(&self.at, method, path, &[("Authorization", &key)], body.as_bytes()).unwrap()
    }
}

/// Returns the next event of a stream: (type, data).
pub fn next_event(events: &mut Chunks) -> (String, Value) {
    loop {
        let text = events.text_until("\n\n");
        if let Some(data) = text.lines().find_map(|line| line.strip_prefix("data: ")) {
            let data: Value = serde_json::from_str(data).unwrap();
            return (data["type"].as_str().unwrap().to_owned(), data);
        }
    }
}

const PRINTER: &str = "import sys\nprint('loaded VERSION')\ndef handler(message):\n    print('got', message)\n    print('warn', message, file=sys.stderr)\n    return message\n";

#[test]
fn logs_are_followed_over_redeploys_until_the_agent_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = |version: &str| json!({"agent.py": PRINTER.replace("VERSION", version)});
    stack.deployed(json!({"agent_name": "talker", "source_files": source("one")}));
    stack.answer("talker", "a");
    let mut log = stack.chunks("GET", "/api/agents/talker/logs?follow=true&format=json&tail=1000", None);
    let mut line = || -> Value { serde_json::from_str(log.text_until("\n").trim_end()).unwrap() };
    // The two streams of a process are read concurrently: both lines are awaited, in either order.
    let mut until = |message: &str| -> Vec<Value> {
        let mut seen: Vec<Value> = Vec::new();
        while ["got", "warn"].iter().any(|word| seen.iter().all(|l| l["text"] != format!("{word} {message}"))) {
            seen.push(line());
        }
        seen
    };
    let find = |lines: &[Value], text: &str| lines.iter().find(|l| l["text"] == text).unwrap().clone();
    let first = until("a");
    let (loaded, warn) = (find(&first, "loaded one"), find(&first, "warn a"));
    assert_eq!((&loaded["stream"], &warn["stream"]), (&json!("stdout"), &json!("stderr")));
    stack.answer("talker", "b");
    until("b");
    stack.deployed(json!({"agent_name": "talker", "source_files": source("two")}));
    stack.answer("talker", "c");
    let second = until("c");
    let last = find(&second, "warn c");
    assert_ne!(last["revision"], warn["revision"]);
    assert_eq!(second.iter().filter(|l| l["text"] == "loaded two").count(), 1);

    // Stored lines, filtered in every way.
    let get = |query: &str| stack.call("GET", &format!("/api/agents/talker/logs{query}"), None).text();
    assert_eq!(get("?tail=1&stream=stdout"), "got c\n");
    let revision = warn["revision"].as_str().unwrap();
    let of_first = get(&format!("?revision={revision}&stream=stderr"));
    assert_eq!(of_first, "warn a\nwarn b\n");
    let since = last["time"].as_str().unwrap();
    let recent = get(&format!("?since={since}&timestamps=true"));
    assert!(recent.contains(&format!("{since} warn c\n")) && !recent.contains("warn b"), "{recent}");
    assert_eq!(stack.call("DELETE", "/api/agents/talker", None).status, 200);
    assert!(log.rest().is_ok(), "the log ends with its agent");
}

#[test]
fn events_report_deploy_steps_and_agent_phases() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let mut events = stack.chunks("GET", "/api/events", None);
    let key = format!("Bearer {}", stack.key);
    let source = "import os\ndef handler(message):\n    if message == 'die': os._exit(7)\n    return 'x'\n";
    let body = json!({"agent_name": "watched", "source_files": {"agent.py": source},
        "tools_to_create": [{"name": "stripe", "base_url": "https://api.stripe.com"}]});
    let headers = [("Authorization", key.as_str()), ("X-Request-ID", "the-request-of-this-test")];
    let deployed = http::send(&stack.at, "POST", "/api/deploy", &headers, body.to_string().as_bytes()).unwrap();
    assert_eq!((deployed.status, deployed.header("x-request-id")), (201, Some("the-request-of-this-test")));
    let id = deployed.header("hoistway-deployment").unwrap();

    let mut seen = Vec::new();
    let is_end = |(kind, data): &(String, Value)| kind == "agent.phase" && data["data"]["phase"] == "Running";
    // The agent's events come from another service, so their order relative to the deployment's is not fixed.
    while !(seen.iter().any(|(kind, _)| kind == "deployment.succeeded") && seen.iter().any(is_end)) {
        seen.push(next_event(&mut events));
    }
    let of_deployment = seen.iter().filter(|(kind, _)| kind.starts_with("deployment."));
    let told: Vec<String> = of_deployment
        .map(|(kind, data)| {
            assert_eq!((&data["data"]["deployment"], &data["agent"]), (&json!(id), &json!("watched")));
            format!("{} {}", &kind[11..], data["data"]["step"].as_str().unwrap_or_default()).trim().to_owned()
        })
        .collect();
    let mut expected = vec!["accepted".to_owned()];
    for step in ["plan", "tools", "build", "start", "switch", "bind"] {
        expected.extend([format!("step_started {step}"), format!("step_finished {step}")]);
    }
    expected.push("succeeded".to_owned());
    assert_eq!(told, expected);
    let find = |kind: &str| seen.iter().find(|(k, _)| k == kind).map(|(_, data)| data.clone());
    assert_eq!(find("tool.created").unwrap()["data"]["tool"], "stripe");

    // The records contain the same.
    let deployment = stack.get(&format!("/api/deployments/{id}"));
    assert_eq!(
        (&deployment["request_id"], &deployment["status"]),
        (&json!("the-request-of-this-test"), &json!("SUCCEEDED"))
    );
    assert!(
        deployment["steps"].as_array().unwrap().iter().all(|s| s["status"] == "SUCCEEDED" && s["duration_ms"].is_u64())
    );
    assert_eq!(deployment["revision_id"], stack.get("/api/agents/watched")["status"]["revision"]);
    let builds = stack.get("/api/builds?agent=watched");
    assert_eq!((builds.as_array().unwrap().len(), &builds[0]["request_id"]), (1, &deployment["request_id"]));
    let steps: Vec<&str> = builds[0]["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["queue", "requirements", "image", "publish"]);
    assert_eq!(stack.get("/api/builds?agent=other"), json!([]));
    let attempt = find("build.started").unwrap()["data"]["attempt"].as_str().unwrap().to_owned();
    let mut log = stack.chunks("GET", &format!("/api/builds/{attempt}/logs?follow=true&timestamps=true"), None);
    let log = String::from_utf8(log.rest().unwrap()).unwrap();
    assert!(log.lines().all(|line| line.starts_with("20")) && log.contains("source layer"), "{log}");

    // A crash, and then all its events for a client that was disconnected meanwhile.
    assert_eq!(stack.invoke("watched", "die").status, 502);
    let crashed = loop {
        let (kind, data) = next_event(&mut events);
        if kind == "agent.crashed" {
            break data;
        }
    };
    assert!(crashed["data"]["reason"].as_str().unwrap().contains('7'), "{crashed}");
    drop(events);
    stack.wait_for_phase("watched", "Running");
    let path = format!("/api/events?agent=watched&types=agent&last_event_id={}", crashed["id"].as_str().unwrap());
    let mut back = stack.chunks("GET", &path, None);
    assert_eq!(next_event(&mut back).1["data"]["phase"], "Failed");
    assert_eq!(next_event(&mut back).1["data"]["phase"], "Running");

    let metrics = stack.call("GET", "/metrics", None).text();
    for line in [
        "hoistway_deployments_total{outcome=\"succeeded\"} 1",
        "hoistway_deployment_step_duration_seconds_count{step=\"build\"} 1",
        "hoistway_builds_total{outcome=\"succeeded\"} 1",
        "hoistway_agent_crashes_total{agent=\"watched\"} 1",
        "hoistway_agents{phase=\"Running\"} 1",
        "hoistway_invokes_total{agent=\"watched\",outcome=\"agent_crashed\"} 1",
        "hoistway_up{service=\"build\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    assert_eq!(stack.call("DELETE", "/api/agents/watched", None).status, 200);
    while next_event(&mut back).0 != "agent.deleted" {}
    let metrics = stack.call("GET", "/metrics", None).text();
    assert!(!metrics.contains("agent=\"watched\""), "{metrics}");
}

const STREAMER: &str = "
import threading, time
go = threading.Event()
def handler(request):
    if request['message'] == 'go':
        go.set()
        return request['request_id']
    return answer(request['message'])
def answer(message):
    try:
        yield 'one'
        if message == 'wait':
            go.wait(60)
        while message == 'endless':
            yield 'more'
            time.sleep(0.01)
        yield 'two'
    finally:
        print('closed', message)
";

#[test]
fn a_streamed_answer_arrives_incrementally_and_ends_with_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "streamer", "source_files": {"agent.py": STREAMER}}));
    let stream = |message: &str| {
        stack.chunks("POST", "/api/agents/streamer/invoke/stream", Some(&json!({ "message": message })))
    };
    let mut answer = stream("wait");
    assert!(answer.text_until("\n\n").contains("one"));
    // The agent continues only now, so no component buffered the first piece.
    let key = format!("Bearer {}", stack.key);
    let headers = [("Authorization", key.as_str()), ("X-Request-ID", "go-1")];
    let path = "/api/agents/streamer/invoke";
    let went = http::send(&stack.at, "POST", path, &headers, br#"{"message": "go"}"#).unwrap();
    assert_eq!(went.json()["response"], "go-1", "{}", went.text());
    assert!(answer.text_until("\n\n").contains("two"));
    assert!(String::from_utf8(answer.rest().unwrap()).unwrap().contains("\"type\": \"done\""));

    let mut log = stack.chunks("GET", "/api/agents/streamer/logs?follow=true&tail=0", None);
    let mut endless = stream("endless");
    endless.text_until("\n\n");
    drop(endless);
    // The agent's generator is closed.
    while log.text_until("\n") != "closed endless\n" {}
}

#[test]
fn a_flood_of_output_is_bounded_and_affects_nothing_else() {
    const LINES: usize = 150_000;
    let dir = tempfile::tempdir().unwrap();
    let stack = Arc::new(Stack::start(dir.path()));
    let source = format!(
        "def handler(message):\n    if message != 'flood': return 'fine'\n    for n in range({LINES}): print('x' * 100, n)\n    return 'done'\n"
    );
    stack.deployed(json!({"agent_name": "flood", "source_files": {"agent.py": source}}));
    stack.deployed(json!({"agent_name": "quiet", "source_files": says("well")}));
    let flooding = {
        let stack = stack.clone();
        std::thread::spawn(move || stack.answer("flood", "flood"))
    };
    let mut answered = 0;
    while !flooding.is_finished() {
        assert_eq!(stack.answer("quiet", "x"), "well");
        assert_eq!(stack.answer("flood", "x"), "fine");
        answered += 1;
    }
    assert_eq!(flooding.join().unwrap(), "done");
    assert!(answered > 0);
    // The log may be behind the answer, but its last line is not lost.
    let mut log = stack.chunks("GET", "/api/agents/flood/logs?tail=1&follow=true", None);
    while !log.text_until("\n").ends_with(&format!(" {}\n", LINES - 1)) {}
    let logs = std::fs::read_dir(dir.path().join("data/agent/logs/flood")).unwrap();
    let kept: u64 = logs.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!((1 << 20..=8 << 20).contains(&kept), "{kept}");
    let metrics = stack.call("GET", "/metrics", None).text();
    let lines = metrics.lines().find_map(|l| l.strip_prefix("hoistway_agent_log_lines_total{agent=\"flood\"} "));
    assert!(lines.unwrap().parse::<usize>().unwrap() >= LINES);
}

/// Calls a tool whenever it is invoked.
const CALLER: &str = r#"
import os, urllib.request
def handler(message):
    urllib.request.urlopen(os.environ["TOOL_URL_NOWHERE"])
"#;

#[test]
fn json_lines_of_a_deploy_and_an_invoke_have_the_same_trace_in_every_service() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let dir = tempfile::tempdir().unwrap();
    let processes = Processes::start_with(dir.path(), &|_| {
        vec![("LOG_FORMAT", "json".to_owned()), ("HOISTWAY_LOG", "info,hoistway_egress=debug".to_owned())]
    });
    let (authorization, traceparent) = (format!("Bearer {}", processes.key), format!("00-{TRACE}-b7ad6b7169203331-00"));
    let headers = [("Authorization", authorization.as_str()), ("Traceparent", &traceparent), ("X-Request-Id", "r-1")];
    let deploy = |source: Value| {
        let body = json!({"agent_name": "logged", "source_files": source, "required_tools": ["nowhere"]}).to_string();
        http::send(&processes.api, "POST", "/api/deploy", &headers, body.as_bytes()).unwrap()
    };
    let tool = json!({"name": "nowhere", "spec": {"connection": {"baseUrl": "http://127.0.0.1:9"}}});
    assert_eq!(processes.call("POST", "/api/tools", &tool).status, 201);
    assert_eq!(deploy(json!({"agent.py": CALLER})).status, 201);
    let message = json!({"message": "x"}).to_string();
    let invoked =
        http::send(&processes.api, "POST", "/api/agents/logged/invoke", &headers, message.as_bytes()).unwrap();
    assert_eq!(invoked.status, 500, "{}", invoked.text());
    assert_eq!(deploy(json!({"agent.py": "raise SystemExit(3)\ndef handler(m): return m\n"})).status, 500);
    processes.stop();
    let find = |service: &str, text: &str| -> Value {
        let log = std::fs::read_to_string(dir.path().join(format!("{service}.log"))).unwrap();
        let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = lines.find(|line| line["message"].as_str().is_some_and(|message| message.contains(text)));
        let found = found.unwrap_or_else(|| panic!("{service} says nowhere \"{text}\":\n{log}"));
        assert_eq!((&found["trace_id"], &found["request_id"]), (&json!(TRACE), &json!("r-1")), "{found}");
        found
    };
    find("gateway", "POST /api/deploy 201");
    for (service, text) in [("build", "built in "), ("agent", "revision 1 is ready after "), ("agent", "not started: ")]
    {
        let line = find(service, text);
        assert_eq!((&line["agent"], line["span_id"].as_str().map(str::len)), (&json!("logged"), Some(16)), "{line}");
    }
    assert_eq!(find("egress", "no connection to the tool \"nowhere\"")["agent"], "logged");
    let failed = find("gateway", "failed to create agent");
    assert!(failed["agent"] == "logged" && failed["deployment"].is_string(), "{failed}");
}
