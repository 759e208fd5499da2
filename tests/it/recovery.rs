//! A power cut at any moment: the next start resumes all work and leaves no remains.

use crate::test_installation::{Stack, log_of, processes, says};
use serde_json::{Value, json};
use std::{thread, time::Duration};

const CUTS: u64 = 20;

#[test]
fn killed_at_random_moments_of_deploys() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::start(dir.path());
    for agent in ["one", "two", "three"] {
        stack.deployed(json!({"agent_name": agent, "source_files": says("v0")}));
        stack.deployed(json!({"agent_name": agent, "source_files": says("v00")}));
    }
    // The moments are not random but spread: each run cuts at other places anyway.
    for cut in 0..CUTS {
        thread::scope(|scope| {
            for agent in ["one", "two"] {
                let stack = &stack;
                scope.spawn(move || {
                    let tool = json!([{"name": format!("tool-{agent}-{cut}"), "base_url": "https://a.example"}]);
                    let broken = cut % 3 == 2;
                    let files = if broken {
                        json!({"agent.py": "raise SystemExit(3)\ndef handler(m): return m\n"})
                    } else {
                        says(&format!("v{cut}"))
                    };
                    // The deploy is interrupted: any result of the request itself is accepted.
                    let _ = stack.try_call(
                        "POST",
                        "/api/deploy",
                        Some(&json!({"agent_name": agent, "source_files": files, "tools_to_create": tool})),
                    );
                });
            }
            let stack = &stack;
            scope.spawn(move || {
                let (method, path, body) = change(cut);
                let _ = stack.try_call(method, &format!("/api/agents/three{path}"), body.as_ref());
            });
            thread::sleep(Duration::from_millis(cut * 12));
            crate::test_installation::signal(stack.pid(), "KILL");
        });
        stack.kill();
        let data = dir.path().join("data");
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !processes(&data).is_empty() {
            assert!(std::time::Instant::now() < until, "left over: {:?}", processes(&data));
            thread::sleep(Duration::from_millis(20));
        }
        stack = Stack::start(dir.path());
        for agent in ["one", "two"] {
            stack.wait_for_phase(agent, "Running");
            let said = stack.answer(agent, "x");
            assert!(said.as_str().unwrap().starts_with('v'), "{said}");
        }
        wait_until_deployments_ended(&stack);
        check_consistent(&stack);
    }
    let tools: Vec<Value> = stack.get("/api/tools").as_array().unwrap().clone();
    let broken = tools
        .iter()
        .filter_map(|t| t["name"].as_str())
        .filter(|n| n.rsplit('-').next().and_then(|c| c.parse::<u64>().ok()).is_some_and(|cut| cut % 3 == 2));
    assert_eq!(broken.collect::<Vec<_>>(), Vec::<&str>::new(), "tools of failed deploys are left");
}

/// Returns the change of the third agent during a cut.
fn change(cut: u64) -> (&'static str, &'static str, Option<Value>) {
    match cut % 5 {
        0 => ("POST", "/rollback", None),
        1 => ("PUT", "/config", Some(json!({"system_prompt": format!("prompt {cut}")}))),
        2 => ("POST", "/restart", None),
        3 => ("POST", "/stop", None),
        _ => ("POST", "/rollback", Some(json!({"revision": "previous"}))),
    }
}

/// Checks that the third agent is consistent after its change: stopped or running, as one revision, and able to start.
fn check_consistent(stack: &Stack) {
    let phase = stack.get("/api/agents/three")["status"]["phase"].clone();
    if phase == "Stopped" {
        assert_eq!(stack.call("POST", "/api/agents/three/start", None).status, 200);
    }
    stack.wait_for_phase("three", "Running");
    let said = stack.answer("three", "x");
    assert!(said.as_str().unwrap().starts_with('v'), "{said}");
    check_revisions(&stack.get("/api/agents/three/revisions"));
}

/// Checks that one of an agent's revisions serves and nothing of others is left over.
pub fn check_revisions(revisions: &Value) {
    let revisions = revisions.as_array().unwrap();
    let of = |key: &str, value: Value| revisions.iter().filter(|r| r[key] == value).count();
    assert_eq!((of("current", json!(true)), of("state", json!("serving"))), (1, 1), "{revisions:?}");
    assert_eq!(of("state", json!("superseded")), revisions.len() - 1, "something is left over: {revisions:?}");
    let mut numbers: Vec<_> = revisions.iter().map(|r| r["number"].as_u64().unwrap()).collect();
    numbers.dedup();
    assert!(numbers.len() == revisions.len() && numbers.is_sorted_by(|a, b| a > b), "{numbers:?}");
}

/// Waits until no deployment is in progress.
fn wait_until_deployments_ended(stack: &Stack) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let all = stack.get("/api/deployments");
        let open: Vec<&Value> = all.as_array().unwrap().iter().filter(|d| d["completed_at"].is_null()).collect();
        if open.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < until, "in progress for ever: {open:?}\n{}", log_of(&stack.dir));
        thread::sleep(Duration::from_millis(50));
    }
}
