//! Starts that hang, and what ends them: a cancelled deployment, a stop, a deletion.

use crate::{
    http::Answer,
    stack::{Stack, processes, says},
};
use serde_json::{Value, json};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// A start that hangs is not waited for by whoever ends it.
const SOON: Duration = Duration::from_secs(6);

fn hangs() -> Value {
    json!({"agent.py": "import time\ntime.sleep(600)\ndef handler(m): return m\n"})
}

/// An agent whose start hangs once the file `stuck` is in the shared directory.
fn hangs_later(shared: &Path) -> Value {
    let source = "import os, time\nif os.path.exists('SHARED/stuck'): time.sleep(600)\ndef handler(m): return 'up'\n";
    json!({"agent.py": source.replace("SHARED", shared.to_str().unwrap())})
}

/// The id of the agent's newest deployment once it is as told: `PENDING`, or `RUNNING` in its step `start`.
fn deployment_that(stack: &Stack, agent: &str, status: &str) -> String {
    let path = format!("/api/deployments?agent={agent}&limit=1");
    let starts = |shown: &Value| status == "PENDING" || shown[0]["step"] == "start";
    let shown = stack.wait_for(&path, status, |shown| shown[0]["status"] == status && starts(shown));
    shown[0]["id"].as_str().unwrap().to_owned()
}

fn soon(stack: &Stack, method: &str, path: &str) -> Answer {
    let began = Instant::now();
    let answer = stack.call(method, path, None);
    assert!(began.elapsed() < SOON, "{method} {path} took {:?}: {}", began.elapsed(), answer.text());
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
            let deploying = deploy_of(scope, &stack, agent, hangs());
            let id = deployment_that(&stack, agent, "RUNNING");
            let path = format!("/api/deployments/{id}/cancel");
            // One that waits for it ends at once, and takes nothing with it.
            let waiting = deploy_of(scope, &stack, agent, says("v2"));
            let second = deployment_that(&stack, agent, "PENDING");
            assert_ne!(second, id);
            let cancelled = soon(&stack, "POST", &format!("/api/deployments/{second}/cancel"));
            assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("FAILED")));
            assert_eq!(waiting.join().unwrap().json()["code"], "cancelled");
            assert_eq!(stack.get(&format!("/api/deployments/{id}"))["status"], "RUNNING");

            let cancelled = soon(&stack, "POST", &path);
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
    // A redeploy: the revision before it is the agent's.
    for (end, phase) in [("stop", Some("Stopped")), ("delete", None)] {
        stack.deployed(json!({"agent_name": "steady", "source_files": says("v1")}));
        thread::scope(|scope| {
            let deploying = deploy_of(scope, &stack, "steady", hangs());
            deployment_that(&stack, "steady", "RUNNING");
            let ended = match phase {
                Some(_) => soon(&stack, "POST", "/api/agents/steady/stop"),
                None => soon(&stack, "DELETE", "/api/agents/steady"),
            };
            assert_eq!(ended.status, 200, "{end}: {}", ended.text());
            assert_eq!(deploying.join().unwrap().json()["code"], "cancelled");
            let shown = stack.call("GET", "/api/agents/steady", None).json();
            assert_eq!(shown["status"]["phase"].as_str(), phase, "{shown}");
        });
    }
    // A first deploy: nothing of the agent is left, and that is what was wanted.
    for (method, path) in [("POST", "/api/agents/first/stop"), ("DELETE", "/api/agents/first")] {
        thread::scope(|scope| {
            let deploying = deploy_of(scope, &stack, "first", hangs());
            deployment_that(&stack, "first", "RUNNING");
            let ended = soon(&stack, method, path);
            assert_eq!(ended.status, 200, "{}", ended.text());
            assert_eq!(deploying.join().unwrap().json()["code"], "cancelled");
            assert_eq!(stack.call("GET", "/api/agents/first", None).status, 404);
        });
    }
    // A restart and a start, which are no deployments.
    let data = dir.path().join("data");
    let launchers = || processes(&data).iter().filter(|process| process.contains("hoistway-agent later")).count();
    stack.deployed(json!({"agent_name": "later", "source_files": hangs_later(&shared)}));
    for (begin, method, end) in [
        ("restart", "POST", "/api/agents/later/stop"),
        ("start", "POST", "/api/agents/later/stop"),
        ("start", "DELETE", "/api/agents/later"),
    ] {
        std::fs::write(shared.join("stuck"), "").unwrap();
        // What the round before has ended may still be ending.
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
            let ended = soon(stack, method, end);
            assert_eq!(ended.status, 200, "{begin}, {end}: {}", ended.text());
            let begun = beginning.join().unwrap();
            assert_eq!((begun.status, &begun.json()["code"]), (409, &json!("conflict")), "{begin}");
        });
        std::fs::remove_file(shared.join("stuck")).unwrap();
    }
    assert_eq!(stack.call("GET", "/api/agents/later", None).status, 404);
}
