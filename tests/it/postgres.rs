//! An installation whose tables are in PostgreSQL, which goes away for a while and does not take every text.

use crate::test_installation::{Stack, log_of, says};
use hoistway_testing::{PostgresServer, postgres};
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const OUTAGE: Duration = Duration::from_secs(20);
const AGENTS: [&str; 3] = ["one", "two", "three"];

#[test]
fn a_server_that_is_away_for_twenty_seconds_loses_nothing() {
    let Some(server) = PostgresServer::start("outage", "") else { return };
    let dir = tempfile::tempdir().unwrap();
    let url = server.database(dir.path());
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--database-url", &url]);
    });
    for agent in ["steady"].iter().chain(&AGENTS) {
        stack.deployed(json!({"agent_name": agent, "source_files": says("v0")}));
    }

    let (back, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let deployed = thread::scope(|scope| {
        let (stack, back, end) = (&stack, &back, &end);
        let invoking = scope.spawn(move || {
            let mut answered = 0;
            while !end.load(Ordering::Relaxed) {
                assert_eq!(stack.answer("steady", "x"), "v0");
                answered += 1;
            }
            answered
        });
        // Each goes on until a deploy that began after the outage has succeeded.
        let deploying = AGENTS.map(|agent| {
            scope.spawn(move || {
                for version in 1.. {
                    let (is_back, text) = (back.load(Ordering::Relaxed), format!("v{version}"));
                    let answer = stack.deploy(json!({"agent_name": agent, "source_files": says(&text)}));
                    assert!(matches!(answer.status, 201 | 202 | 503), "{} {}", answer.status, answer.text());
                    if answer.status == 503 {
                        // As a client does that tries again.
                        thread::sleep(Duration::from_millis(200));
                    }
                    // One that is only built yet is answered with 201 too.
                    if answer.status == 201 && is_back && stack.answer(agent, "x") == text {
                        return text;
                    }
                }
                unreachable!()
            })
        });
        thread::sleep(Duration::from_secs(1));
        server.stop();
        let began = Instant::now();
        let not_ready = stack.call("GET", "/readyz", None);
        assert_eq!(not_ready.status, 503, "{}", not_ready.text());
        assert!(began.elapsed() < OUTAGE / 2, "a probe waits for nothing that long: {:?}", began.elapsed());
        thread::sleep(OUTAGE.saturating_sub(began.elapsed()));
        server.restart();
        back.store(true, Ordering::Relaxed);
        let deployed = deploying.map(|deploying| deploying.join());
        end.store(true, Ordering::Relaxed);
        assert!(invoking.join().unwrap() > 100);
        deployed.map(|deployed| deployed.unwrap())
    });

    let until = Instant::now() + Duration::from_secs(60);
    let unfinished = |status: &str| stack.get(&format!("/api/deployments?status={status}")).as_array().unwrap().len();
    while unfinished("RUNNING") + unfinished("PENDING") + unfinished("UNDOING") > 0 {
        assert!(Instant::now() < until, "{}\n{}", stack.get("/api/deployments"), log_of(&stack.dir));
        thread::sleep(Duration::from_millis(50));
    }
    stack.kill();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--database-url", &url]);
    });
    for (agent, deployed) in AGENTS.into_iter().zip(deployed) {
        stack.wait_for_phase(agent, "Running");
        assert_eq!(stack.answer(agent, "x"), deployed, "{}", log_of(&stack.dir));
    }
}

#[test]
fn texts_with_nul_characters_are_refused_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let Some(url) = postgres(dir.path()) else { return };
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--database-url", &url]);
    });
    // The agent's words are in the journal and in the audit log.
    let source = json!({"agent.py": "raise RuntimeError('zero \\0 in it')\ndef handler(message): return message\n"});
    let answer = stack.deploy(json!({"agent_name": "a", "source_files": source}));
    assert_eq!(answer.json()["code"], "agent_start_failed", "{}", answer.text());
    let failed = stack.get("/api/deployments?agent=a");
    assert_eq!(failed[0]["status"], "FAILED");
    assert!(failed[0].to_string().contains("zero \u{fffd} in it"), "{failed}");

    let tool = json!({"name": "t", "base_url": "https://a.example", "description": "zero \0"});
    let answer = stack.call("POST", "/api/tools", Some(&tool));
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("description: contains a NUL character")));
    for path in ["/api/audit?action=x%00", "/api/builds/x%00", "/api/usage?user=x%00"] {
        let answer = stack.call("GET", path, None);
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
}

/// Ten thousand of everything that is listed. Agents have no wanted revision; so they are looked at and not shown.
const MANY: &str = r#"
INSERT INTO gateway.deployments (id, agent, state, log, warnings, created_at, completed_at)
    SELECT '00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'), 'many-' || n % 100, 'SUCCEEDED', d.log, '[]', n, n
    FROM generate_series(1, 10000) n, (SELECT log FROM gateway.deployments LIMIT 1) d;
INSERT INTO gateway.audit (id, at, key_id, key_name, action, target, request_id, outcome)
    SELECT '00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'), n, 'k', 'k', 'tool.create', 'many-' || n % 100, 'r',
        'success' FROM generate_series(1, 10000) n;
INSERT INTO build.builds (attempt, public_id, agent, status, inputs, log, created_at, completed_at)
    SELECT '00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'), 'build-' || n, 'many-' || n % 100, 'FAILED', n, '', n, n
    FROM generate_series(1, 10000) n;
INSERT INTO tool_registry.tools (name, description, base_url, port, scheme, auth_type, labels, written_by_operation,
        created_at, updated_at)
    SELECT 'many-' || n, '', base_url, port, scheme, auth_type, labels, written_by_operation, 0, 0
    FROM generate_series(1, 9000) n, tool_registry.tools WHERE name = 'aaa';
INSERT INTO agent.agents (name, created_at, updated_at, last_number, stopped)
    SELECT 'many-' || n, 0, 0, 1, TRUE FROM generate_series(1, 10000) n;
INSERT INTO agent.revisions (id, agent, spec, token, phase, message, layers, created_at, number)
    SELECT '00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'), 'many-' || n % 100, '', '', 'retired', '', '[]', n, n
    FROM generate_series(1, 10000) n;
INSERT INTO egress.calls (at, agent, method, origin, path, first_byte_ms, duration_ms, bytes_up, bytes_down)
    SELECT n, 'many-' || n % 100, 'GET', 'https://a.example', '/', 0, 0, 0, 0 FROM generate_series(1, 10000) n;
ANALYZE;
"#;

#[test]
fn lists_find_their_page_by_an_index_among_ten_thousand_rows() {
    let plans = "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0";
    let Some(server) = PostgresServer::start("plans", plans) else { return };
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--database-url", &server.database(dir.path())]);
    });
    for agent in ["aaa", "aab"] {
        stack.deployed(json!({"agent_name": agent, "source_files": says("v")}));
    }
    let tool = json!({"name": "aaa", "base_url": "https://a.example"});
    assert_eq!(stack.call("POST", "/api/tools", Some(&tool)).status, 201);
    server.execute(dir.path(), MANY);

    for path in [
        "/api/agents?limit=1",
        "/api/agents/aaa/revisions",
        "/api/agents/aaa/calls",
        "/api/deployments?limit=20",
        "/api/deployments?agent=aaa",
        "/api/deployments?status=RUNNING",
        "/api/audit?limit=20",
        "/api/audit?target=aaa",
        "/api/audit?action=agent.deploy",
        "/api/builds?limit=20",
        "/api/builds?agent=aaa",
        "/api/tools?limit=20",
    ] {
        let before = server.log().len();
        stack.get(path);
        let log = server.log().split_off(before);
        let scan = log.lines().find(|line| line.contains("Seq Scan on"));
        assert!(log.contains("Query Text") && scan.is_none(), "{path}: {scan:?}\n{log}");
    }
}
