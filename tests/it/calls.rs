//! The records of agents' outbound calls, as shown to users.

use crate::{
    cli::User,
    observability::next_event,
    test_installation::{HOISTWAY, Stack},
};
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The longest wait for the record of a call after its end.
const SOON: Duration = Duration::from_secs(10);
const KEY: &str = "sk-of-the-calls-7d02";

/// Calls the URL in its message and returns the status.
const CALLER: &str = "import os, urllib.request, urllib.error\n\ndef handler(message):\n    method, path = message.split(' ')\n    url = path if path.startswith('http') else os.environ['TOOL_URL_PROBE'] + path\n    body = b'{\"x\": 1}' if method == 'POST' else None\n    try:\n        return urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=20).status\n    except urllib.error.HTTPError as e:\n        return e.code\n";

/// Starts a tool that requires its key, and answers `teapot` with 418.
fn probe() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let lines = reader.by_ref().lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let length =
                head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            // A server that answers before the body has arrived may not count all of it.
            let _ = io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink());
            let is_let_in = head.iter().any(|line| line.eq_ignore_ascii_case(&format!("x-key: {KEY}")));
            let status = match head.first() {
                _ if !is_let_in => "401 Unauthorized",
                Some(line) if line.contains("/teapot") => "418 I'm a teapot",
                _ => "200 OK",
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 4\r\n\r\ntea\n");
        }
    });
    port
}

/// Starts a stack with the agent `caller` and its tool, which lacks its key.
fn start(dir: &std::path::Path) -> Stack {
    let stack = Stack::start(dir);
    let body = json!({
        "name": "probe",
        "spec": {"connection": {
            "baseUrl": format!("http://127.0.0.1:{}/base", probe()),
            "authentication": {"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}},
        }},
    });
    assert_eq!(stack.call("POST", "/api/tools", Some(&body)).status, 201);
    stack.deployed(json!({"agent_name": "caller", "source_files": {"agent.py": CALLER}, "required_tools": ["probe"]}));
    stack
}

fn give_key(stack: &Stack) {
    let stored = stack.call("PUT", "/api/tools/probe/credentials", Some(&json!({"api_key": KEY})));
    assert_eq!(stored.status, 200, "{}", stored.text());
    let until = Instant::now() + SOON;
    while stack.answer("caller", "GET /ready") != 200 {
        assert!(Instant::now() < until, "the key does not reach egress");
    }
}

/// Returns the calls once there are `count` of them.
fn recorded(stack: &Stack, query: &str, count: usize) -> Vec<Value> {
    let until = Instant::now() + SOON;
    loop {
        let calls = stack.get(&format!("/api/agents/caller/calls{query}"));
        let calls = calls.as_array().unwrap();
        if calls.len() >= count {
            return calls.clone();
        }
        assert!(Instant::now() < until, "{count} are expected: {calls:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn call_records_are_listed_and_outlive_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let stack = start(dir.path());
    assert_eq!(stack.answer("caller", "GET /early"), 502);
    let refused = recorded(&stack, "?refused=true", 1).remove(0);
    assert_eq!((&refused["refused"], &refused["path"]), (&json!("credential_missing"), &json!("/base/early")));
    let text = "the tool \"probe\" has no credential yet: PUT /api/tools/NAME/credentials stores one";
    assert_eq!((&refused["status"], &refused["error"]), (&json!(502), &json!(text)));

    give_key(&stack);
    assert_eq!(stack.answer("caller", "POST /teapot?secret=1"), 418);
    let until = Instant::now() + SOON;
    let teapot = loop {
        let newest = recorded(&stack, "?tool=probe&limit=1", 1).remove(0);
        if newest["path"] == "/base/teapot" {
            break newest;
        }
        assert!(Instant::now() < until, "{newest}");
    };
    for (member, expected) in [
        ("agent", json!("caller")),
        ("revision", stack.get("/api/agents/caller")["status"]["revision"].clone()),
        ("tool", json!("probe")),
        ("method", json!("POST")),
        ("scheme", json!("http")),
        ("status", json!(418)),
        ("bytes_sent", json!(8)),
        ("bytes_received", json!(4)),
        ("refused", Value::Null),
        ("error", Value::Null),
        ("broken", Value::Null),
    ] {
        assert_eq!(teapot[member], expected, "{member}: {teapot}");
    }
    assert!(teapot["host"].as_str().unwrap().starts_with("127.0.0.1:"), "{teapot}");
    assert!(teapot["latency_ms"].as_u64() <= teapot["duration_ms"].as_u64(), "{teapot}");
    assert_eq!(stack.get("/api/agents/caller/calls?tool=other"), json!([]));
    let all = stack.call("GET", "/api/agents/caller/calls", None).text();
    assert!(!all.contains(KEY) && !all.contains("secret=1"), "{all}");

    assert_eq!(stack.call("DELETE", "/api/agents/caller", None).status, 200);
    assert_eq!(recorded(&stack, "?limit=1", 1)[0]["id"], teapot["id"]);
    assert_eq!(stack.call("GET", "/api/agents/never/calls", None).status, 404);
}

#[test]
fn calls_are_followed_as_events_and_counted_while_their_agent_exists() {
    let dir = tempfile::tempdir().unwrap();
    let stack = start(dir.path());
    give_key(&stack);
    let mut events = stack.chunks("GET", "/api/events?types=call&agent=caller", None);
    events.text_until("\n\n");
    assert_eq!(stack.answer("caller", "GET /teapot"), 418);
    let teapot = loop {
        let (kind, event) = next_event(&mut events);
        assert_eq!((kind.as_str(), &event["agent"]), ("call.ended", &json!("caller")));
        if event["data"]["path"] == "/base/teapot" {
            break event["data"].clone();
        }
    };
    assert_eq!(teapot, recorded(&stack, "?limit=1", 1)[0], "an event has what the list has");

    let metrics = || stack.call("GET", "/metrics", None).text();
    let counted = "hoistway_agent_calls_total{agent=\"caller\",tool=\"probe\",outcome=\"4xx\"} 1";
    let shown = metrics();
    assert!(shown.lines().any(|line| line == counted), "{shown}");
    let timed = "hoistway_agent_call_duration_seconds_count{agent=\"caller\",tool=\"probe\"}";
    assert!(shown.contains(timed), "{shown}");
    assert_eq!(stack.call("DELETE", "/api/agents/caller", None).status, 200);
    let until = Instant::now() + SOON;
    while metrics().contains("hoistway_agent_calls_total{agent=\"caller\"") {
        assert!(Instant::now() < until, "a deleted agent has no series");
    }
}

#[test]
fn calls_are_shown_and_followed_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let stack = start(dir.path());
    give_key(&stack);
    assert_eq!(stack.answer("caller", "GET /teapot"), 418);
    assert_eq!(stack.answer("caller", "TRACE /no"), 405);
    let refused = recorded(&stack, "?refused=true&limit=1", 1).remove(0);
    let user = User { stack: &stack, home: dir.path() };
    let shown = user.ok(&["calls", "caller"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("TIME ") && lines[0].ends_with("  RESULT"), "{shown}");
    assert!(lines[1].contains("  TRACE ") && lines[1].contains("  405 "), "newest first: {shown}");
    assert!(lines[1].ends_with(refused["error"].as_str().unwrap()), "{shown}");
    let teapot: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(teapot[1..4], ["probe", "GET", "418"], "{shown}");
    assert!(lines[2].ends_with("/base/teapot"), "{shown}");
    let listed: Value = serde_json::from_str(&user.ok(&["calls", "caller", "--refused", "--json", "-n", "1"])).unwrap();
    assert_eq!(listed, json!([refused]));
    assert_eq!(user.ok(&["calls", "caller", "--tool", "other"]).lines().count(), 1);
    assert!(user.fails(&["calls", "nobody"], 1).contains("agent \"nobody\" not found"));
    user.fails(&["calls", "caller", "-n", "0"], 64);

    // The port stays the same, as it does behind a Kubernetes service.
    let at = stack.at.clone();
    let mut follow =
        user.command(&["calls", "-f", "caller", "--json", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next(), refused);
    assert_eq!(stack.answer("caller", "GET /one"), 200);
    let one = next();
    assert_eq!((&one["path"], &one["status"]), (&json!("/base/one"), &json!(200)));
    stack.kill();
    let mut up = Command::new(HOISTWAY);
    up.args(["up", "--listen", &at, "--data-dir"]).arg(dir.path().join("data"));
    let stack = Stack::spawn(dir.path(), up);
    stack.wait_for_phase("caller", "Running");
    assert_eq!(stack.answer("caller", "GET /two"), 200);
    assert_eq!(next()["path"], "/base/two", "each call comes once");
    assert_eq!(stack.call("DELETE", "/api/agents/caller", None).status, 200);
    assert!(lines.next().is_none());
    assert!(follow.wait().unwrap().success(), "it ends with the agent");
}

#[test]
fn a_tool_check_uses_the_stored_credential() {
    let dir = tempfile::tempdir().unwrap();
    let stack = start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let check = || stack.call("POST", "/api/tools/probe/check", None).json();
    let missing = "the tool \"probe\" has no credential yet: PUT /api/tools/probe/credentials stores one";
    let found = check();
    assert_eq!((&found["ok"], &found["checks"][1]["message"]), (&json!(false), &json!(missing)), "{found}");
    for (key, ok, status) in [("sk-wrong", false, 401), (KEY, true, 200)] {
        let stored = stack.call("PUT", "/api/tools/probe/credentials", Some(&json!({ "api_key": key })));
        assert_eq!(stored.status, 200, "{}", stored.text());
        // The check uses the new credential at once, whether or not egress has synchronized already.
        let found = check();
        assert_eq!((&found["ok"], &found["status"]), (&json!(ok), &json!(status)), "{found}");
        assert!(!found.to_string().contains(key), "{found}");
        if !ok {
            let shown = user.fails(&["tools", "check", "probe"], 1);
            assert!(shown.contains("credential  failed  the tool answered 401: "), "{shown}");
            assert!(shown.contains("error: the tool \"probe\" does not work"), "{shown}");
            let shown = user.command(&["tools", "check", "probe", "--json"]).output().unwrap();
            let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
            assert_eq!(shown["checks"], found["checks"]);
        }
    }
    assert!(user.ok(&["tools", "check", "probe"]).starts_with("CHECK       RESULT  MESSAGE\naddress     ok      "));
    assert!(user.ok(&["tools"]).contains("probe") && user.ok(&["tools", "probe"]).contains("baseUrl"));
    user.fails(&["tools", "check", "nothing"], 1);
    // A check is not recorded as a call of an agent.
    assert_eq!(stack.get("/api/agents/caller/calls"), json!([]));
}
