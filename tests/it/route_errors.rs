//! Errors that every route of the API has in common, over each operation of its document and with the real services.

use crate::{
    http::{self, Answer},
    test_installation::Stack,
};
use serde_json::json;

/// An operation of the document.
struct Operation {
    method: String,
    path: String,
    has_body: bool,
    needs_key: bool,
}

impl Operation {
    fn all(stack: &Stack) -> Vec<Self> {
        let document = stack.get("/openapi.json");
        let paths = document["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            item.as_object().unwrap().iter().filter(|(_, operation)| operation.get("responses").is_some()).map(
                |(method, operation)| Self {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    has_body: operation.get("requestBody").is_some(),
                    needs_key: operation["responses"].get("401").is_some(),
                },
            )
        });
        operations.collect()
    }

    /// Calls it for the resource of this name, or id.
    fn call(&self, stack: &Stack, name: &str, body: &str) -> Answer {
        let path = self.path.replace("{name}", name).replace("{id}", name).replace("{path}", "x");
        let key = format!("Bearer {}", stack.key);
        http::send(&stack.at, &self.method, &path, &[("Authorization", &key)], body.as_bytes()).unwrap()
    }

    fn is_of_a_resource(&self) -> bool {
        self.path.contains('{')
    }

    /// Whether it creates the resource that it names, so that the body is what may be wrong.
    fn creates(&self) -> bool {
        let created = ["/budget", "/identity-providers/{name}", "/model-providers/{name}"];
        self.method == "PUT" && created.iter().any(|end| self.path.ends_with(end))
    }
}

/// Checks status and code of an error, which has a text, and returns the text.
fn error(operation: &Operation, answer: &Answer, status: u16, code: &str) -> String {
    let (at, body) = (format!("{} {}", operation.method, operation.path), answer.json());
    assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{at}: {}", answer.text());
    body["error"].as_str().unwrap_or_else(|| panic!("{at}: {}", answer.text())).to_owned()
}

#[test]
fn every_route_has_the_same_answer_to_the_same_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let operations = Operation::all(&stack);
    assert!(operations.len() > 60, "{}", operations.len());
    a_resource_that_does_not_exist_is_404(&stack, &operations);
    a_body_that_is_not_an_object_is_400(&stack, &operations);
    a_request_without_a_key_is_401(&stack, &operations);
}

fn a_resource_that_does_not_exist_is_404(stack: &Stack, operations: &[Operation]) {
    for operation in operations.iter().filter(|operation| operation.is_of_a_resource()) {
        for (name, shown) in [("missing", "missing"), ("Not%20a%20Name", "Not a Name")] {
            let answer = operation.call(stack, name, if operation.has_body { "{}" } else { "" });
            match operation.creates() {
                true => _ = error(operation, &answer, 400, "invalid_argument"),
                false => {
                    let text = error(operation, &answer, 404, "not_found");
                    assert!(text.ends_with(" not found"), "{text}");
                    let named = operation.path.matches('{').count() == 1 || operation.path.ends_with("{path}");
                    assert!(!named || text.contains(&format!("\"{shown}\"")), "{}: {text}", operation.path);
                }
            }
        }
    }
}

fn a_body_that_is_not_an_object_is_400(stack: &Stack, operations: &[Operation]) {
    stack.deployed(json!({"agent_name": "a", "source_files": {"agent.py": "def handler(message):\n    return 1\n"}}));
    let tool = json!({"name": "a", "base_url": "https://api.example.com"});
    assert_eq!(stack.call("POST", "/api/tools", Some(&tool)).status, 201);
    let provider = json!({"provider": "openai", "endpoint": "https://models.example.com/v1", "models": ["m"]});
    let created = stack.call("PUT", "/api/model-providers/a", Some(&provider));
    assert!([200, 201].contains(&created.status), "{}", created.text());
    for operation in operations.iter().filter(|operation| operation.has_body && !operation.path.contains("/invoke")) {
        for (body, fault) in [("{\"a\": ", "the body is not valid JSON: "), ("[1]", "the body must be a JSON object, ")]
        {
            let text = error(operation, &operation.call(stack, "a", body), 400, "invalid_argument");
            assert!(text.starts_with(fault), "{} {}: {text}", operation.method, operation.path);
        }
    }
}

fn a_request_without_a_key_is_401(stack: &Stack, operations: &[Operation]) {
    for operation in operations.iter().filter(|operation| operation.needs_key) {
        let path = operation.path.replace("{name}", "a").replace("{id}", "a").replace("{path}", "x");
        let answer = http::send(&stack.at, &operation.method, &path, &[], b"").unwrap();
        error(operation, &answer, 401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate").map(|value| value.starts_with("Bearer")), Some(true), "{path}");
    }
}
