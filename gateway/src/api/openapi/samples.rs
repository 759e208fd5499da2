//! Runnable samples for every operation: made from its path, parameters and example, so that they are as accurate as
//! those.

use super::shared::ENDPOINT;
use serde_json::{Map, Value, json};

/// Returns samples of an operation in shell and in Python.
pub fn of(path: &str, method: &str, operation: &Map<String, Value>, keyed: bool) -> Value {
    let call = Call::new(path, method, operation, keyed);
    json!([
        {"lang": "Shell", "label": "curl", "source": call.curl()},
        {"lang": "Python", "label": "Python", "source": call.python()},
    ])
}

/// Returns the example value of a path parameter: the name of a resource in the other examples.
pub fn named(path: &str, parameter: &str) -> String {
    let before = path.split('/').zip(path.split('/').skip(1));
    let mut kinds = before.filter(|(_, segment)| segment.strip_prefix('{') == Some(&format!("{parameter}}}")));
    match kinds.next().map(|(kind, _)| kind) {
        Some("agents") => "hello",
        Some("tools") => "echo-tool",
        Some("model-providers") => "playground-llm",
        Some("identity-providers") => "company-sso",
        Some("builds") => "build-0c67cd1d8fc8",
        _ => "01a2092d-b570-76eb-887a-3ce8dec8c3e1",
    }
    .to_owned()
}

struct Call<'a> {
    method: &'a str,
    url: String,
    keyed: bool,
    body: Option<Value>,
    /// The content type of the successful answer.
    answer: String,
}

impl<'a> Call<'a> {
    fn new(path: &str, method: &'a str, operation: &Map<String, Value>, keyed: bool) -> Self {
        let mut url = path.to_owned();
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            let (name, example) = (&parameter["name"], &parameter["example"]);
            let (Some(name), false) = (name.as_str(), example.is_null()) else { continue };
            let example = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            if parameter["in"] == "path" {
                url = url.replace(&format!("{{{name}}}"), &example);
            } else if parameter["in"] == "query" {
                let joint = if url.contains('?') { '&' } else { '?' };
                url.push_str(&format!("{joint}{name}={example}"));
            }
        }
        let body = operation.get("requestBody").and_then(|body| example(&body["content"]["application/json"]));
        let good = operation.get("responses").and_then(Value::as_object).into_iter().flatten();
        let good = good.filter(|(status, _)| status.starts_with('2')).map(|(_, response)| &response["content"]);
        let kinds: Vec<&String> = good.filter_map(Value::as_object).flat_map(Map::keys).collect();
        // An answer that can be streamed is read as a stream, which works for all others too.
        let stream = kinds.iter().find(|kind| kind.as_str() == "text/event-stream");
        let answer = stream.or(kinds.first()).map(|kind| (*kind).clone()).unwrap_or_default();
        Self { method, url, keyed, body, answer }
    }

    fn curl(&self) -> String {
        let mut text = String::from("curl -sS");
        match (self.method, self.answer.as_str()) {
            ("get", "text/event-stream") => text.push('N'),
            ("get", _) => {}
            ("post", _) if self.body.is_some() => {}
            (method, _) => text.push_str(&format!(" -X {}", method.to_uppercase())),
        }
        text.push_str(&format!(" \"{ENDPOINT}{}\"", self.url));
        if self.keyed {
            text.push_str(" \\\n  -H \"Authorization: Bearer $RUNAGENTS_API_KEY\"");
        }
        if let Some(body) = &self.body {
            let json = format!("{body:#}").replace('\'', "'\\''");
            text.push_str(&format!(" \\\n  -H \"Content-Type: application/json\" \\\n  -d '{json}'"));
        }
        text
    }

    fn python(&self) -> String {
        let streamed = self.answer == "text/event-stream";
        let mut text =
            String::from(if self.keyed { "import os\n\nimport requests\n\n" } else { "import requests\n\n" });
        text.push_str(&format!("answer = requests.{}(\n    \"{ENDPOINT}{}\",\n", self.method, self.url));
        if self.keyed {
            text.push_str("    headers={\"Authorization\": \"Bearer \" + os.environ[\"RUNAGENTS_API_KEY\"]},\n");
        }
        if let Some(body) = &self.body {
            text.push_str("    json=");
            literal(body, 1, &mut text);
            text.push_str(",\n");
        }
        text.push_str(if streamed { "    stream=True,\n    timeout=(5, None),\n)\n" } else { "    timeout=60,\n)\n" });
        text.push_str("answer.raise_for_status()\n");
        text.push_str(match self.answer.as_str() {
            "application/json" => "print(answer.json())\n",
            "text/event-stream" => "for line in answer.iter_lines():\n    print(line.decode())\n",
            "application/octet-stream" => "with open(\"answer\", \"wb\") as file:\n    file.write(answer.content)\n",
            "" => "print(answer.status_code)\n",
            _ => "print(answer.text)\n",
        });
        text
    }
}

/// Returns the example of a content, or the first of several.
pub fn example(content: &Value) -> Option<Value> {
    let named = || content["examples"].as_object()?.values().find_map(|example| example.get("value"));
    let named = || named().or_else(|| content["examples"].as_object()?.values().find_map(|e| e.get("dataValue")));
    content.get("example").or_else(named).cloned()
}

/// Writes a value as a Python literal.
fn literal(value: &Value, depth: usize, text: &mut String) {
    let mut each = |open: char, close: char, items: &mut dyn Iterator<Item = (Option<&String>, &Value)>| {
        text.push(open);
        let mut empty = true;
        for (key, item) in items {
            empty = false;
            text.push('\n');
            text.push_str(&"    ".repeat(depth + 1));
            if let Some(key) = key {
                text.push_str(&format!("{}: ", Value::from(key.as_str())));
            }
            literal(item, depth + 1, text);
            text.push(',');
        }
        if !empty {
            text.push('\n');
            text.push_str(&"    ".repeat(depth));
        }
        text.push(close);
    };
    match value {
        Value::Object(members) => each('{', '}', &mut members.iter().map(|(key, item)| (Some(key), item))),
        Value::Array(items) => each('[', ']', &mut items.iter().map(|item| (None, item))),
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        // JSON's escapes in strings are valid in Python.
        Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn operation() -> Map<String, Value> {
        let operation = json!({
            "parameters": [
                {"name": "name", "in": "path", "example": "hello"},
                {"name": "tail", "in": "query", "example": 5},
                {"name": "since", "in": "query"},
            ],
            "requestBody": {"content": {"application/json": {"example": {"it's": [null, true, {"n": 1.5}, []]}}}},
            "responses": {"200": {"content": {"application/json": {}}}},
        });
        operation.as_object().unwrap().clone()
    }

    #[test]
    fn samples_have_parameters_and_body() {
        let samples = of("/api/agents/{name}/things", "put", &operation(), true);
        let curl = "curl -sS -X PUT \"http://localhost:8092/api/agents/hello/things?tail=5\" \\\n  \
            -H \"Authorization: Bearer $RUNAGENTS_API_KEY\" \\\n  -H \"Content-Type: application/json\" \\\n  \
            -d '{\n  \"it'\\''s\": [\n    null,\n    true,\n    {\n      \"n\": 1.5\n    },\n    []\n  ]\n}'";
        assert_eq!(samples[0]["source"], curl);
        let python = "import os\n\nimport requests\n\nanswer = requests.put(\n    \
            \"http://localhost:8092/api/agents/hello/things?tail=5\",\n    \
            headers={\"Authorization\": \"Bearer \" + os.environ[\"RUNAGENTS_API_KEY\"]},\n    json={\n        \
            \"it's\": [\n            None,\n            True,\n            {\n                \"n\": 1.5,\n            \
            },\n            [],\n        ],\n    },\n    timeout=60,\n)\nanswer.raise_for_status()\nprint(answer.json())\n";
        assert_eq!(samples[1]["source"], python);
    }

    #[test]
    fn parameters_of_paths_name_what_they_are_of() {
        assert_eq!(named("/api/agents/{name}/revisions/{id}", "name"), "hello");
        assert_eq!(named("/api/builds/{id}/logs", "id"), "build-0c67cd1d8fc8");
    }
}
