//! The prompt of a request, as OpenTelemetry's conventions write it (`gen_ai.input.messages`). It is exported only
//! where the operator has turned that on.

use serde_json::{Value, json};

/// Prompts of larger requests are not exported, in bytes.
const MAX_BODY: usize = 256 << 10;

/// The messages of a request's body, as JSON.
pub(super) fn input_messages(body: &[u8]) -> Option<String> {
    if body.len() > MAX_BODY {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let system = body.get("system").or_else(|| body.get("instructions")).map(|text| message("system", text));
    let asked = match ["messages", "input", "prompt"].iter().find_map(|name| body.get(name))? {
        // Texts to be embedded are a list of strings.
        Value::Array(all) => all.iter().map(|each| message(role(each), each.get("content").unwrap_or(each))).collect(),
        text => vec![message("user", text)],
    };
    Some(Value::from_iter(system.into_iter().chain(asked)).to_string())
}

fn role(message: &Value) -> &str {
    message["role"].as_str().unwrap_or("user")
}

fn message(role: &str, content: &Value) -> Value {
    let parts: Vec<Value> = match content {
        Value::Array(parts) => parts.iter().map(part).collect(),
        Value::Null => Vec::new(),
        whole => vec![part(whole)],
    };
    json!({"role": role, "parts": parts})
}

/// Texts are shown, of everything else its kind.
fn part(part: &Value) -> Value {
    match part.as_str().or_else(|| part["text"].as_str()) {
        Some(text) => json!({"type": "text", "content": text}),
        None => json!({"type": part["type"].as_str().unwrap_or("other")}),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_prompts_of_all_apis_have_one_shape() {
        let text = |role: &str, text: &str| json!({"role": role, "parts": [{"type": "text", "content": text}]});
        let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}});
        for (body, expected) in [
            (
                json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}),
                json!([text("system", "s"), text("user", "u")]),
            ),
            (
                json!({"system": "s", "messages": [{"role": "user", "content": [{"type": "text", "text": "u"}, image]}]}),
                json!([
                    text("system", "s"),
                    {"role": "user", "parts": [{"type": "text", "content": "u"}, {"type": "image_url"}]},
                ]),
            ),
            (json!({"instructions": "s", "input": "u"}), json!([text("system", "s"), text("user", "u")])),
            (json!({"input": ["a", "b"]}), json!([text("user", "a"), text("user", "b")])),
            (
                json!({"messages": [{"role": "assistant", "content": null}]}),
                json!([{"role": "assistant", "parts": []}]),
            ),
        ] {
            let shown: Value = serde_json::from_str(&input_messages(body.to_string().as_bytes()).unwrap()).unwrap();
            assert_eq!(shown, expected, "{body}");
        }
        assert_eq!(input_messages(b"{}"), None);
        assert_eq!(input_messages(b"no JSON"), None);
    }
}
