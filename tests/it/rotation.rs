//! Rotation of the master key: a kill at any moment loses nothing, and no stored value seems changed.

use crate::{
    prerequisites,
    test_installation::{HOISTWAY, Stack, log_of},
};
use serde_json::{Value, json};
use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output},
};

fn rotate(dir: &Path) -> Command {
    let mut command = Command::new(HOISTWAY);
    command.args(["rotate-key", "--data-dir"]).arg(dir.join("data"));
    command
}

fn output_text(done: &Output) -> String {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn key_lines(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("data/master.key")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn body() -> Value {
    let source = "import os\ndef handler(message):\n    return os.environ['KEY']\n";
    json!({"agent_name": "keeper", "source_files": {"agent.py": source}, "env": [{"name": "KEY", "value": "kept-9d1f"}]})
}

/// Creates a data directory with a sealed secret in every persistent place.
fn installation_with_secrets(dir: &Path) -> Value {
    let stack = Stack::start(dir);
    let deployed = stack.deployed(body());
    let tool =
        json!({"name": "t", "base_url": "https://a.example", "auth_type": "APIKey", "credentials": {"api_key": "tk"}});
    assert_eq!(stack.call("POST", "/api/tools", Some(&tool)).status, 201);
    let model = json!({"name": "m", "provider": "openai", "api_key": "mk"});
    assert_eq!(stack.call("POST", "/api/model-providers", Some(&model)).status, 201);
    assert!(stack.stop().success());
    deployed
}

/// Checks that everything exists and can be read, and that the same deploy is no change.
fn check_intact(stack: &Stack, deployed: &Value) {
    stack.wait_for_phase("keeper", "Running");
    assert_eq!(stack.answer("keeper", "x"), "kept-9d1f");
    let revision = stack.get("/api/agents/keeper")["status"]["revision"].clone();
    assert_eq!(stack.deployed(body())["build_id"], deployed["build_id"]);
    assert_eq!(stack.get("/api/agents/keeper")["status"]["revision"], revision, "{}", log_of(&stack.dir));
    // Storing the same credential again is no change, another one is refused: stored credentials can be read.
    for (key, status) in [("tk", 200), ("other", 409)] {
        let tool = json!({"name": "t", "base_url": "https://a.example", "auth_type": "APIKey", "credentials": {"api_key": key}});
        assert_eq!(stack.call("POST", "/api/tools", Some(&tool)).status, status);
    }
    for (key, status) in [("mk", 200), ("other", 409)] {
        let model = json!({"name": "m", "provider": "openai", "api_key": key});
        assert_eq!(stack.call("POST", "/api/model-providers", Some(&model)).status, status);
    }
}

#[test]
fn a_rotation_completes_at_once_when_stopped_and_at_the_next_start_when_running() {
    let dir = tempfile::tempdir().unwrap();
    let deployed = installation_with_secrets(dir.path());
    let first = key_lines(dir.path());
    let text = output_text(&rotate(dir.path()).output().unwrap());
    if hoistway_testing::uses_postgres() {
        assert!(text.contains("everything in PostgreSQL anew when it starts next"), "{text}");
        check_intact(&Stack::start(dir.path()), &deployed);
        let second = key_lines(dir.path());
        assert!(second.len() == 2 && second[0] != first[0], "the old key is dropped");
        return;
    }
    assert!(text.contains("the old key is dropped"), "{text}");
    let second = key_lines(dir.path());
    assert!(second.len() == 2 && second[1].starts_with("fingerprints "), "a key, and the one of fingerprints");
    assert_ne!(second[0], first[0]);
    let stack = Stack::start(dir.path());
    check_intact(&stack, &deployed);

    assert!(output_text(&rotate(dir.path()).output().unwrap()).contains("Hoistway is running"));
    assert_eq!(key_lines(dir.path()).len(), 3);
    // The stack keeps using its old key, and is killed after storing secrets under it.
    let other = json!({"name": "later", "provider": "openai", "api_key": "lk"});
    assert_eq!(stack.call("POST", "/api/model-providers", Some(&other)).status, 201);
    stack.kill();
    let stack = Stack::start(dir.path());
    let third = key_lines(dir.path());
    assert!(third.len() == 2 && third[0] != second[0] && third[1] == second[1]);
    check_intact(&stack, &deployed);
    assert_eq!(stack.call("POST", "/api/model-providers", Some(&other)).status, 200);
    stack.stop();
    let stack = Stack::start(dir.path());
    check_intact(&stack, &deployed);

    let nothing =
        Command::new(HOISTWAY).args(["rotate-key", "--data-dir"]).arg(dir.path().join("no")).output().unwrap();
    assert!(
        !nothing.status.success() && String::from_utf8_lossy(&nothing.stderr).contains("there is no Hoistway data")
    );
}

#[test]
fn a_rotation_killed_before_any_of_its_writes_reaches_the_disk_loses_nothing() {
    // It is about files of SQLite.
    if hoistway_testing::uses_postgres() {
        return;
    }
    if !prerequisites::strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let deployed = installation_with_secrets(dir.path());
    let mut kills = 0;
    for place in ["", "tool-registry/tool-registry.db-wal", "agent/agent.db-wal", "gateway/gateway.db-wal"] {
        let data = dir.path().join("data");
        let at = if place.is_empty() { data } else { data.join(place) };
        // Each kill comes a little later, until the rotation completes.
        for nth in 1.. {
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-P"]);
            strace.arg(&at);
            strace.args(["-e", &format!("inject=fsync,fdatasync:signal=KILL:when={nth}"), HOISTWAY]);
            let done = strace.args(["rotate-key", "--data-dir"]).arg(dir.path().join("data")).output().unwrap();
            if done.status.success() {
                break;
            }
            assert_eq!(done.status.signal(), Some(9), "{}", String::from_utf8_lossy(&done.stderr));
            kills += 1;
            assert!(nth < 20, "it does not come to its end");
        }
        assert_eq!(key_lines(dir.path()).len(), 2, "the last one ended what the others had begun");
    }
    // Two writes of the key and at least one of each database with secrets in it.
    assert!(kills >= 6, "only {kills} moments");
    let left_over = std::fs::read_dir(dir.path().join("data")).unwrap();
    assert!(!left_over.flatten().any(|e| e.file_name().to_string_lossy().starts_with(".master.key")));
    let stack = Stack::start(dir.path());
    check_intact(&stack, &deployed);
}
