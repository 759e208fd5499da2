//! The OpenAPI document: the completeness of its operations, its examples, and the committed copy.

use crate::test_gateway::TestGateway;
use hoistway_testing::DocumentSchemas;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

async fn document(gateway: &TestGateway) -> Value {
    let answer = gateway.call_with("GET", "/openapi.json", "", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    answer.json()
}

/// Returns `METHOD PATH` and the operation, for all operations.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = document["paths"].as_object().unwrap().iter();
    let each = paths.flat_map(|(path, item)| {
        METHODS.into_iter().filter_map(move |method| Some((format!("{method} {path}"), item.get(method)?)))
    });
    each.collect()
}

/// Returns the value with its reference resolved.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref") {
        Some(to) => document.pointer(to.as_str().unwrap().trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn examples(content: &Value) -> Vec<&Value> {
    let named = content["examples"].as_object().into_iter().flatten();
    content.get("example").into_iter().chain(named.map(|(_, example)| &example["value"])).collect()
}

#[tokio::test]
async fn every_operation_is_described_in_full() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    assert_eq!(document["openapi"], "3.1.0");
    let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeMap::new();
    let mut wrong = Vec::new();
    for (at, operation) in operations(&document) {
        let mut must = |is: bool, what: &str| {
            if !is {
                wrong.push(format!("{at}: {what}"));
            }
        };
        let text = |key: &str| operation[key].as_str().unwrap_or_default();
        let summary = text("summary");
        must(!summary.is_empty() && !summary.contains('`') && summary.len() <= 60, "a summary in a few plain words");
        must(!summary.ends_with('.'), "a summary without a full stop");
        must(text("description").len() > 20, "a description");
        let id = text("operationId").to_owned();
        must(id.contains('_') || id == "deploy", &format!("an operation id that says what it is for, not {id:?}"));
        if let Some(other) = ids.insert(id, at.clone()) {
            must(false, &format!("an operation id of its own, not that of {other}"));
        }
        must(
            operation["tags"].as_array().is_some_and(|own| own.len() == 1 && tags.contains(&&own[0])),
            "one known tag",
        );
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let described = parameter["description"].as_str().is_some_and(|text| !text.is_empty());
            must(described && parameter["schema"].is_object(), &format!("parameter {}", parameter["name"]));
        }
        if let Some(body) = operation.get("requestBody") {
            let content = &body["content"]["application/json"];
            must(content["schema"].is_object(), "a schema of its JSON body");
            must(!examples(content).is_empty(), "an example of its body");
        }
        let answers = operation["responses"].as_object().unwrap();
        must(answers.keys().any(|status| status.starts_with('2')), "a good answer");
        for (status, answer) in answers {
            let answer = resolved(&document, answer);
            must(answer["description"].as_str().is_some_and(|text| !text.is_empty()), &format!("what {status} means"));
            must(answer["headers"]["X-Request-Id"].is_object(), &format!("the request's id in {status}"));
            let kinds = answer["content"].as_object();
            let shaped = kinds.is_some_and(|kinds| kinds.values().all(|content| content["schema"].is_object()));
            must(status == "204" || shaped, &format!("a schema of {status}"));
            if status.starts_with(['4', '5']) {
                let error = &answer["content"]["application/json"]["schema"]["$ref"];
                must(error == "#/components/schemas/Error", &format!("{status} in the shape of all errors"));
            }
        }
        let scopes = operation["security"].as_array().map_or(0, Vec::len);
        must(
            scopes == if at.contains(" /api/") || at.ends_with(" /metrics") { 2 } else { 0 },
            "the scope that its key must have",
        );
        must(operation["x-codeSamples"].as_array().is_some_and(|all| all.len() == 2), "samples");
    }
    assert!(wrong.is_empty(), "missing:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_member_of_every_schema_is_described() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    let mut wrong = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if !schema["description"].is_string() {
            wrong.push(name.clone());
        }
        for (key, member) in schema["properties"].as_object().into_iter().flatten() {
            let inside = member["oneOf"].as_array().into_iter().flatten();
            if !inside.chain([member]).any(|member| member["description"].is_string()) {
                wrong.push(format!("{name}.{key}"));
            }
        }
    }
    assert!(wrong.is_empty(), "no description: {wrong:?}");
}

#[tokio::test]
async fn examples_match_their_schemas() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    let mut schemas = DocumentSchemas::new(document.clone());
    let mut judged = 0;
    let escaped = |text: &str| text.replace('~', "~0").replace('/', "~1");
    for (at, operation) in operations(&document) {
        let (method, path) = at.split_once(' ').unwrap();
        let mut judge = |pointer: String, content: &Value| {
            for example in examples(content) {
                schemas.check(&format!("{pointer}/schema"), example);
                judged += 1;
            }
        };
        let base = format!("/paths/{}/{method}", escaped(path));
        for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            judge(format!("{base}/requestBody/content/{}", escaped(kind)), content);
        }
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let base = match answer.get("$ref") {
                Some(to) => to.as_str().unwrap().trim_start_matches('#').to_owned(),
                None => format!("{base}/responses/{status}"),
            };
            for (kind, content) in resolved(&document, answer)["content"].as_object().into_iter().flatten() {
                judge(format!("{base}/content/{}", escaped(kind)), content);
            }
        }
    }
    assert!(judged > 15, "only {judged} examples");
}

#[tokio::test]
async fn every_reference_resolves() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to} leads nowhere");
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

#[tokio::test]
async fn the_committed_document_is_the_served_one() {
    let gateway = TestGateway::start().await;
    let served = gateway.call_with("GET", "/openapi.json", "", &[]).await.text;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os("HOISTWAY_UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &served).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    // Not assert_eq, which would print both.
    assert!(kept == served, "docs/openapi.json is not what is served; scripts/update-openapi.sh makes it so");
}

#[tokio::test]
async fn the_docs_page_loads_only_its_own_files() {
    let gateway = TestGateway::start().await;
    let page = gateway.call_with("GET", "/docs", "", &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(!page.text.contains("://") && !page.text.contains("style="), "{}", page.text);
    let parts: Vec<_> = page.text.split(['"', '\'']).filter(|text| text.starts_with("docs/")).collect();
    assert!(parts.len() >= 3, "{parts:?}");
    for part in parts {
        let file = gateway.call_with("GET", &format!("/{part}"), "", &[]).await;
        assert_eq!((file.status, file.header("x-content-type-options")), (200, "nosniff"), "{part}");
        assert!(!file.text.contains("innerHTML") && !file.text.contains("@import"), "{part}");
    }
}

#[tokio::test]
async fn real_answers_match_the_schemas() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    let mut schemas = DocumentSchemas::new(document.clone());
    let deploy = &document["paths"]["/api/deploy"]["post"];
    for example in examples(&deploy["requestBody"]["content"]["application/json"]) {
        for query in ["wait=none", "wait=ready"] {
            let answer = gateway.post(&format!("/api/deploy?{query}&timeout=0"), example.clone()).await;
            let status = answer.status;
            assert!([201, 202].contains(&status), "{}", answer.text);
            let schema = format!("/paths/~1api~1deploy/post/responses/{status}/content/application~1json/schema");
            schemas.check(&schema, &answer.json());
            for header in ["location", "hoistway-deployment", "x-request-id"] {
                assert!(!answer.header(header).is_empty(), "{header}");
            }
        }
    }
    for (method, path, body) in
        [("POST", "/api/deploy", json!({})), ("GET", "/nowhere", json!({})), ("DELETE", "/api/deploy", json!({}))]
    {
        let answer = gateway.call(method, path, body.to_string()).await;
        schemas.check("/components/schemas/Error", &answer.json());
    }
}
