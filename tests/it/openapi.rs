//! The OpenAPI document against the real stack: its examples work, and every readable resource matches its documented
//! schema.

use crate::{
    http::Answer,
    test_installation::{Stack, log_of},
};
use hoistway_testing::DocumentSchemas;
use serde_json::Value;
use std::collections::HashSet;

/// The OpenAPI document and its compiled schemas.
struct Document {
    whole: Value,
    schemas: DocumentSchemas,
}

impl Document {
    fn of(stack: &Stack) -> Self {
        let whole = without_undocumented_members(stack.get("/openapi.json"));
        let schemas = DocumentSchemas::new(whole.clone());
        Self { whole, schemas }
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        &self.whole["paths"][path][method]
    }

    /// Checks that the answer is one of those that the document describes for the operation.
    fn check_answer(&mut self, method: &str, path: &str, answer: &Answer) {
        let place = format!("/paths/{}/{method}/responses/{}", escaped(path), answer.status);
        let described = self.whole.pointer(&place).unwrap_or_else(|| panic!("{place} is missing: {}", answer.text()));
        let place = match described.get("$ref") {
            Some(to) => to.as_str().unwrap().trim_start_matches('#').to_owned(),
            None => place,
        };
        let described = self.whole.pointer(&place).unwrap();
        for (name, header) in described["headers"].as_object().into_iter().flatten() {
            let header = header
                .get("$ref")
                .map_or(header, |to| self.whole.pointer(to.as_str().unwrap().trim_start_matches('#')).unwrap());
            let needed = header["required"] == true;
            assert!(!needed || answer.header(name).is_some(), "{method} {path}: no header {name}");
        }
        let kind = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let kinds = described["content"].as_object();
        assert!(kinds.is_some_and(|kinds| kinds.contains_key(kind)), "{method} {path}: {kind:?} is not in {kinds:?}");
        if kind == "application/json" {
            self.schemas.check(&format!("{place}/content/{}/schema", escaped(kind)), &answer.json());
        }
    }
}

/// Returns the document with schemas that allow no undocumented members, so that none is forgotten. Schemas that are
/// parts of others stay open, and so does the agent's own answer.
fn without_undocumented_members(mut document: Value) -> Value {
    let (mut open, mut parts) = (vec![&document], HashSet::from(["InvokeAnswer".to_owned()]));
    while let Some(value) = open.pop() {
        let all = value.get("allOf").and_then(Value::as_array).into_iter().flatten();
        parts.extend(all.filter_map(|part| Some(part["$ref"].as_str()?.rsplit('/').next()?.to_owned())));
        open.extend(value.as_object().into_iter().flat_map(|members| members.values()));
        open.extend(value.as_array().into_iter().flatten());
    }
    for (name, schema) in document["components"]["schemas"].as_object_mut().unwrap() {
        if schema["properties"].is_object() && schema["additionalProperties"].is_null() && !parts.contains(name) {
            schema["additionalProperties"] = false.into();
        }
    }
    document
}

fn escaped(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}

/// Fills in the names of existing resources, found in the lists along the path.
fn with_existing_names(stack: &Stack, path: &str) -> Option<String> {
    let mut at = String::new();
    for segment in path.split('/').skip(1) {
        if !segment.starts_with('{') {
            at.push_str(&format!("/{segment}"));
            continue;
        }
        let list = stack.call("GET", &at, None).json();
        let first = list.as_array()?.first()?;
        let name = ["id", "name"].into_iter().find_map(|key| first.get(key))?;
        at.push_str(&format!("/{}", name.as_str().map_or_else(|| name.to_string(), str::to_owned)));
    }
    Some(at)
}

#[test]
fn answers_match_the_documented_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let mut document = Document::of(&stack);

    let seeded = stack.call("POST", "/api/starter-kit", None);
    document.check_answer("post", "/api/starter-kit", &seeded);
    let body = document.operation("post", "/api/deploy")["requestBody"]["content"]["application/json"].clone();
    let basic = body["examples"]["basic"]["value"].clone();
    for query in ["", "?wait=none", "?wait=built"] {
        let answer = stack.call("POST", &format!("/api/deploy{query}"), Some(&basic));
        assert!([201, 202].contains(&answer.status), "{}\n{}", answer.text(), log_of(dir.path()));
        document.check_answer("post", "/api/deploy", &answer);
    }
    let broken = stack.deploy(serde_json::json!({"agent_name": "hello", "source_files": {"agent.py": "def handler("}}));
    assert_eq!(broken.status, 500);
    document.check_answer("post", "/api/deploy", &broken);
    stack.wait_for_phase("hello", "Running");
    let example = document.operation("post", "/api/agents/{name}/invoke")["requestBody"]["content"]["application/json"]
        ["example"]
        .clone();
    let answer = stack.call("POST", "/api/agents/hello/invoke", Some(&example));
    assert_eq!(answer.status, 200, "{}", answer.text());
    document.check_answer("post", "/api/agents/{name}/invoke", &answer);

    let paths: Vec<String> = document.whole["paths"].as_object().unwrap().keys().cloned().collect();
    let mut read = HashSet::new();
    let gets: Vec<_> = paths.iter().filter(|path| document.operation("get", path).is_object()).collect();
    for path in gets {
        let streams = document.operation("get", path)["responses"]["200"]["content"]["text/event-stream"].is_object();
        let Some(at) = (!streams).then(|| with_existing_names(&stack, path)).flatten() else { continue };
        let parameters = document.operation("get", path)["parameters"].as_array().cloned().unwrap_or_default();
        let needed = parameters.iter().filter(|of| of["in"] == "query" && of["required"] == true);
        let query = needed.map(|of| format!("{}={}", of["name"].as_str().unwrap(), of["example"].as_str().unwrap()));
        let at = format!("{at}?{}", query.collect::<Vec<_>>().join("&"));
        let answer = stack.call("GET", &at, None);
        assert!(answer.status < 300, "GET {at}: {} {}", answer.status, answer.text());
        document.check_answer("get", path, &answer);
        read.insert(path.as_str());
    }
    for path in ["/api/agents", "/api/agents/{name}/logs", "/api/builds/{id}", "/api/deployments/{id}", "/readyz"] {
        assert!(read.contains(path), "{path} could not be read; read were {read:?}");
    }

    // The answer for an unknown name is documented as well.
    for path in paths.iter().filter(|path| path.contains("/{name}")) {
        for method in ["get", "delete"] {
            if document.operation(method, path).is_object() && !path.contains("{id}") {
                let answer = stack.call(&method.to_uppercase(), &path.replace("{name}", "nobody"), None);
                document.check_answer(method, path, &answer);
            }
        }
    }
}
