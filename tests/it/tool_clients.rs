//! Agents call a tool with common libraries: MCP, HTTP/2, WebSocket and the public SDK.

use crate::{
    prerequisites,
    python_server::{AUTHORITY, PythonServer},
    test_installation::{Stack, log_of},
};
use serde_json::json;
use std::{path::Path, process::Command};

const HOST: &str = "tool.example";
const KEY: &str = "sk-of-the-test-7c90";
const AGENT: &str = include_str!("tool_clients/agent.py");
const SERVER: &str = include_str!("tool_clients/server.py");
/// The packages of agent and server.
const PACKAGES: [&str; 3] = ["mcp==1.30.0", "uvicorn==0.54.0", "websockets==17.4"];

/// Installs the packages into `DIR/site`.
fn install(dir: &Path) {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(dir.join("site"));
    let installed = pip.args(PACKAGES).output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
}

#[test]
fn mcp_http2_websocket_and_the_sdk_reach_a_tool_with_its_key() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    install(dir.path());
    let tool = PythonServer::start(dir.path(), &[HOST], SERVER);
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_EGRESS_RESOLVE", json!([format!("{HOST}:443=127.0.0.1:{}", tool.port)]).to_string());
        command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.path().join(AUTHORITY));
    });
    let body = json!({
        "agent_name": "clients",
        "source_files": {"agent.py": AGENT},
        "tools_to_create": [{"name": "probe", "base_url": format!("https://{HOST}"), "auth_type": "APIKey"}],
        "required_tools": ["probe"],
        "requirements": format!("runagents==1.4.2\nhttpx[http2]\n{}", PACKAGES.join("\n")),
    });
    let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));
    let stored = stack.call("PUT", "/api/tools/probe/credentials", Some(&json!({"api_key": KEY})));
    assert_eq!(stored.status, 200, "{}", stored.text());

    let said = stack.answer("clients", "x");
    let key = format!("Bearer {KEY}");
    assert_eq!(said["mcp"], json!([["add", "key"], "5", key]), "{said}");
    assert_eq!(said["http2"], json!(["HTTP/2", {"got": {"by": "httpx"}, "key": key}]), "{said}");
    assert_eq!(said["websocket"], json!([key, "HELLO"]), "{said}");
    assert_eq!(said["call_tool"], json!({"got": {"by": "runagents"}, "key": key}), "{said}");

    let calls = stack.get("/api/agents/clients/calls");
    let websocket = calls.as_array().unwrap().iter().find(|call| call["path"] == "/ws");
    assert_eq!(websocket.unwrap()["status"], 101, "{calls}");
    assert!(stack.stop().success());
}
