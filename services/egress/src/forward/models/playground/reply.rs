//! The playground's reply: a text, or the call of a tool.

use super::{text_of, words};
use serde_json::{Map, Value, json};

/// The part of a message that an answer repeats, in characters.
const REPEATED: usize = 200;
/// The depth to which a schema is filled.
const MAX_DEPTH: usize = 8;

/// A conversation, as far as the playground reads it.
pub(super) struct Conversation {
    /// The last message of the user.
    pub(super) user: String,
    /// The result of a tool, if that is what came last.
    pub(super) tool_result: Option<String>,
    /// Words of all messages.
    pub(super) tokens: usize,
}

/// A tool that the request offers.
pub(super) struct Tool<'a> {
    pub(super) name: &'a str,
    pub(super) parameters: &'a Value,
}

/// The playground's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Text(String),
    ToolCall { name: String, arguments: String },
}

impl Reply {
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Text(text) => words(text),
            Self::ToolCall { name, arguments } => words(name) + words(arguments),
        }
    }
}

impl Conversation {
    /// Reads messages with a role and a content, and the items of the Responses API.
    pub(super) fn read(messages: &[Value]) -> Self {
        let mut found = Self { user: String::new(), tool_result: None, tokens: 0 };
        for message in messages {
            let text = match &message["output"] {
                Value::Null => text_of(&message["content"]),
                output => text_of(output),
            };
            found.tokens += words(&text);
            let is_result = message["role"] == "tool" || message["type"] == "function_call_output";
            found.tool_result = is_result.then(|| text.clone());
            if message["role"] == "user" {
                found.user = text;
            }
        }
        found
    }

    /// Answers it. `choice` is the request's `tool_choice`, `format` its wanted format of the text.
    pub(super) fn reply(&self, tools: &[Tool<'_>], choice: &Value, format: &Value) -> Reply {
        if let Some(tool) = self.wanted_tool(tools, choice) {
            let arguments = fill(tool.parameters, &self.user, 0);
            let arguments = if arguments.is_object() { arguments } else { json!({}) };
            return Reply::ToolCall { name: tool.name.to_owned(), arguments: arguments.to_string() };
        }
        Reply::Text(match format["type"].as_str() {
            Some("json_schema") => {
                let nested = &format["json_schema"]["schema"];
                fill(if nested.is_null() { &format["schema"] } else { nested }, &self.user, 0).to_string()
            }
            Some("json_object") => json!({"answer": self.text()}).to_string(),
            _ => self.text(),
        })
    }

    fn text(&self) -> String {
        let (what, repeated) = match &self.tool_result {
            Some(result) => ("The tool answered", result),
            None => ("You said", &self.user),
        };
        let mut short: String = repeated.chars().take(REPEATED).collect();
        if short.len() < repeated.len() {
            short.push('…');
        }
        format!(
            "This is Hoistway's playground, not a model: it answers without a network until a key is stored for its \
             provider. {what}: {short}"
        )
    }

    /// The tool that the request insists on, or that the last message of the user asks for.
    fn wanted_tool<'a, 'b>(&self, tools: &'b [Tool<'a>], choice: &Value) -> Option<&'b Tool<'a>> {
        if *choice == "none" || self.tool_result.is_some() {
            return None;
        }
        let named = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str());
        if let Some(named) = named {
            return tools.iter().find(|tool| tool.name == named);
        }
        let asked = tools.iter().find(|tool| asks_for(&self.user, tool.name));
        asked.or_else(|| if *choice == "required" { tools.first() } else { None })
    }
}

/// Whether a message has the name of a tool in it, or all the words of that name.
fn asks_for(message: &str, name: &str) -> bool {
    let has = split(message);
    let words = split(name);
    !words.is_empty() && (message.contains(name) || words.iter().all(|word| has.contains(word)))
}

/// The words of a text in lower case; `get_weather` and `getWeather` have two.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in text.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && was_lower {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if let (true, Some(word)) = (c.is_alphanumeric(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A value of a JSON schema: the required members of objects, with the message as strings.
fn fill(schema: &Value, message: &str, depth: usize) -> Value {
    if let Some(options) = schema["enum"].as_array() {
        let is_named = |option: &&Value| option.as_str().is_some_and(|option| message.contains(option));
        return options.iter().find(is_named).or(options.first()).cloned().unwrap_or(Value::Null);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("string") => message.into(),
        Some("integer") => (within(schema, number(message).unwrap_or(0.0).trunc(), true) as i64).into(),
        Some("number") => within(schema, number(message).unwrap_or(0.0), false).into(),
        Some("boolean") => false.into(),
        Some("array") => json!([]),
        Some("null") => Value::Null,
        _ if depth >= MAX_DEPTH => json!({}),
        _ => {
            let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
            let member = |name: &Value| {
                let name = name.as_str()?;
                Some((name.to_owned(), fill(&schema["properties"][name], message, depth + 1)))
            };
            Value::Object(required.iter().filter_map(member).collect::<Map<_, _>>())
        }
    }
}

/// A number within the bounds of a schema: the one that is wanted, or else one at a bound.
fn within(schema: &Value, wanted: f64, is_whole: bool) -> f64 {
    let bound = |key: &str| schema[key].as_f64();
    let (low, high) = (bound("minimum"), bound("maximum"));
    let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
    let fits = |number: &f64| {
        low.is_none_or(|low| *number >= low)
            && high.is_none_or(|high| *number <= high)
            && above.is_none_or(|above| *number > above)
            && below.is_none_or(|below| *number < below)
    };
    let at_low = low.map(|low| if is_whole { low.ceil() } else { low });
    let at_high = high.map(|high| if is_whole { high.floor() } else { high });
    let next = [above.map(|above| above.floor() + 1.0), below.map(|below| below.ceil() - 1.0)];
    let middle = low.or(above).zip(high.or(below)).map(|(low, high)| f64::midpoint(low, high));
    let others = [at_low, at_high, next[0], next[1], middle.filter(|_| !is_whole)];
    // Bounds that leave nothing are no bounds.
    [Some(wanted)].into_iter().chain(others).flatten().find(fits).unwrap_or(wanted)
}

/// The first number in a text.
fn number(text: &str) -> Option<f64> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    let parts = text.split(|c: char| !is_part(c)).map(|part| part.trim_end_matches(['.', '-']));
    parts.filter(|part| part.chars().any(|c| c.is_ascii_digit())).find_map(|part| part.parse().ok())
}
