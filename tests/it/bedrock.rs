//! An agent written for the OpenAI API calls a model of Amazon Bedrock: egress signs its calls and translates them.

use crate::{
    prerequisites,
    python_server::{AUTHORITY, PythonServer},
    test_installation::{Stack, log_of},
};
use serde_json::json;

const HOST: &str = "bedrock-runtime.eu-west-1.amazonaws.com";
const MODEL: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const AGENT: &str = include_str!("bedrock/agent.py");
const SERVER: &str = include_str!("bedrock/server.py");

#[test]
fn the_openai_package_reaches_a_model_of_bedrock_with_signed_requests() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bedrock = PythonServer::start(dir.path(), &[HOST], SERVER);
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_EGRESS_RESOLVE", json!([format!("{HOST}:443=127.0.0.1:{}", bedrock.port)]).to_string());
        command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.path().join(AUTHORITY));
    });
    let credentials = json!({
        "access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret/of+the=test", "session_token": "session-token",
        "region": "eu-west-1",
    });
    let body = json!({"name": "aws", "provider": "bedrock", "credentials": credentials});
    let registered = stack.call("POST", "/api/model-providers", Some(&body));
    assert!(registered.status < 300, "{}", registered.text());
    let body = json!({
        "agent_name": "on-bedrock",
        "source_files": {"agent.py": AGENT},
        "requirements": "openai==3.57.0",
        "llm_configs": [{"provider": "aws", "model": MODEL}],
    });
    let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));

    let said = stack.answer("on-bedrock", "hi");
    assert_eq!(said["whole"], json!(["bedrock heard hi", MODEL, 14, "chatcmpl-request-7"]), "{said}");
    assert_eq!((&said["stream"], &said["usage"]), (&json!("bedrock heard hi"), &json!(14)), "{said}");
    assert_eq!(said["tool"], json!(["tool_calls", "{\"city\":\"Paris\"}"]), "{said}");
    assert_eq!((&said["streamed_tool"], &said["after_tool"]), (&json!("{\"city\": \"Paris\"}"), &json!("after tool")));
    assert_eq!(said["throttled"], json!(["RateLimitError", 429, "ThrottlingException"]));
    assert_eq!(said["denied"], json!(["PermissionDeniedError", 403, "AccessDeniedException"]));
    assert_eq!(said["invalid"], json!(["BadRequestError", 400, "ValidationException"]));
    assert_eq!(said["broken_stream"], json!(["APIError", "modelStreamErrorException"]));

    let calls = stack.get("/api/agents/on-bedrock/calls");
    let paths: Vec<&str> = calls.as_array().unwrap().iter().filter_map(|call| call["path"].as_str()).collect();
    assert!(paths.contains(&"/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse-stream"), "{paths:?}");
    assert!(stack.stop().success());
}
