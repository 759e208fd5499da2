//! Scale to zero: agents that nobody invokes are stopped, and the next invoke starts them.

use crate::{
    containers, http,
    test_installation::{Stack, log_of, says},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::Path,
    thread,
    time::{Duration, Instant},
};

const HEADER: &str = "import json, os, time, uuid\nINSTANCE = uuid.uuid4().hex\n";

/// An agent that answers with its instance, and writes each message into its log.
fn tells() -> Value {
    let handler = "def handler(request, context):\n    os.write(1, f\"got {request['message']}\\n\".encode())\n    return {'response': INSTANCE}\n";
    json!({"agent.py": format!("{HEADER}{handler}")})
}

/// Starts an installation whose agents are stopped after a second without invokes.
fn idling(dir: &Path) -> Stack {
    idling_after(dir, "1")
}

fn idling_after(dir: &Path, seconds: &str) -> Stack {
    Stack::start_with(dir, |command| {
        command.env("HOISTWAY_AGENT_IDLE_SECONDS", seconds);
    })
}

impl Stack {
    fn wait_until_idle(&self, agent: &str) -> Value {
        let path = format!("/api/agents/{agent}");
        let shown = self.wait_for(&path, "idle", |shown| shown["status"]["idle"] == true);
        assert_eq!(shown["status"]["phase"], "Running", "{shown}");
        shown
    }

    /// The value of a metric's line, which begins with `name`.
    fn metric(&self, name: &str) -> f64 {
        let text = self.call("GET", "/metrics", None).text();
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn starts(&self) -> f64 {
        self.metric("hoistway_agent_wakes_total{outcome=\"ok\"}")
    }
}

#[test]
fn many_invokes_of_an_idle_agent_are_answered_by_one_start() {
    let dir = tempfile::tempdir().unwrap();
    let stack = idling_after(dir.path(), "4");
    stack.deployed(json!({"agent_name": "hello", "source_files": tells()}));
    let first = stack.answer("hello", "first");
    let shown = stack.wait_until_idle("hello");
    assert_eq!(shown["status"]["message"], "the agent is idle; the next invoke starts it");
    assert_eq!(stack.metric("hoistway_agents_idle"), 1.0);
    let starts = stack.starts();
    let answers: Vec<Value> = thread::scope(|scope| {
        let invokes: Vec<_> = (0..64)
            .map(|n| {
                scope.spawn({
                    let stack = &stack;
                    move || stack.answer("hello", &format!("m{n}-end"))
                })
            })
            .collect();
        invokes.into_iter().map(|invoke| invoke.join().unwrap()).collect()
    });
    let instances: BTreeSet<&str> = answers.iter().map(|answer| answer.as_str().unwrap()).collect();
    assert_eq!(instances.len(), 1, "{instances:?}");
    assert!(!instances.contains(first.as_str().unwrap()));
    // It is counted a moment after the answers.
    let until = Instant::now() + Duration::from_secs(10);
    while stack.starts() == starts && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(stack.starts() - starts, 1.0);
    let log = stack.call("GET", "/api/agents/hello/logs?tail=1000", None).text();
    for told in ["stopped: no invoke for 4 s; the next one starts the agent", "started for an invoke in "] {
        assert!(log.contains(told), "{told}: {log}");
    }
    for n in 0..64 {
        assert_eq!(log.matches(&format!("got m{n}-end")).count(), 1, "{log}");
    }
}

#[test]
fn invokes_that_race_with_the_stop_are_answered_once() {
    const AGENTS: usize = 4;
    const ROUNDS: u64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let stack = idling(dir.path());
    for agent in 0..AGENTS {
        stack.deployed(json!({"agent_name": format!("racer-{agent}"), "source_files": tells()}));
    }
    thread::scope(|scope| {
        for agent in 0..AGENTS {
            let stack = &stack;
            scope.spawn(move || {
                let name = format!("racer-{agent}");
                for round in 0..ROUNDS {
                    // From a little before to a little after the stop begins.
                    thread::sleep(Duration::from_millis(980 + round * 4 + u64::try_from(agent).unwrap()));
                    let id = |n| format!("r{round}-{n}-end");
                    thread::scope(|scope| {
                        for n in 0..3 {
                            let (name, id) = (&name, id(n));
                            scope.spawn(move || stack.answer(name, &id));
                        }
                    });
                }
                let log = stack.call("GET", &format!("/api/agents/{name}/logs?tail=10000"), None).text();
                for round in 0..ROUNDS {
                    for n in 0..3 {
                        assert_eq!(log.matches(&format!("got r{round}-{n}-end")).count(), 1, "r{round}-{n}: {log}");
                    }
                }
            });
        }
    });
    assert!(stack.starts() > 10.0, "{}", stack.starts());
    assert_eq!(stack.metric("hoistway_agent_wakes_total{outcome=\"failed\"}"), 0.0);
}

#[test]
fn an_open_stream_keeps_an_agent_running() {
    let dir = tempfile::tempdir().unwrap();
    let stack = idling(dir.path());
    let handler = "def handler(request, context):\n    def parts():\n        for n in range(8):\n            yield f'{n} {INSTANCE} '\n            time.sleep(0.5)\n    return parts()\n";
    stack.deployed(json!({"agent_name": "streams", "source_files": {"agent.py": format!("{HEADER}{handler}")}}));
    let key = format!("Bearer {}", stack.key);
    let headers = [("Authorization", key.as_str()), ("Content-Type", "application/json")];
    let mut stream =
        http::open(&stack.at, "POST", "/api/agents/streams/invoke/stream", &headers, br#"{"message": "x"}"#).unwrap();
    stream.text_until("1 ");
    let starts = stack.starts();
    stream.text_until("5 ");
    assert_eq!(stack.get("/api/agents/streams")["status"]["idle"], false, "{}", log_of(&stack.dir));
    let rest = String::from_utf8(stream.rest().unwrap()).unwrap();
    assert!(rest.contains("7 ") && rest.contains("done"), "{rest}");
    stack.wait_until_idle("streams");
    assert_eq!(stack.starts(), starts);
}

#[test]
fn an_idle_agent_outlives_a_power_cut_and_its_settings_end() {
    let dir = tempfile::tempdir().unwrap();
    let stack = idling(dir.path());
    stack.deployed(json!({"agent_name": "sleeper", "source_files": tells()}));
    let revision = stack.wait_until_idle("sleeper")["status"]["revision"].clone();
    stack.kill();
    let stack = idling(dir.path());
    let shown = stack.get("/api/agents/sleeper");
    assert_eq!((&shown["status"]["idle"], &shown["status"]["phase"]), (&json!(true), &json!("Running")));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let starts = log.matches("is ready after").count();
    assert_eq!(starts, 1, "an idle agent is not started with the installation: {log}");
    stack.answer("sleeper", "x");
    assert_eq!(stack.get("/api/agents/sleeper")["status"]["revision"], revision);
    stack.wait_until_idle("sleeper");
    assert!(stack.stop().success());
    let stack = Stack::start(dir.path());
    let running = |shown: &Value| shown["status"]["phase"] == "Running" && shown["status"]["idle"] == false;
    stack.wait_for("/api/agents/sleeper", "running", running);
    stack.answer("sleeper", "x");
}

#[test]
fn killed_at_any_moment_of_a_stop_or_a_start_it_answers_the_next_invoke() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = idling(dir.path());
    stack.deployed(json!({"agent_name": "cut", "source_files": tells()}));
    for cut in 0..8 {
        stack.answer("cut", "x");
        if cut % 2 == 0 {
            thread::sleep(Duration::from_millis(990 + cut * 4));
        } else {
            stack.wait_until_idle("cut");
            thread::scope(|scope| {
                scope.spawn(|| stack.try_call("POST", "/api/agents/cut/invoke", Some(&json!({"message": "x"}))));
                thread::sleep(Duration::from_millis(cut * 12));
                crate::test_installation::signal(stack.pid(), "KILL");
            });
        }
        stack.kill();
        stack = idling(dir.path());
        stack.wait_for_phase("cut", "Running");
    }
    stack.answer("cut", "x");
    crate::recovery::check_revisions(&stack.get("/api/agents/cut/revisions"));
}

#[test]
fn a_start_that_fails_says_why_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_AGENT_IDLE_SECONDS", "1");
        command.env("HOISTWAY_AGENT_WRITABLE", json!([shared]).to_string());
    });
    let source = format!(
        "{HEADER}if os.path.exists('{}/closed'):\n    print('the shop is closed', flush=True)\n    raise RuntimeError('too late')\ndef handler(m): return m\n",
        shared.display()
    );
    stack.deployed(json!({"agent_name": "shop", "source_files": {"agent.py": source}}));
    stack.wait_until_idle("shop");
    std::fs::write(shared.join("closed"), "").unwrap();
    let began = Instant::now();
    let refused = stack.invoke("shop", "x");
    let body = refused.json();
    assert_eq!((refused.status, body["code"].as_str()), (503, Some("unavailable")), "{body}");
    let error = body["error"].as_str().unwrap();
    assert!(
        error.starts_with("agent \"shop\" is not ready: the agent crashed (") && error.contains("too late"),
        "{error}"
    );
    assert!(body["details"].to_string().contains("too late"), "{body}");
    assert!(began.elapsed() < Duration::from_secs(30));
    let shown = stack.get("/api/agents/shop");
    assert_eq!((&shown["status"]["phase"], &shown["status"]["idle"]), (&json!("Failed"), &json!(false)), "{shown}");
    assert_eq!(stack.metric("hoistway_agent_wakes_total{outcome=\"failed\"}"), 1.0);
    stack.deployed(json!({"agent_name": "shop", "source_files": says("open")}));
    assert_eq!(stack.answer("shop", "x"), "open");
}

#[test]
fn an_idle_agent_is_redeployed_rolled_back_stopped_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let stack = idling(dir.path());
    let post = |path: &str| stack.call("POST", &format!("/api/agents/much{path}"), Some(&json!({})));
    stack.deployed(json!({"agent_name": "much", "source_files": says("one")}));
    stack.wait_until_idle("much");
    stack.deployed(json!({"agent_name": "much", "source_files": says("two")}));
    assert_eq!(stack.answer("much", "x"), "two");
    stack.wait_until_idle("much");
    // The same again changes nothing, and starts nothing.
    let starts = stack.starts();
    stack.deployed(json!({"agent_name": "much", "source_files": says("two")}));
    assert_eq!((stack.get("/api/agents/much")["status"]["idle"].clone(), stack.starts()), (json!(true), starts));
    assert_eq!(post("/rollback").status, 201);
    assert_eq!(stack.answer("much", "x"), "one");
    stack.wait_until_idle("much");
    assert_eq!(post("/stop").json()["status"]["phase"], "Stopped");
    assert_eq!(stack.invoke("much", "x").status, 503);
    assert_eq!(post("/start").json()["status"]["phase"], "Running");
    assert_eq!(stack.answer("much", "x"), "one");
    stack.wait_until_idle("much");
    assert_eq!(post("/restart").status, 200);
    stack.wait_until_idle("much");
    crate::recovery::check_revisions(&stack.get("/api/agents/much/revisions"));
    assert_eq!(stack.call("DELETE", "/api/agents/much", None).status, 200);
    assert_eq!(stack.invoke("much", "x").status, 404);
}

#[test]
fn a_container_of_an_idle_agent_is_removed_and_started_again() {
    if !containers::is_possible() {
        return;
    }
    let installation = containers::Installation::new();
    let start = || {
        Stack::start_with(installation.path(), |command| {
            command
                .args(containers::FLAGS)
                .args(["--python", "/usr/bin/python3"])
                .env("HOISTWAY_AGENT_IDLE_SECONDS", "3");
        })
    };
    let stack = start();
    installation.push_base(&stack);
    stack.deployed(json!({"agent_name": "hello", "source_files": tells()}));
    let first = stack.answer("hello", "first");
    stack.wait_until_idle("hello");
    stack.kill();
    let stack = start();
    assert_eq!(stack.get("/api/agents/hello")["status"]["idle"], true);
    let answers: Vec<Value> = thread::scope(|scope| {
        let invokes: Vec<_> = (0..16).map(|_| scope.spawn(|| stack.answer("hello", "x"))).collect();
        invokes.into_iter().map(|invoke| invoke.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0] && *answer != first), "{answers:?}");
    assert_eq!(stack.starts(), 1.0);
    stack.wait_until_idle("hello");
    assert_eq!(stack.answer("hello", "x").as_str().map(str::len), Some(32));
    assert_eq!(stack.call("DELETE", "/api/agents/hello", None).status, 200);
}
