//! Builds of real projects, and the changes that cause a build.

use crate::test_installation::{Stack, log_of, says};
use serde_json::{Value, json};
use std::process::Command;

const FASTAPI: &str = r#"
import contextlib, os, subprocess
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.greeting = "Hello"
    yield

app = FastAPI(lifespan=lifespan)

class Message(BaseModel):
    message: str
    times: int = 1

@app.post("/invoke")
async def invoke(sent: Message):
    if sent.message == "fail":
        raise ValueError("inside FastAPI")
    version = subprocess.run(["normalizer", "--version"], capture_output=True, text=True).stdout
    return {"response": [app.state.greeting, sent.message] * sent.times, "command": version}

@app.get("/orders/{number}/")
def order(number: int, full: bool = False):
    return {"number": number, "full": full}

@app.put("/orders", status_code=201)
async def put(request: Request):
    return {"bytes": len(await request.body()), "credentials": sorted(set(request.headers) & {"authorization", "cookie"})}

@app.post("/invoke/stream")
def stream(sent: Message):
    return StreamingResponse((f"{word} " for word in ("one", "two", sent.message)), media_type="text/plain")
"#;

const PROJECT: &str = r#"
[project]
name = "greeter"
version = "1"
requires-python = ">=3.10"
dependencies = ["fastapi", "charset-normalizer ; python_version >= '3.0'"]
"#;

const FLASK: &str = r#"
from flask import Flask, redirect, request, url_for

app = Flask(__name__)

@app.get("/old")
def old():
    return redirect(url_for("new"))

@app.get("/new")
def new():
    return request.script_root + request.path

@app.post("/")
def root():
    return {"response": "Flask heard " + request.get_json()["message"]}
"#;

fn deployed(stack: &Stack, query: &str, body: &Value) -> Value {
    let answer = stack.call("POST", &format!("/api/deploy?timeout=600{query}"), Some(body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(&stack.dir));
    answer.json()
}

#[test]
fn web_applications_answer_without_a_server_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    deployed(
        &stack,
        "",
        &json!({"agent_name": "fast", "source_files": {"agent.py": FASTAPI, "pyproject.toml": PROJECT}}),
    );
    let invoke = |agent: &str, body: Value| stack.call("POST", &format!("/api/agents/{agent}/invoke"), Some(&body));
    let answer = invoke("fast", json!({"message": "you", "times": 2}));
    assert_eq!(answer.json()["response"], json!(["Hello", "you", "Hello", "you"]), "{}", answer.text());
    // A command of a package is on the path and finds its package.
    assert!(answer.json()["command"].as_str().unwrap().contains("Charset-Normalizer"), "{}", answer.text());
    let refused = invoke("fast", json!({"message": "x", "times": "many"}));
    assert_eq!((refused.status, refused.json()["code"].clone()), (400, json!("invalid_argument")));
    assert_eq!(refused.json()["error"], "the app answered POST /invoke with status 422");
    assert_eq!(invoke("fast", json!({"message": "fail"})).json()["error"], "ValueError: inside FastAPI");
    let stream = stack.call("POST", "/api/agents/fast/invoke/stream", Some(&json!({"message": "three"})));
    assert!(stream.text().contains("\"delta\": \"three \"") && stream.text().contains("[DONE]"), "{}", stream.text());

    let order = stack.call("GET", "/api/agents/fast/app/orders/7/?full=yes", None);
    assert_eq!((order.status, order.json()), (200, json!({"number": 7, "full": true})));
    let elsewhere = stack.call("GET", "/api/agents/fast/app/orders/7?full=yes", None);
    assert_eq!(elsewhere.header("location"), Some("/api/agents/fast/app/orders/7/?full=yes"), "{}", elsewhere.text());
    let sent = stack.call("PUT", "/api/agents/fast/app/orders", Some(&json!({"a": "b"})));
    assert_eq!((sent.status, sent.json()), (201, json!({"bytes": 9, "credentials": []})));
    let page = stack.call("GET", "/api/agents/fast/app/docs", None);
    assert!(page.text().contains("/api/agents/fast/app/openapi.json"), "{}", page.text());

    deployed(&stack, "", &json!({"agent_name": "flask", "source_files": {"agent.py": FLASK}, "requirements": "flask"}));
    assert_eq!(stack.answer("flask", "you"), "Flask heard you");
    let moved = stack.call("GET", "/api/agents/flask/app/old", None);
    assert_eq!((moved.status, moved.header("location")), (302, Some("/api/agents/flask/app/new")));
    assert_eq!(stack.call("GET", "/api/agents/flask/app/new", None).text(), "/api/agents/flask/app/new");
}

#[test]
fn a_project_that_cannot_be_read_is_refused_before_the_deploy_begins() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let with = |project: &str| {
        stack.deploy(
            json!({"agent_name": "p", "source_files": {"agent.py": "def run(): pass", "pyproject.toml": project}}),
        )
    };
    for (project, words) in [
        ("[project]\ndependencies = ['-r x']", "source_files[\"pyproject.toml\"] (project.dependencies[0]): "),
        ("[project]\ndynamic = ['dependencies']", "is dynamic"),
        ("[project", "is not TOML"),
    ] {
        let answer = with(project);
        assert_eq!((answer.status, answer.json()["code"].clone()), (400, json!("invalid_argument")), "{project}");
        assert!(answer.json()["error"].as_str().unwrap().contains(words), "{}", answer.text());
    }
    let answer = with("[project]\nrequires-python = '>=4'\ndependencies = []");
    assert_eq!((answer.status, answer.json()["code"].clone()), (500, json!("build_failed")), "{}", answer.text());
    assert!(answer.json()["error"].as_str().unwrap().contains("requires Python >=4"), "{}", answer.text());
    assert_eq!(stack.get("/api/agents"), json!([]));
}

#[test]
fn refresh_rebuilds_an_unchanged_agent() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let body = json!({"agent_name": "fresh", "source_files": says("hi")});
    let revisions = || stack.get("/api/agents/fresh/revisions").as_array().unwrap().len();
    let first = deployed(&stack, "", &body);
    assert_eq!(deployed(&stack, "&refresh=false", &body), first);
    assert_eq!(revisions(), 1, "nothing has changed");
    let refreshed = deployed(&stack, "&refresh=true", &body);
    assert_eq!(revisions(), 2);
    assert_eq!(deployed(&stack, "", &body), refreshed);
    assert_eq!(revisions(), 2, "the refreshed one is what the request asks for");
    let answer = stack.call("POST", "/api/deploy?refresh=maybe", Some(&body));
    assert_eq!(
        (answer.status, answer.json()["error"].clone()),
        (400, json!("refresh: \"maybe\" is not true or false"))
    );
    let image = json!({"agent_name": "fresh", "image": first["image_uri"]});
    let answer = deployed(&stack, "&refresh=true", &image);
    assert!(answer["warnings"][0].as_str().unwrap().starts_with("refresh is ignored"), "{answer}");
}

#[test]
fn an_upgraded_interpreter_or_hoistway_causes_a_build_from_stored_source() {
    // It is about files of SQLite.
    if hoistway_testing::uses_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = "import os, lib\ndef run(): return lib.TEXT + os.environ['WORD']\n";
    stack.deployed(json!({
        "agent_name": "kept",
        "source_files": {"agent.py": source, "lib.py": "TEXT = 'kept '\n"},
        "env": [{"name": "WORD", "value": "by its image"}],
    }));
    assert_eq!(stack.answer("kept", "x"), "kept by its image");
    let older = json!({"agent_name": "older", "source_files": says("the same"), "requirements": "six"});
    deployed(&stack, "", &older);
    stack.deployed(json!({"agent_name": "plain", "source_files": says("plain")}));
    for agent in ["halted", "returned"] {
        let body = json!({"agent_name": agent, "source_files": says("the first"), "requirements": "six"});
        deployed(&stack, "", &body);
    }
    assert_eq!(stack.call("POST", "/api/agents/halted/stop", None).status, 200);
    deployed(&stack, "", &json!({"agent_name": "returned", "source_files": says("the second")}));
    stack.stop();
    // Simulates one image built for a Python that is no longer installed, and one built by a version of Hoistway with
    // another image layout.
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db:\n\
                  \x20   db.execute(\"UPDATE revisions SET python = '3.9' WHERE agent = 'kept'\")\n\
                  \x20   db.execute(\"UPDATE revisions SET image_layout = NULL WHERE agent != 'kept'\")";
    let changed = Command::new("python3").args(["-c", script]).arg(dir.path().join("data/agent/agent.db")).status();
    assert!(changed.unwrap().success());

    let stack = Stack::start(dir.path());
    stack.wait_for_phase("kept", "Running");
    assert_eq!(stack.answer("kept", "x"), "kept by its image");
    stack.wait_for("/api/agents/older/revisions", "rebuilt", |revisions| revisions[0]["number"] == 2);
    assert_eq!(stack.answer("older", "x"), "the same");
    let plain = stack.get("/api/agents/plain/revisions");
    assert_eq!(plain.as_array().unwrap().len(), 1, "it has no packages: {plain}");
    for agent in ["kept", "older"] {
        let revisions = stack.get(&format!("/api/agents/{agent}/revisions"));
        assert_eq!((revisions[0]["reason"].clone(), revisions[0]["number"].clone()), (json!("rebuild"), json!(2)));
    }
    let halted = || stack.get("/api/agents/halted/revisions");
    assert_eq!(halted().as_array().unwrap().len(), 1, "what is stopped stays so: {}", halted());
    assert_eq!(stack.call("POST", "/api/agents/halted/start", None).status, 200);
    assert_eq!((halted()[0]["reason"].clone(), halted()[0]["number"].clone()), (json!("rebuild"), json!(2)));
    assert_eq!(stack.answer("halted", "x"), "the first");

    let rollback = stack.call("POST", "/api/agents/returned/rollback", Some(&json!({"revision": 1})));
    assert_eq!(rollback.status, 201, "{}", rollback.text());
    assert_eq!(stack.answer("returned", "x"), "the first");
    let deployment = stack.get("/api/deployments?agent=returned")[0]["id"].as_str().unwrap().to_owned();
    let steps = stack.get(&format!("/api/deployments/{deployment}"))["steps"].to_string();
    assert!(steps.contains("\"build\""), "what it goes back to has an older image, which is built again: {steps}");

    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("it is built again from its kept source"), "{log}");
    // The build that the user requests again already exists.
    stack.wait_for("/api/deployments", "ended", |all| {
        all.as_array().unwrap().iter().all(|deployment| deployment["status"] == "SUCCEEDED")
    });
}
