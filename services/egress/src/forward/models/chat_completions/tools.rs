//! The tools of a request.

use super::{Block, ChatRequest, Invalid, Tool, ToolChoice};
use serde_json::{Value, json};

/// Reads the tools, and whether the model is to call one, into a request whose messages were read.
pub(super) fn read(tools: Option<Value>, choice: Option<Value>, request: &mut ChatRequest) -> Result<(), Invalid> {
    request.tools = match tools {
        None => Vec::new(),
        Some(Value::Array(tools)) => tools.into_iter().enumerate().map(tool).collect::<Result<_, _>>()?,
        Some(_) => return Err(Invalid::new("tools", "must be a list")),
    };
    request.tool_choice = choice.map(|choice| tool_choice(&choice)).transpose()?;
    if request.tools.is_empty() {
        if matches!(request.tool_choice, Some(ToolChoice::Required | ToolChoice::Named(_))) {
            return Err(Invalid::new("tool_choice", "asks for a tool, and \"tools\" has none"));
        }
        // Other providers want to know the tools that earlier messages called, also where none is to be called now.
        request.tools = called(request);
        request.tool_choice = (!request.tools.is_empty()).then_some(ToolChoice::None);
    }
    Ok(())
}

fn tool((index, mut tool): (usize, Value)) -> Result<Tool, Invalid> {
    let path = format!("tools[{index}]");
    if tool["type"] != "function" {
        return Err(Invalid::new(format!("{path}.type"), "must be function: the provider of this model has no others"));
    }
    let mut take = |member: &str| tool.pointer_mut(&format!("/function/{member}")).map_or(Value::Null, Value::take);
    let wrong = |member: &str, what: &str| Err(Invalid::new(format!("{path}.function.{member}"), what));
    let Value::String(name) = take("name") else { return wrong("name", "must be a string") };
    let description = match take("description") {
        Value::Null => None,
        Value::String(text) => Some(text).filter(|text| !text.trim().is_empty()),
        _ => return wrong("description", "must be a string"),
    };
    let schema = match take("parameters") {
        Value::Null => json!({"type": "object", "properties": {}}),
        Value::Object(mut schema) => {
            schema.entry("type").or_insert_with(|| json!("object"));
            Value::Object(schema)
        }
        _ => return wrong("parameters", "must be an object"),
    };
    Ok(Tool { name, description, schema })
}

fn tool_choice(choice: &Value) -> Result<ToolChoice, Invalid> {
    match (choice.as_str(), choice["type"].as_str()) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (Some("none"), _) => Ok(ToolChoice::None),
        (_, Some("function")) => match choice.pointer("/function/name").and_then(Value::as_str) {
            Some(name) => Ok(ToolChoice::Named(name.to_owned())),
            None => Err(Invalid::new("tool_choice.function.name", "must be a string")),
        },
        _ => Err(Invalid::new("tool_choice", "must be auto, required, none or a function")),
    }
}

/// The tools that earlier messages called, each once, with any arguments.
fn called(request: &ChatRequest) -> Vec<Tool> {
    let mut tools: Vec<Tool> = Vec::new();
    for block in request.turns.iter().flat_map(|turn| &turn.blocks) {
        if let Block::ToolCall { name, .. } = block
            && tools.iter().all(|tool| tool.name != *name)
        {
            tools.push(Tool { name: name.clone(), description: None, schema: json!({"type": "object"}) });
        }
    }
    tools
}
