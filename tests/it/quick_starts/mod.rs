//! Agents from the quick starts of well-known packages, and programs without any knowledge of this platform: each is
//! deployed unchanged through the API and from the command line, and answers.

use crate::{
    cli::User,
    http::{self, Answer},
    prerequisites,
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The beginning of each answer of the playground.
const PLAYGROUND: &str = "This is Hoistway's playground";

fn directory(agent: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/quick_starts").join(agent)
}

/// Returns the request that deploys an agent's directory.
fn request(agent: &str) -> Value {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory(agent)).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    }
    json!({
        "agent_name": agent.replace('_', "-"),
        "source_files": files,
        "llm_configs": [{"provider": "playground-llm", "model": "gpt-4o-mini"}],
    })
}

/// Deploys an agent through the API, and again from the command line; `check` receives the names of both.
fn deploy(stack: &Stack, user: &User<'_>, agent: &str, check: impl Fn(&str)) {
    let body = request(agent);
    let answer = stack.call("POST", "/api/deploy?timeout=900", Some(&body));
    assert_eq!(answer.status, 201, "{agent}: {}\n{}", answer.text(), log_of(&stack.dir));
    check(body["agent_name"].as_str().unwrap());
    let (path, name) = (directory(agent), format!("{}-cli", body["agent_name"].as_str().unwrap()));
    user.ok(&["deploy", path.to_str().unwrap(), "--name", &name, "--model", "playground-llm/gpt-4o-mini"]);
    check(&name);
}

/// Starts a stack with the playground's model.
fn with_playground(dir: &Path) -> Stack {
    let stack = Stack::start(dir);
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    stack
}

fn events(answer: &Answer) -> Vec<Value> {
    let data = |line: &str| line.strip_prefix("data: ").and_then(|data| serde_json::from_str(data).ok());
    answer.text().lines().filter_map(data).collect()
}

#[test]
fn agents_of_well_known_packages_run_unchanged() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = with_playground(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let asks_the_model = |name: &str| {
        let text = stack.answer(name, "say tea");
        let text = text.as_str().unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(text.starts_with(PLAYGROUND) && text.contains("say tea"), "{name}: {text}");
    };
    let streams_the_model = |name: &str| {
        let path = format!("/api/agents/{name}/invoke/stream");
        let events = events(&stack.call("POST", &path, Some(&json!({"message": "say tea"}))));
        let pieces: Vec<&str> = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert!(pieces.len() > 1 && pieces.concat().contains("say tea"), "{name}: {events:?}");
    };

    for agent in ["langgraph_sync", "langgraph_async", "openai_agents", "pydantic_ai"] {
        deploy(&stack, &user, agent, |name| {
            asks_the_model(name);
            streams_the_model(name);
        });
    }
    deploy(&stack, &user, "smolagents", |name| {
        assert!(stack.answer(name, "say tea").as_str().unwrap().contains("say tea"));
    });
    assert!(stack.stop().success());
}

#[test]
fn a_crew_runs_unchanged() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = with_playground(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    deploy(&stack, &user, "crewai", |name| {
        let body = json!({"message": "say tea", "topic": "tea"});
        let answer = stack.call("POST", &format!("/api/agents/{name}/invoke"), Some(&body));
        assert!(answer.status == 200 && answer.text().contains("tea"), "{}", answer.text());
    });
    assert!(stack.stop().success());
}

#[test]
fn web_applications_scripts_and_commands_run_unchanged() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = with_playground(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let app = |method: &str, name: &str, path: &str, body: Option<Value>| {
        let key = format!("Bearer {}", stack.key);
        let accept = "application/json, text/event-stream";
        let headers = [("Authorization", key.as_str()), ("Content-Type", "application/json"), ("Accept", accept)];
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        http::send(&stack.at, method, &format!("/api/agents/{name}/app/{path}"), &headers, body.as_bytes()).unwrap()
    };

    deploy(&stack, &user, "fastapi_sse", |name| {
        assert_eq!(stack.answer(name, "tea"), "TEA");
        assert_eq!(app("GET", name, "", None).json(), json!({"name": "chat"}));
        let chat = app("POST", name, "chat", Some(json!({"message": "say tea"})));
        let said: String = events(&chat).iter().filter_map(Value::as_str).collect();
        assert!(said.starts_with(PLAYGROUND) && chat.text().ends_with("data: [DONE]\n\n"), "{}", chat.text());
        assert_eq!(app("POST", name, "chat", Some(json!({}))).status, 422);
    });
    deploy(&stack, &user, "flask", |name| {
        assert_eq!(stack.answer(name, "tea"), "ordered tea");
        assert_eq!(app("GET", name, "orders/7?colour=red", None).json(), json!({"number": 7, "colour": "red"}));
        assert_eq!(app("GET", name, "orders/x", None).status, 404);
    });
    deploy(&stack, &user, "mcp_server", |name| {
        let call = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 2, "b": 3}},
        });
        let answer = app("POST", name, "mcp", Some(call));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(events(&answer)[0]["result"]["content"][0]["text"], "5", "{}", answer.text());
    });
    deploy(&stack, &user, "click_command", |name| {
        assert_eq!(stack.answer(name, "tea"), "Hello, tea!\nHello, tea!");
    });
    deploy(&stack, &user, "script", |name| {
        let table = stack.answer(name, "tea milk tea");
        assert!(table.as_str().unwrap().ends_with("milk          1\ntea           2"), "{table}");
    });
    deploy(&stack, &user, "dataclass_science", |name| {
        let path = format!("/api/agents/{name}/invoke");
        let body = json!({"values": [1, 2, 3, 4], "bins": "2"});
        let want = json!({"mean": 2.5, "quartiles": [1.75, 2.5, 3.25], "histogram": {"1.0": 2, "2.5": 2}});
        assert_eq!(stack.call("POST", &path, Some(&body)).json()["response"], want);
        let wrong = stack.call("POST", &path, Some(&json!({"values": "many"})));
        assert!(wrong.status == 400 && wrong.text().contains("values"), "{}", wrong.text());
    });
    assert!(stack.stop().success());
}

#[test]
fn an_agent_that_needs_a_runner_of_its_own_kit_is_refused_with_the_remedy() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = with_playground(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let answer = stack.call("POST", "/api/deploy?timeout=900", Some(&request("google_adk")));
    let error = answer.json();
    assert_eq!((answer.status, &error["code"]), (500, &json!("nothing_to_invoke")), "{error}");
    let said = user.fails(&["deploy", directory("google_adk").to_str().unwrap(), "--name", "adk"], 1);
    for text in [answer.text(), said] {
        assert!(text.contains("root_agent") && text.contains("InMemoryRunner"), "{text}");
    }
    assert!(stack.stop().success());
}
