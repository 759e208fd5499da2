//! The released public Python SDK against a running installation.

use crate::{
    prerequisites,
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

const DRIVER: &str = include_str!("sdk/drive.py");

/// Installs the SDK into a directory of its own, from the machine's configured index.
fn install(into: &Path) {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    let done = pip.arg(into).arg("runagents==1.4.2").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Runs `script` with the SDK and returns the driver's result.
fn drive(stack: &Stack, sdk: &Path, script: &str) -> Value {
    let done = Command::new("python3")
        .args(["-c", script])
        .env("PYTHONPATH", sdk)
        // The user's own configuration is not read.
        .env("HOME", sdk)
        .env("RUNAGENTS_ENDPOINT", format!("http://{}", stack.at))
        .env("RUNAGENTS_API_KEY", &stack.key)
        .output()
        .unwrap();
    let failed = || format!("{}\n{}", String::from_utf8_lossy(&done.stderr), log_of(&stack.dir));
    assert!(done.status.success(), "{}", failed());
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", failed()))
}

#[test]
fn every_supported_method_works_unchanged() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sdk = dir.path().join("sdk");
    install(&sdk);
    let stack = Stack::start(dir.path());
    let mut seen = drive(&stack, &sdk, DRIVER);
    let mut take = |key: &str| seen[key].take();

    assert_eq!(take("starter_kit"), json!({"status": "ok", "message": "Starter kit resources created"}));
    assert_eq!(take("created"), "crm");
    assert_eq!(take("tools"), json!(["crm", "echo-tool"]));
    assert_eq!(take("crm"), json!(["crm", "Customers", "https://crm.example", "APIKey", "External", "Open", []]));
    assert!(take("echo").as_str().unwrap().starts_with("http://"));
    assert_eq!(take("models"), json!([["playground-llm", "openai", ["gpt-4o-mini"], "Ready", ""]]));
    assert_eq!(take("no_tool"), json!([404, "tool \"nobody\" not found"]));

    assert_eq!(take("applied"), json!(["sso", "agent-system", "agents.example.com", "https://id.example.com"]));
    assert_eq!(take("sso"), json!(["email", "https://id.example.com/keys", ["agents"], ["example.com"]]));
    assert_eq!(take("identity_providers"), json!(["other", "sso"]));
    assert_eq!(take("identity_provider_deleted"), json!({"status": "deleted"}));

    assert_eq!(take("deployed"), json!(["reader", "agent-system", [], true]));
    let echoed = json!({"reply": "hello", "message": "hello"});
    assert_eq!(take("answer"), json!(["You are terse.", "gpt-4o-mini", ["echo-tool"], echoed]));
    assert_eq!(take("agent"), json!(["reader", "agent-system", "Running", true, "You are terse.", true]));
    assert_eq!(take("agents"), json!(["reader"]));
    let models = json!([["chat", "openai", "gpt-4o-mini"]]);
    assert_eq!(take("config"), json!(["reader", "agent-system", "You are terse.", ["echo-tool"], models]));
    assert_eq!(take("changed"), json!(["You are kind.", ["echo-tool"], ["playground-llm"]]));
    assert_eq!(take("changed_answer"), json!(["You are kind.", "gpt-4o-mini"]));

    assert_eq!(take("guarded"), "guarded");
    assert_eq!(take("refused"), 401);
    assert_eq!(take("in_use"), json!([409, "identity provider \"sso\" is used by the agent \"guarded\""]));
    assert_eq!(take("unknown_provider"), 400);

    for (name, failure) in take("unsupported").as_object().unwrap() {
        let status = if name.starts_with("deploy_") || name.starts_with("config_") { 400 } else { 404 };
        let said = failure[1].as_str().unwrap();
        let says = said.contains("not supported") || (name == "deploy_draft" && said.contains("image or source_files"));
        assert!(failure[0] == status && says, "{name}: {failure}");
    }
    assert!(stack.stop().success());
}

#[test]
fn agents_follow_a_tool_to_its_new_address() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_open(dir.path());
    let tool = json!({"name": "crm", "base_url": "http://old.example"});
    assert_eq!(stack.call("POST", "/api/tools", Some(&tool)).status, 201);
    let source = "import os\ndef handler(message):\n    return os.environ['TOOL_URL_CRM']\n";
    let body = json!({"agent_name": "a", "source_files": {"agent.py": source}, "required_tools": ["crm"]});
    stack.deployed(body.clone());
    assert_eq!(stack.answer("a", "x"), "http://old.example");
    let moved = stack.call("PATCH", "/api/tools/crm", Some(&json!({"base_url": "http://new.example/v2"})));
    assert_eq!(moved.status, 200, "{}", moved.text());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while stack.answer("a", "x") != "http://new.example/v2" {
        assert!(std::time::Instant::now() < until, "{}", log_of(&stack.dir));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The revision is the one that a redeploy would make, so a redeploy is no change.
    let revision = stack.get("/api/agents/a")["status"]["revision"].clone();
    stack.deployed(body);
    assert_eq!(stack.get("/api/agents/a")["status"]["revision"], revision);
}
