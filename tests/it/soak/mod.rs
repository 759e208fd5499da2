//! Thousands of deploys and deletes on one `hoistway up`: all resources that grow with them level off. The test takes
//! long and is ignored by default:
//!
//! ```sh
//! HOISTWAY_SOAK_DEPLOYS=2000 cargo test --workspace --release --test it -- --ignored --nocapture soak
//! ```
//!
//! All retention limits are small here, so that they are reached soon. All resources are counted after each of thirty
//! parts of the rounds, when only the standing agents are left. The last third of the counts must not exceed the middle
//! third by more than a tenth and a little slack for pending cleanup.

mod index;
mod measurements;

use crate::{
    prerequisites,
    test_installation::{Stack, log_of, says},
};
use index::Index;
use measurements::{AgentResources, Sample};
use serde_json::{Value, json};
use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The number of counts.
const PARTS: usize = 30;
/// The number of agents deployed and deleted at a time.
const AT_ONCE: usize = 3;
/// The agents that stay.
const STANDING: [&str; 2] = ["standing-a", "standing-b"];
/// The number of rounds after which another package is used.
const PACKAGE_EVERY: usize = 10;

/// Limits that are reached after a few deploys.
const SETTINGS: [(&str, &str); 19] = [
    ("GATEWAY_TIDY_SECONDS", "2"),
    ("GATEWAY_JOURNAL_ENTRIES", "50"),
    ("GATEWAY_AUDIT_ENTRIES", "100"),
    ("GATEWAY_MAX_KEYS", "5"),
    ("TOOL_REGISTRY_TIDY_SECONDS", "2"),
    ("TOOL_REGISTRY_OPERATIONS", "50"),
    ("TOOL_REGISTRY_OPERATIONS_SECONDS", "10"),
    ("BUILD_TIDY_SECONDS", "2"),
    ("BUILD_OPERATIONS", "50"),
    ("BUILD_OPERATIONS_SECONDS", "10"),
    ("BUILD_RECORDS", "20"),
    ("BUILD_LOCKS", "3"),
    ("BUILD_PACKAGES", "5"),
    ("BUILD_CACHE_BYTES", "500000"),
    ("BUILD_REGISTRY__GRACE_SECONDS", "10"),
    ("AGENT_TIDY_SECONDS", "2"),
    ("AGENT_OPERATIONS", "50"),
    ("AGENT_OPERATIONS_SECONDS", "10"),
    ("AGENT_REVISIONS", "3"),
];

#[test]
#[ignore = "takes a quarter of an hour and more; see CONTRIBUTING.md"]
fn soak() {
    if !prerequisites::pip() {
        return;
    }
    let rounds: usize = std::env::var("HOISTWAY_SOAK_DEPLOYS").map_or(2_000, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let index = Index::serve(dir.path(), rounds / PACKAGE_EVERY + 1);
    let stack = Stack::start_with(dir.path(), |up| settle(up, &index));
    for name in STANDING {
        stack.deployed(json!({"agent_name": name, "source_files": says(name)}));
    }
    let base = AgentResources::of(&stack);
    println!("{} rounds, {AT_ONCE} at a time; left standing: {base:?}", rounds);

    let (began, deploys) = (Instant::now(), AtomicUsize::new(0));
    let (mut samples, mut done) = (Vec::new(), 0);
    for part in 1..=PARTS {
        let until = rounds * part / PARTS;
        let next = AtomicUsize::new(done);
        thread::scope(|scope| {
            for worker in 0..AT_ONCE {
                let (stack, next, deploys) = (&stack, &next, &deploys);
                scope.spawn(move || {
                    while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < until) {
                        deploys.fetch_add(round(stack, worker, n), Ordering::Relaxed);
                    }
                });
            }
        });
        done = until;
        samples.push(Sample::of(&stack, done));
        samples.last().unwrap().print(part == 1);
    }
    let (took, deploys) = (began.elapsed().as_secs_f64(), deploys.into_inner());
    println!("{rounds} rounds with {deploys} deploys in {took:.0} s: {:.2} deploys a second", deploys as f64 / took);

    for name in STANDING {
        assert_eq!(stack.answer(name, "x"), *name);
    }
    // The background cleanup after a deletion ends soon.
    let until = Instant::now() + Duration::from_secs(60);
    while AgentResources::of(&stack) != base && Instant::now() < until {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(AgentResources::of(&stack), base, "something of a deleted agent is left");
    let grown = Sample::grown(&samples);
    assert!(grown.is_empty(), "what does not level off:\n{}\n{}", grown.join("\n"), log_of(&stack.dir));
}

fn settle(up: &mut Command, index: &Index) {
    up.env_remove("HOISTWAY_SOAK_DEPLOYS")
        .env("HOISTWAY_LOG", "warn,hoistway_gateway::audit=error")
        .env("HOISTWAY_BUILD_EXTRA_INDEX_URLS", index.url());
    for (name, value) in SETTINGS {
        up.env(format!("HOISTWAY_{name}"), value);
    }
}

/// Deploys an agent, invokes it and deletes it; returns the number of deploys.
fn round(stack: &Stack, worker: usize, n: usize) -> usize {
    let name = format!("soak-{worker}-{}", n % 5);
    let mut body = json!({"agent_name": name, "source_files": says(&format!("one {n}"))});
    let mut deploys = 1;
    match n % PACKAGE_EVERY {
        1 => {
            let tool = json!([{"name": format!("tool-{worker}"), "base_url": "https://tool.example"}]);
            body["tools_to_create"] = tool;
            body["required_tools"] = json!([format!("tool-{worker}")]);
        }
        3 => {
            let (package, version) = (index::PACKAGE, n / PACKAGE_EVERY);
            let source = format!("import {package}\ndef handler(r, c):\n    return {{'response': {package}.SAYS}}\n");
            body["source_files"] = json!({"agent.py": source});
            body["requirements"] = json!(format!("{package}==0.{version}"));
        }
        5 => {
            stack.deployed(json!({"agent_name": name, "source_files": says(&format!("zero {n}"))}));
            deploys += 1;
        }
        7 => {
            failed(stack, &name, "raise RuntimeError('on purpose')\ndef handler(r, c): pass\n", n);
            assert_eq!(stack.call("GET", &format!("/api/agents/{name}"), None).status, 404);
            deploys += 1;
        }
        9 => {
            failed(stack, &name, "def handler(:\n", n);
            deploys += 1;
        }
        _ => {}
    }
    stack.deployed(body);
    let expected = if n % PACKAGE_EVERY == 3 { format!("0.{}", n / PACKAGE_EVERY) } else { format!("one {n}") };
    if n % 20 == 7 {
        // A failed deploy over a serving revision, which keeps serving.
        failed(stack, &name, "import os\nos._exit(3)\n# no handler\ndef handler(r, c): pass\n", n);
        deploys += 1;
    }
    assert_eq!(stack.answer(&name, "x"), *expected);
    if n % 50 == 11 {
        let made = stack.call("POST", "/api/keys", Some(&json!({"name": "soak", "scopes": ["read"]}))).json();
        assert_eq!(stack.call("DELETE", &format!("/api/keys/{}", made["id"].as_str().unwrap()), None).status, 200);
    }
    deleted(stack, &format!("/api/agents/{name}"));
    if n % PACKAGE_EVERY == 1 {
        deleted(stack, &format!("/api/tools/tool-{worker}"));
    }
    deploys
}

fn failed(stack: &Stack, name: &str, source: &str, n: usize) {
    let files: Value = json!({"agent.py": format!("{source}# {n}\n")});
    let answer = stack.deploy(json!({"agent_name": name, "source_files": files}));
    assert!([400, 500].contains(&answer.status), "{} {}", answer.status, answer.text());
}

fn deleted(stack: &Stack, path: &str) {
    let answer = stack.call("DELETE", path, None);
    assert_eq!(answer.status, 200, "DELETE {path}: {}\n{}", answer.text(), log_of(&stack.dir));
}
