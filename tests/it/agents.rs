//! Typical agents with real packages.

use crate::test_installation::{Stack, log_of, says};
use serde_json::json;
use std::time::{Duration, Instant};

const LANGGRAPH: &str = r#"
import openai, requests
from typing import TypedDict, Annotated
from langgraph.graph import StateGraph, START, END
from langgraph.graph.message import add_messages
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="gpt-4o-mini")
client = openai.OpenAI()

class State(TypedDict):
    messages: Annotated[list, add_messages]

def reply(state):
    return {"messages": [("ai", "graph heard: " + state["messages"][-1].content)]}

builder = StateGraph(State)
builder.add_node("reply", reply)
builder.add_edge(START, "reply")
builder.add_edge("reply", END)
graph = builder.compile()
"#;

#[test]
fn a_langgraph_agent_compiles_its_graph_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let body = json!({
        "agent_name": "graph",
        "source_files": {"agent.py": LANGGRAPH},
        "requirements": "openai\nlangchain-openai\nlanggraph\nrequests",
        "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}],
    });
    let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(&stack.dir));
    assert!(answer.json().get("warnings").is_none(), "{}", answer.text());
    assert_eq!(stack.answer("graph", "ping"), "graph heard: ping");
}

#[test]
fn the_runner_is_loaded_from_bytecode() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = r#"
import os, sys
def handler():
    runner = {name: module for name, module in sys.modules.items() if name.startswith("_hoistway_runner.")}
    return [len(runner) > 3, [name for name, module in runner.items() if not os.path.isfile(module.__cached__)]]
"#;
    let answer =
        stack.call("POST", "/api/deploy", Some(&json!({"agent_name": "own", "source_files": {"agent.py": source}})));
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(stack.answer("own", "x"), json!([true, []]));
}

#[test]
fn a_model_whose_provider_is_not_registered_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = r#"
import json, os, urllib.error, urllib.request
def handler(message):
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    request = urllib.request.Request(url, data=b"{}", headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as e:
        return {"response": [e.code, json.load(e)]}
"#;
    let llm = json!([{"provider": "openai", "model": "gpt-4o-mini"}]);
    stack.deployed(json!({"agent_name": "model", "source_files": {"agent.py": source}, "llm_configs": llm}));
    let answer = stack.answer("model", "x");
    assert_eq!(answer[0], 502);
    let text = answer[1]["error"]["message"].as_str().unwrap();
    assert!(text.contains("POST /api/model-providers") && text.contains("gpt-4o-mini"), "{text}");
}

#[test]
fn secrets_are_found_only_in_the_agent() {
    const SECRET: &str = "s3cr3t-of-the-test-9d1f";
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = "import os\nprint('my key is', os.environ['KEY'], flush=True)\ndef handler(message):\n    if message == 'raise':\n        raise ValueError(os.environ['KEY'])\n    return os.environ['KEY']\n";
    let body = json!({"agent_name": "masked", "source_files": {"agent.py": source},
        "env": [{"name": "KEY", "value": SECRET}]});
    let deployed = stack.deploy(body);
    assert_eq!(stack.answer("masked", "x"), SECRET);
    let raised = stack.invoke("masked", "raise");
    assert_eq!((raised.status, raised.json()["code"].as_str()), (500, Some("agent_error")));
    let logs = stack.call("GET", "/api/agents/masked/logs?tail=10", None).text();
    assert!(logs.contains("my key is ********"), "{logs}");
    let mut seen = vec![deployed.text(), raised.text(), logs];
    for path in ["/api/agents", "/api/agents/masked", "/api/deployments", "/api/builds"] {
        seen.push(stack.call("GET", path, None).text());
    }
    assert!(!seen.join("\n").contains(SECRET));
    // Nor is it in any file on disk, including the databases' logs.
    stack.stop();
    let found = std::process::Command::new("grep").args(["-rlaF", SECRET]).arg(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn logs_and_errors_stay_readable_around_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = r#"
import os
def handler(message):
    text = " ".join(os.environ[name] for name in message.split())
    print("values", text)
    raise ValueError(text)
"#;
    let env = json!([
        {"name": "MODEL", "value": "openai"},
        {"name": "BASE", "value": "/app"},
        {"name": "DATABASE", "value": "postgres://postgres:postgres@db/main"},
        {"name": "REF", "value": "9f8e7d6c5b4a39281706f5e4"},
        {"name": "ZONE", "value": "tiger", "secret": true},
        {"name": "PUBLIC_KEY", "value": "blue-seven", "secret": false},
    ]);
    stack.deployed(json!({"agent_name": "readable", "source_files": {"agent.py": source}, "env": env}));
    let raised = stack.invoke("readable", "MODEL BASE DATABASE REF ZONE PUBLIC_KEY").json();
    let shown = "openai /app postgres://postgres:********@db/main ******** ******** blue-seven";
    assert_eq!(raised["error"], format!("ValueError: {shown}"));
    let traceback = raised["details"].to_string();
    assert!(traceback.contains(r#"File \"/app/agent.py\", line 6, in handler"#), "{traceback}");
    let logs = stack.call("GET", "/api/agents/readable/logs?tail=20", None).text();
    assert!(logs.contains(&format!("values {shown}")), "{logs}");

    let agent = stack.get("/api/agents/readable");
    let value = |name: &str| {
        let env = agent["spec"]["env"].as_array().unwrap();
        env.iter().find(|var| var["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(["MODEL", "ZONE", "PUBLIC_KEY"].map(value), ["********", "********", "blue-seven"]);
}

#[test]
fn files_beside_the_source_are_kept_until_the_agent_ends() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = r#"
import logging, os, sqlite3
logging.basicConfig(filename="agent.log", level=logging.INFO)
db = sqlite3.connect(os.path.join(os.path.dirname(__file__), "memory.db"), check_same_thread=False)
db.execute("create table m(x)")
def handler(message):
    logging.info("asked %s", message)
    with db:
        db.execute("insert into m values(?)", (message,))
    return [db.execute("select count(*) from m").fetchone()[0], message in open("agent.log").read()]
"#;
    stack.deployed(json!({"agent_name": "keeper", "source_files": {"agent.py": source}}));
    assert_eq!(stack.answer("keeper", "one"), json!([1, true]));
    assert_eq!(stack.answer("keeper", "two"), json!([2, true]));
    assert_eq!(stack.call("POST", "/api/agents/keeper/restart", None).status, 200);
    assert_eq!(stack.answer("keeper", "three"), json!([1, true]));
}

#[test]
fn programs_beside_the_source_are_started_by_their_first_lines() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = r#"
import os, subprocess
def handler(message):
    run = lambda *command: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return [run("./tool.py", message), run("bin/greet", message), os.access("words.py", os.X_OK)]
"#;
    let files = json!({
        "agent.py": source,
        "words.py": "TEA = 'tea'\n",
        "tool.py": "#!/usr/bin/env python3\nimport sys, words\nprint(words.TEA, sys.argv[1])\n",
        "bin/greet": "#!/bin/sh\necho \"hello $1\"\n",
    });
    stack.deployed(json!({"agent_name": "starter", "source_files": files}));
    assert_eq!(stack.answer("starter", "you"), json!(["tea you", "hello you", false]));
    assert_eq!(stack.call("POST", "/api/agents/starter/restart", None).status, 200);
    assert_eq!(stack.answer("starter", "again"), json!(["tea again", "hello again", false]));
}

#[test]
fn a_crash_is_reported_and_the_agent_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source =
        "import os\ndef handler(message):\n    if message == 'die':\n        os._exit(7)\n    return 'alive'\n";
    stack.deployed(json!({"agent_name": "mortal", "source_files": {"agent.py": source}}));
    let died = stack.invoke("mortal", "die");
    assert_eq!((died.status, died.json()["code"].as_str()), (502, Some("agent_crashed")), "{}", died.text());
    // Until it runs again, callers receive an error.
    let until = Instant::now() + Duration::from_secs(60);
    let again = loop {
        let seen = stack.invoke("mortal", "x");
        if seen.status != 503 {
            break seen;
        }
        assert!(seen.header("retry-after").is_some() && Instant::now() < until, "{}", seen.text());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((again.status, &again.json()["response"]), (200, &json!("alive")), "{}", again.text());
    let other = stack.deployed(json!({"agent_name": "other", "source_files": says("fine")}));
    assert_eq!(other["agent"], "other");
}

/// Enough deploys that they wait for each other in every queue.
const AT_ONCE: usize = 64;

#[test]
fn sixty_four_deploys_at_once_all_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    std::thread::scope(|scope| {
        for n in 0..AT_ONCE {
            let stack = &stack;
            scope.spawn(move || {
                let name = format!("agent-{n}");
                let body = json!({"agent_name": name, "source_files": says(&format!("this is {n}"))});
                let answer = stack.call("POST", "/api/deploy?timeout=300", Some(&body));
                assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(&stack.dir));
                stack.wait_for_phase(&name, "Running");
                assert_eq!(stack.answer(&name, "x"), format!("this is {n}"));
            });
        }
    });
    let agents = stack.get("/api/agents");
    assert_eq!(agents.as_array().unwrap().len(), AT_ONCE);
    let deployments = stack.get("/api/deployments?status=SUCCEEDED&limit=1000");
    assert_eq!(deployments.as_array().unwrap().len(), AT_ONCE);
}
