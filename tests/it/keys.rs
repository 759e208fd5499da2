//! Keys, the audit log and settings of the real stack.

use crate::{
    http,
    test_installation::{HOISTWAY, Stack, log_of, says, signal},
};
use serde_json::{Value, json};
use std::{process::Command, thread, time::Duration};

/// Returns action, target, outcome and code of each entry, newest first.
fn audit_entries(stack: &Stack, query: &str) -> Vec<String> {
    let entries = stack.get(&format!("/api/audit?{query}"));
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    let line = |e: &Value| ["action", "target", "outcome", "code"].map(|key| text(&e[key])).join(" ");
    entries.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn a_deploys_audit_entry_ends_with_the_deployment() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let made = stack.call("POST", "/api/keys", Some(&json!({"name": "ci", "scopes": ["deploy"]}))).json();
    let bearer = format!("Bearer {}", made["key"].as_str().unwrap());
    let deploy = |body: Value| {
        let headers = [("Authorization", bearer.as_str())];
        http::send(&stack.at, "POST", "/api/deploy", &headers, body.to_string().as_bytes()).unwrap()
    };
    let body =
        json!({"agent_name": "a", "source_files": says("one"), "env": [{"name": "X", "value": "not-to-be-seen"}]});
    for _ in 0..2 {
        assert_eq!(deploy(body.clone()).status, 201, "{}", log_of(dir.path()));
    }
    let broken = deploy(json!({"agent_name": "a", "source_files": {"agent.py": "def handler(:\n"}}));
    assert_eq!(broken.status, 500);
    assert_eq!(
        audit_entries(&stack, "agent=a"),
        ["agent.deploy a failure syntax_error", "agent.deploy a success -", "agent.deploy a success -"]
    );
    let entries = stack.get("/api/audit?agent=a");
    assert!(!entries.to_string().contains("not-to-be-seen"));
    for entry in entries.as_array().unwrap() {
        assert_eq!(entry["key"], json!({"id": made["id"], "name": "ci"}));
        let deployment = stack.get(&format!("/api/deployments/{}", entry["deployment"].as_str().unwrap()));
        assert_eq!(deployment["agent"], "a");
    }
    // The registry accepts the installation's key only.
    let push = |key: &str| {
        let headers = [("Authorization", key)];
        http::send(&stack.registry, "POST", "/v2/a/blobs/uploads/", &headers, b"").unwrap().status
    };
    assert_eq!((push(&bearer), push(&format!("Bearer {}", stack.key))), (401, 202));
}

#[test]
fn an_audit_entry_is_completed_after_a_kill_during_the_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let slow = "import time\ntime.sleep(2)\ndef handler(m): return m\n";
    let accepted = stack.call(
        "POST",
        "/api/deploy?wait=none",
        Some(&json!({"agent_name": "a", "source_files": {"agent.py": slow}})),
    );
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    signal(stack.pid(), "KILL");
    stack.kill();
    let stack = Stack::start(dir.path());
    stack.wait_for_phase("a", "Running");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while audit_entries(&stack, "agent=a") != ["agent.deploy a success -"] {
        assert!(std::time::Instant::now() < until, "{:?}\n{}", audit_entries(&stack, "agent=a"), log_of(dir.path()));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_outlive_a_kill_and_settings_come_from_file_and_variables() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hoistway.toml");
    std::fs::write(
        &file,
        "log_format = 'json'\n[gateway]\nmax_keys = 9\nrequests_per_second = 1\n[build]\nqueue = 3\n",
    )
    .unwrap();
    let start = || {
        Stack::start_with(dir.path(), |command| {
            command.arg("--config").arg(&file).env("HOISTWAY_GATEWAY_MAX_KEYS", "1").env("HOISTWAY_TEST_X", "1");
        })
    };
    let stack = start();
    let new = json!({"name": "k", "scopes": ["read"]});
    let made = stack.call("POST", "/api/keys", Some(&new)).json();
    let second = stack.call("POST", "/api/keys", Some(&new));
    assert_eq!(second.status, 409, "{}", second.text());
    assert!(second.text().contains("the limit (setting max_keys) is 1"), "{}", second.text());
    assert_eq!(second.header("ratelimit-policy"), Some("\"requests\";q=1000;w=1000"));
    assert!(log_of(dir.path()).lines().last().unwrap().starts_with('{'), "JSON lines");
    stack.kill();
    let stack = start();
    let bearer = format!("Bearer {}", made["key"].as_str().unwrap());
    let answer = http::send(&stack.at, "GET", "/api/agents", &[("Authorization", &bearer)], b"").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(
        audit_entries(&stack, "action=key."),
        ["key.create k failure conflict", &format!("key.create {} success -", made["id"].as_str().unwrap())]
    );
}

#[test]
fn misspelt_settings_fail_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("hoistway.toml");
    let up = |name: &str, value: &str, text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(HOISTWAY);
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).arg("--config").arg(&file);
        let out = command.env(name, value).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.lines().count()), (Some(64), 1), "{said}");
        said.trim_end().replace(&format!("{}: ", file.display()), "").replace("hoistway: ", "")
    };
    assert_eq!(
        up("HOISTWAY_DATADIR", "/x", ""),
        "HOISTWAY_DATADIR: no program reads this variable; did you mean HOISTWAY_DATA_DIR?"
    );
    assert!(
        up("HOISTWAY_GATEWAY_MAX_KEY", "1", "")
            .starts_with("HOISTWAY_GATEWAY_MAX_KEY: unknown key, did you mean max_keys?; known keys: ")
    );
    assert!(
        up("HOISTWAY_LOG", "info", "[build]\nqueues = 1")
            .starts_with("[build]: queues: unknown key, did you mean queue?")
    );
    assert_eq!(
        up("HOISTWAY_LOG", "info", "[gateway]\ndata_dir = '/x'"),
        "[gateway] data_dir: this program decides it itself"
    );
    assert!(up("HOISTWAY_LOG", "info", "listn = '/x'").starts_with("listn: unknown key, did you mean listen?"));
    assert!(!data.exists(), "nothing was made");
}
