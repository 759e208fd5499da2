//! Small agents in the styles of other platforms, each with its expected answers: `cases/*.json`. All of them run in
//! one stack, several at a time, without the package index.

use crate::{http::Answer, test_installation::Stack};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

const FILES: [(&str, &str); 6] = [
    ("entry", include_str!("cases/entry.json")),
    ("parameters", include_str!("cases/parameters.json")),
    ("programs", include_str!("cases/programs.json")),
    ("requirements", include_str!("cases/requirements.json")),
    ("results", include_str!("cases/results.json")),
    ("surroundings", include_str!("cases/surroundings.json")),
];
/// The number of agents that are deployed and called at a time.
const AT_A_TIME: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    files: BTreeMap<String, Value>,
    /// Further fields of the request.
    #[serde(default)]
    request: Map<String, Value>,
    /// The expected answer of the deploy, if it is not a plain 201.
    deploy: Option<Deploy>,
    #[serde(default)]
    calls: Vec<Call>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    status: u16,
    code: Option<String>,
    /// Texts that the error or its details contain.
    #[serde(default)]
    contains: Vec<String>,
    /// Texts that the warnings contain.
    #[serde(default)]
    warns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    body: Value,
    status: Option<u16>,
    response: Option<Value>,
    #[serde(default)]
    contains: Vec<String>,
}

/// Describes the difference between an answer and the expected one, if there is one.
fn fault(what: &str, answer: &Answer, status: u16, contains: &[String]) -> Option<String> {
    let text = serde_json::from_str::<Value>(&answer.text()).map_or_else(|_| answer.text(), |value| plain_text(&value));
    let missing = contains.iter().find(|part| !text.contains(part.as_str()));
    let wrong = answer.status != status || missing.is_some();
    wrong.then(|| format!("{what}: wanted {status} with {contains:?}, got {} {text}", answer.status))
}

/// Returns an answer's texts without the quotes and escapes of JSON.
fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text}\n"),
        Value::Array(items) => items.iter().map(plain_text).collect(),
        Value::Object(members) => members.values().map(plain_text).collect(),
        other => format!("{other}\n"),
    }
}

fn run(stack: &Stack, name: &str, case: &Case) -> Option<String> {
    let mut body = case.request.clone();
    body.insert("agent_name".into(), json!(name));
    body.insert("source_files".into(), json!(case.files));
    let answer = stack.deploy(body.into());
    let (status, contains) =
        case.deploy.as_ref().map_or((201, [].as_slice()), |deploy| (deploy.status, &deploy.contains));
    if let Some(fault) = fault("deploy", &answer, status, contains) {
        return Some(fault);
    }
    if let Some(deploy) = &case.deploy {
        let told = answer.json();
        let warnings = plain_text(&told["warnings"]);
        let code = deploy.code.as_deref();
        if code.is_some_and(|code| told["code"] != code) || deploy.warns.iter().any(|part| !warnings.contains(part)) {
            return Some(format!("deploy: {told}"));
        }
    }
    case.calls.iter().find_map(|call| {
        let answer = stack.call("POST", &format!("/api/agents/{name}/invoke"), Some(&call.body));
        fault(&call.body.to_string(), &answer, call.status.unwrap_or(200), &call.contains).or_else(|| {
            let response = &answer.json()["response"];
            let wrong = call.response.as_ref().is_some_and(|wanted| wanted != response);
            wrong.then(|| format!("{}: wanted {:?}, got {response}", call.body, call.response))
        })
    })
}

#[test]
fn agents_written_elsewhere_run_unchanged_or_are_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let all: Vec<(String, Case)> = FILES
        .iter()
        .flat_map(|(topic, text)| {
            let cases: Vec<Case> = serde_json::from_str(text).unwrap_or_else(|e| panic!("{topic}: {e}"));
            cases.into_iter().enumerate().map(move |(i, case)| (format!("{topic}-{i}"), case))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut faults = Vec::new();
        while let Some((name, case)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            faults.extend(run(&stack, name, case).map(|fault| format!("{name}, {}: {fault}", case.about)));
        }
        faults
    };
    let faults: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(stack.stop().success());
}
