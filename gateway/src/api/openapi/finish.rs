//! Adds to every operation the parts that no handler should repeat: errors, headers, security, samples. Nothing that a
//! handler specifies itself is overwritten.

use super::{
    samples,
    shared::{self, Kind, STANDARD},
};
use crate::api::{json::has_value, permissions::permission};
use hoistway_model::limits::MAX_PAGE;
use http::Method;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// The HTTP methods of operations.
pub const METHODS: [&str; 6] = ["get", "put", "post", "delete", "patch", "head"];

/// Returns the whole document.
pub fn finish(described: OpenApi) -> Value {
    let mut document = serde_json::to_value(described).unwrap_or_default();
    merge(&mut document, shared::members());
    let mut components = shared::components();
    components["responses"] = shared::responses();
    merge(&mut document["components"], components);
    flatten(&mut document);
    require_a_source(&mut document["components"]["schemas"]["DeployRequest"]);
    document["components"]["schemas"]["InvokeAnswer"]["properties"]["response"] =
        json!({"description": "What the agent returned: any JSON."});
    if let Some(paths) = document["paths"].as_object_mut() {
        // A wildcard is described as an ordinary path variable.
        *paths = std::mem::take(paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
        for (path, item) in paths {
            let ids = METHODS.map(|method| item[method]["operationId"].clone());
            for method in METHODS {
                if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
                    // A handler of several methods becomes several operations.
                    if let Some(id) =
                        operation.get("operationId").filter(|id| ids.iter().filter(|i| i == id).count() > 1)
                    {
                        let id = format!("{method}_{}", id.as_str().unwrap_or_default());
                        operation.insert("operationId".into(), id.into());
                    }
                    complete(path, method, operation);
                }
            }
        }
    }
    document
}

/// Merges the members of `from` into `into`, whose own members win unless both are objects.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Merges the members of structs that only occur as parts of others into those others, where readers look for them.
fn flatten(document: &mut Value) {
    const PREFIX: &str = "#/components/schemas/";
    let Some(mut schemas) = document["components"]["schemas"].as_object().cloned() else { return };
    let parts_of = |schema: &Value| schema["allOf"].as_array().cloned().unwrap_or_default();
    let name_of = |part: &Value| part["$ref"].as_str().and_then(|path| path.strip_prefix(PREFIX)).map(str::to_owned);
    let parts: Vec<String> = schemas.values().flat_map(parts_of).filter_map(|part| name_of(&part)).collect();
    let text = document.to_string();
    let is_only_a_part = |name: &str| {
        let uses = text.matches(&format!("\"{PREFIX}{name}\"")).count();
        uses == parts.iter().filter(|part| *part == name).count()
    };
    let only_parts: Map<String, Value> =
        parts.iter().filter(|name| is_only_a_part(name)).filter_map(|name| schemas.remove_entry(name)).collect();
    for schema in schemas.values_mut() {
        let parts = parts_of(schema);
        if !parts.iter().filter_map(name_of).any(|name| only_parts.contains_key(&name)) {
            continue;
        }
        let (mut properties, mut required) = (json!({}), Vec::new());
        for part in &parts {
            let part = name_of(part).and_then(|name| only_parts.get(&name)).unwrap_or(part);
            merge(&mut properties, part["properties"].clone());
            required.extend(part["required"].as_array().into_iter().flatten().cloned());
        }
        let mut whole = json!({"type": "object", "properties": properties});
        for (name, value) in [("description", schema["description"].take()), ("required", required.into())] {
            if has_value(&value) {
                whole[name] = value;
            }
        }
        *schema = whole;
    }
    document["components"]["schemas"] = schemas.into();
}

/// Adds a rule that the struct cannot express: one of the two sources must be present.
fn require_a_source(schema: &mut Value) {
    let either = |source: &str, kind: Value| json!({"required": [source], "properties": {source: kind}});
    schema["anyOf"] = json!([
        either("source_files", json!({"type": "object", "minProperties": 1})),
        either("image", json!({"type": "string", "pattern": "\\S"})),
    ]);
}

fn complete(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let keyed = crate::api::auth::is_guarded(path);
    operation.insert("security".into(), security(path, method));
    name(operation);
    parameters(path, operation);
    let of = |place: &str| {
        let all = operation.get("parameters").and_then(Value::as_array);
        all.is_some_and(|all| all.iter().any(|parameter| parameter["in"] == place))
    };
    let names = of("path");
    let kind = Kind { keyed, names, parameters: names || of("query"), body: operation.contains_key("requestBody") };
    let pages = operation
        .get("parameters")
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|parameter| parameter["name"] == "before" || parameter["name"] == "after"));
    if let Some(responses) = operation.entry("responses").or_insert_with(|| json!({})).as_object_mut() {
        answers(responses, &kind, pages);
    }
    let samples = samples::of(path, method, operation, keyed);
    operation.insert("x-codeSamples".into(), samples);
}

/// Returns both ways to send a key, and the scope that the key must have. Other paths are open.
fn security(path: &str, method: &str) -> Value {
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
    let needed = crate::api::auth::is_guarded(path).then(|| permission(&method, Some(path))).flatten();
    needed.map_or_else(
        || json!([]),
        |needed| json!([{"bearer": [needed.scope.as_str()]}, {"key": [needed.scope.as_str()]}]),
    )
}

/// Makes an operation's id unique and suitable as a function's name: the tag is added to a bare verb (`list`, `get`).
fn name(operation: &mut Map<String, Value>) {
    let tag = operation.get("tags").and_then(|tags| tags[0].as_str()).unwrap_or_default().replace(' ', "_");
    let one = tag.strip_suffix('s').unwrap_or(&tag);
    let Some(id) = operation.get("operationId").and_then(Value::as_str) else { return };
    let id = match id {
        "list" => format!("list_{tag}"),
        "logs" => format!("get_{one}_logs"),
        "stream" => format!("invoke_{one}_stream"),
        verb if !verb.contains('_') && verb != "deploy" => format!("{verb}_{one}"),
        _ => return,
    };
    operation.insert("operationId".into(), id.into());
}

/// Adds the common properties of path and paging parameters.
fn parameters(path: &str, operation: &mut Map<String, Value>) {
    let Some(all) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { return };
    for parameter in all {
        let name = parameter["name"].as_str().unwrap_or_default().to_owned();
        if parameter["in"] == "path" && parameter.get("example").is_none() {
            parameter["example"] = samples::named(path, &name).into();
        }
        let text = match name.as_str() {
            "limit" => "The most entries of the answer",
            "after" => "Only entries whose names come after this one",
            "before" => "Only entries older than the one with this id; a page's last id gives the next page",
            _ => continue,
        };
        if parameter.get("description").is_none() {
            parameter["description"] = text.into();
        }
        if name == "limit" {
            (parameter["schema"]["minimum"], parameter["schema"]["maximum"]) = (1.into(), MAX_PAGE.into());
        }
    }
}

fn answers(responses: &mut Map<String, Value>, kind: &Kind, pages: bool) {
    for standard in STANDARD.iter().filter(|standard| (standard.meets)(kind)) {
        let reference = json!({"$ref": format!("#/components/responses/{}", standard.name)});
        responses.entry(standard.code.http_status().to_string()).or_insert(reference);
    }
    for (status, response) in responses.iter_mut() {
        let Some(response) = response.as_object_mut().filter(|response| !response.contains_key("$ref")) else {
            continue;
        };
        if status.starts_with(['4', '5']) {
            response.entry("content").or_insert_with(shared::error_content);
        }
        let headers = response.entry("headers").or_insert_with(|| json!({}));
        headers["X-Request-Id"] = json!({"$ref": "#/components/headers/RequestId"});
        let standard = STANDARD.iter().find(|standard| standard.code.http_status().to_string() == *status);
        if let Some((name, part)) = standard.and_then(|standard| standard.header) {
            headers[name] = json!({"$ref": format!("#/components/headers/{part}")});
        }
        if pages && status == "200" {
            headers["Link"] = json!({"$ref": "#/components/headers/NextPage"});
        }
    }
}
