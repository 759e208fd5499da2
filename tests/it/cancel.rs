//! Starts that hang, and the requests that end them: a cancelled deployment, a stop, a deletion.

use crate::{
    http::Answer,
    test_installation::{Stack, processes, says},
};
use serde_json::{Value, json};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The longest duration of a request that ends a hanging start.
const LIMIT: Duration = Duration::from_secs(6);

fn hanging_source() -> Value {
    json!({"agent.py": "import time\ntime.sleep(600)\ndef handler(m): return m\n"})
}

/// Returns an agent whose start hangs once the file `stuck` is in the shared directory.
fn later_hanging_source(shared: &Path) -> Value {
    let source = "import os, time\nif os.path.exists('SHARED/stuck'): time.sleep(600)\ndef handler(m): return 'up'\n";
    json!({"agent.py": source.replace("SHARED", shared.to_str().unwrap())})
}

/// Returns the id of the agent's newest deployment once its status is `status`; a `RUNNING` one is in its step `start`.
fn wait_for_deployment(stack: &Stack, agent: &str, status: &str) -> String {
    let path = format!("/api/deployments?agent={agent}&limit=1");
    let starts = |shown: &Value| status == "PENDING" || shown[0]["step"] == "start";
    let shown = stack.wait_for(&path, status, |shown| shown[0]["status"] == status && starts(shown));
    shown[0]["id"].as_str().unwrap().to_owned()
}

fn call_within_limit(stack: &Stack, method: &str, path: &str) -> Answer {
    let began = Instant::now();
    let answer = stack.call(method, path, None);
    assert!(began.elapsed() < LIMIT, "{method} {path} took {:?}: {}", began.elapsed(), answer.text());
    answer
}

fn deploy_of<'s>(
    scope: &'s thread::Scope<'s, '_>,
    stack: &'s Stack,
    agent: &str,
    files: Value,
) -> thread::ScopedJoinHandle<'s, Answer> {
    let body = json!({"agent_name": agent, "source_files": files});
    scope.spawn(move || stack.deploy(body))
}

#[test]
fn a_deployment_is_cancelled_while_its_start_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "steady", "source_files": says("v1")}));
    for agent in ["steady", "new"] {
        thread::scope(|scope| {
            let deploying = deploy_of(scope, &stack, agent, hanging_source());
            let id = wait_for_deployment(&stack, agent, "RUNNING");
            let path = format!("/api/deployments/{id}/cancel");
            // A cancelled deployment that waits for the first one ends at once and leaves the first one running.
            let waiting = deploy_of(scope, &stack, agent, says("v2"));
            let second = wait_for_deployment(&stack, agent, "PENDING");
            assert_ne!(second, id);
            let cancelled = call_within_limit(&stack, "POST", &format!("/api/deployments/{second}/cancel"));
            assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("FAILED")));
            assert_eq!(waiting.join().unwrap().json()["code"], "cancelled");
            assert_eq!(stack.get(&format!("/api/deployments/{id}"))["status"], "RUNNING");

            let cancelled = call_within_limit(&stack, "POST", &path);
            let shown = cancelled.json();
            assert_eq!((cancelled.status, &shown["status"]), (200, &json!("FAILED")), "{shown}");
            assert_eq!((&shown["error"]["code"], &shown["step"]), (&json!("cancelled"), &json!("start")), "{shown}");
            let answer = deploying.join().unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (500, &json!("cancelled")));

            let again = stack.call("POST", &path, None);
            assert_eq!((again.status, &again.json()["code"]), (409, &json!("conflict")));
        });
    }
    assert_eq!(stack.answer("steady", "x"), "v1");
    assert_eq!(stack.call("GET", "/api/agents/new", None).status, 404, "nothing of a first deploy is left");
    let done = &stack.get("/api/deployments?agent=steady")[2]["id"];
    let ended = stack.call("POST", &format!("/api/deployments/{}/cancel", done.as_str().unwrap()), None);
    assert_eq!((ended.status, &ended.json()["code"]), (409, &json!("conflict")));
    let unknown = stack.call("POST", "/api/deployments/01a223db-6c1d-7775-b741-2b6ca298d283/cancel", None);
    assert_eq!(unknown.status, 404);
}

#[test]
fn stop_and_delete_end_starts_that_hang() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let stack = Stack::start_with(dir.path(), |up| {
        up.env("HOISTWAY_AGENT_WRITABLE", json!([shared]).to_string());
    });
    // After a redeploy, the agent keeps the revision before it.
    for (end, phase) in [("stop", Some("Stopped")), ("delete", None)] {
        stack.deployed(json!({"agent_name": "steady", "source_files": says("v1")}));
        thread::scope(|scope| {
            let deploying = deploy_of(scope, &stack, "steady", hanging_source());
            wait_for_deployment(&stack, "steady", "RUNNING");
            let ended = match phase {
                Some(_) => call_within_limit(&stack, "POST", "/api/agents/steady/stop"),
                None => call_within_limit(&stack, "DELETE", "/api/agents/steady"),
            };
            assert_eq!(ended.status, 200, "{end}: {}", ended.text());
            assert_eq!(deploying.join().unwrap().json()["code"], "cancelled");
            let shown = stack.call("GET", "/api/agents/steady", None).json();
            assert_eq!(shown["status"]["phase"].as_str(), phase, "{shown}");
        });
    }
    // After a first deploy nothing of the agent is left, as the request intended.
    for (method, path) in [("POST", "/api/agents/first/stop"), ("DELETE", "/api/agents/first")] {
        thread::scope(|scope| {
            let deploying = deploy_of(scope, &stack, "first", hanging_source());
            wait_for_deployment(&stack, "first", "RUNNING");
            // A moment before, there is no such agent yet.
            stack.wait_for("/api/agents/first", "the agent", |shown| shown["name"] == "first");
            let ended = call_within_limit(&stack, method, path);
            assert_eq!(ended.status, 200, "{}", ended.text());
            assert_eq!(deploying.join().unwrap().json()["code"], "cancelled");
            assert_eq!(stack.call("GET", "/api/agents/first", None).status, 404);
        });
    }
    // A restart and a start, which are not deployments.
    let data = dir.path().join("data");
    let launchers = || processes(&data).iter().filter(|process| process.contains("hoistway-agent later")).count();
    stack.deployed(json!({"agent_name": "later", "source_files": later_hanging_source(&shared)}));
    for (begin, method, end) in [
        ("restart", "POST", "/api/agents/later/stop"),
        ("start", "POST", "/api/agents/later/stop"),
        ("start", "DELETE", "/api/agents/later"),
    ] {
        std::fs::write(shared.join("stuck"), "").unwrap();
        // The process of the previous round may still be ending.
        let before = usize::from(begin == "restart");
        while launchers() != before {
            thread::sleep(Duration::from_millis(20));
        }
        thread::scope(|scope| {
            let stack = &stack;
            let beginning = scope.spawn(move || stack.call("POST", &format!("/api/agents/later/{begin}"), None));
            while launchers() == before {
                thread::sleep(Duration::from_millis(20));
            }
            let ended = call_within_limit(stack, method, end);
            assert_eq!(ended.status, 200, "{begin}, {end}: {}", ended.text());
            let begun = beginning.join().unwrap();
            assert_eq!((begun.status, &begun.json()["code"]), (409, &json!("conflict")), "{begin}");
        });
        std::fs::remove_file(shared.join("stuck")).unwrap();
    }
    assert_eq!(stack.call("GET", "/api/agents/later", None).status, 404);
}
