//! An agent calls models with the public `openai` package: the playground first, and the real API once its key is
//! stored.

use crate::{
    cli::User,
    prerequisites,
    python_server::{AUTHORITY, PythonServer},
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};
use std::path::Path;

const HOST: &str = "api.openai.com";
const KEY: &str = "sk-of-the-test-51aa";
const OWN_KEY_AGENT: &str = include_str!("models/own_key_agent.py");
const AGENT: &str = include_str!("models/agent.py");
const SERVER: &str = include_str!("models/server.py");

/// Starts a stack, and a stand-in for the API of OpenAI.
fn start(dir: &Path) -> (Stack, PythonServer) {
    let provider = PythonServer::start(dir, &[HOST], SERVER);
    let stack = Stack::start_with(dir, |command| {
        command.env("HOISTWAY_EGRESS_RESOLVE", json!([format!("{HOST}:443=127.0.0.1:{}", provider.port)]).to_string());
        command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.join(AUTHORITY));
    });
    (stack, provider)
}

#[test]
fn the_openai_package_reaches_the_playground_and_the_real_api_once_its_key_is_stored() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (stack, _provider) = start(dir.path());
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    let body = json!({
        "agent_name": "models",
        "source_files": {"agent.py": AGENT},
        "requirements": "openai",
        "llm_configs": [
            {"provider": "openai", "model": "gpt-4o-mini"},
            {"role": "embedding", "provider": "playground-llm", "model": "gpt-4o-mini"},
        ],
    });
    let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));

    let said = stack.answer("models", "hello there");
    let text = said["sync"][0].as_str().unwrap_or_else(|| panic!("{said}"));
    assert!(text.contains("playground") && text.ends_with("hello there"), "{said}");
    assert_eq!(said["sync"][1], "hoistway-playground");
    assert_eq!((&said["stream"], &said["async"]), (&json!([text, true]), &json!([text, text])), "{said}");
    assert_eq!(said["responses"], text);
    assert_eq!(said["tool"], json!(["tool_calls", "get_weather"]));
    let arguments: Value = serde_json::from_str(said["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "get the weather"}));
    assert_eq!((&said["vectors"], &said["listed"]), (&json!([1536, 1536]), &json!(["gpt-4o-mini"])));
    assert_eq!((&said["wrong"][0], &said["wrong"][1]), (&json!("PermissionDeniedError"), &json!("model_not_allowed")));
    assert!(said["wrong"][2].as_str().unwrap().contains("only \"gpt-4o-mini\""), "{said}");
    assert_eq!(said["limited"], json!(null));

    let stored = stack.call("PUT", "/api/model-providers/playground-llm/credentials", Some(&json!({"api_key": KEY})));
    assert_eq!(stored.status, 200, "{}", stored.text());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    let said = loop {
        let said = stack.answer("models", "hello");
        if said["sync"][1] == "fp_real" || std::time::Instant::now() > until {
            break said;
        }
    };
    let text = format!("Bearer {KEY} hello");
    assert_eq!(said["sync"], json!([text, "fp_real"]), "{said}");
    assert_eq!((&said["stream"], &said["async"]), (&json!([text, true]), &json!([text, text])), "{said}");
    assert_eq!((&said["tool"], &said["vectors"]), (&json!(["tool_calls", "get_weather"]), &json!([2, 2])));
    assert_eq!(said["limited"][0], "RateLimitError", "{said}");
    assert_eq!((&said["limited"][1], &said["limited"][3]), (&json!("rate_limit_exceeded"), &json!("7")));
    assert_eq!(said["key"], "hoistway-placeholder");

    let calls = stack.get("/api/agents/models/calls");
    let calls = calls.as_array().unwrap();
    let real = calls.iter().find(|call| call["host"] == HOST).unwrap();
    assert_eq!(real["model_provider"], "playground-llm", "{real}");
    assert!(calls.iter().any(|call| call["refused"] == "model_not_allowed"), "{calls:?}");
    let logs = stack.call("GET", "/api/agents/models/logs?tail=50", None).text();
    assert!(logs.contains("may not call the model"), "{logs}");
    assert!(stack.stop().success());
}

#[test]
fn an_agent_with_a_key_of_its_own_reaches_that_provider_with_it_and_one_without_its_models() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (stack, _provider) = start(dir.path());
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    let deploy = |name: &str, env: Value| {
        let body = json!({
            "agent_name": name,
            "source_files": {"agent.py": OWN_KEY_AGENT},
            "requirements": "openai",
            "llm_configs": [{"provider": "playground-llm", "model": "gpt-4o-mini"}],
            "env": env,
        });
        let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
        assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));
    };
    deploy("own", json!([{"name": "OPENAI_API_KEY", "value": "sk-own-77e1"}]));
    let said = stack.answer("own", "hello");
    let with_own_key = json!({
        "whole": "Bearer sk-own-77e1 hello",
        "stream": "Bearer sk-own-77e1 hello",
        "direct": "Bearer sk-own-77e1 hi",
    });
    assert_eq!(said, with_own_key);
    deploy("without", json!([]));
    let said = stack.answer("without", "hello");
    for (call, text) in [("whole", "hello"), ("stream", "hello"), ("direct", "hi")] {
        let answer = said[call].as_str().unwrap_or_else(|| panic!("{said}"));
        assert!(answer.contains("playground") && answer.ends_with(text), "{call}: {said}");
    }
    // Records are stored after their calls have ended, in order: those of the other agent exist by now.
    let calls = stack.get("/api/agents/own/calls");
    assert!(calls.as_array().unwrap().iter().all(|call| call["host"] == HOST && call["status"] == 200), "{calls}");
    assert_eq!(calls.as_array().unwrap().len(), 3, "{calls}");
    assert!(stack.stop().success());
}

#[test]
fn a_model_provider_check_uses_the_stored_credential() {
    let dir = tempfile::tempdir().unwrap();
    let (stack, _provider) = start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let check = || stack.call("POST", "/api/model-providers/main/check", None).json();
    let body = json!({"name": "main", "provider": "openai", "models": ["gpt-4o-mini"]});
    assert_eq!(stack.call("POST", "/api/model-providers", Some(&body)).status, 201);
    let missing = "the model provider \"main\" has no key yet: PUT /api/model-providers/main/credentials stores one";
    let found = check();
    assert_eq!((&found["ok"], &found["checks"][2]["message"]), (&json!(false), &json!(missing)), "{found}");
    for (key, ok, status) in [("sk-wrong", false, 401), (KEY, true, 200)] {
        let stored = stack.call("PUT", "/api/model-providers/main/credentials", Some(&json!({ "api_key": key })));
        assert_eq!(stored.status, 200, "{}", stored.text());
        let found = check();
        assert_eq!((&found["ok"], &found["status"]), (&json!(ok), &json!(status)), "{found}");
        assert!(!found.to_string().contains(key), "{found}");
    }
    let shown = user.ok(&["model-providers", "check", "main"]);
    assert!(shown.contains("model       ok      it has \"gpt-4o-mini\""), "{shown}");
    assert!(user.ok(&["model-providers"]).contains("gpt-4o-mini"));
    let body = json!({"provider": "openai", "models": ["gpt-9"]});
    assert_eq!(stack.call("PUT", "/api/model-providers/main", Some(&body)).status, 200);
    let shown = user.fails(&["model-providers", "check", "main"], 1);
    assert!(shown.contains("model       failed  the model provider does not list \"gpt-9\""), "{shown}");
}
