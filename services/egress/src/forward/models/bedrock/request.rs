//! A request for a chat completion as one of the Converse API.

use crate::forward::models::chat_completions::{Block, ChatRequest, Invalid, Role, Tool, ToolChoice, Turn, object};
use serde_json::{Map, Value, json};

/// The body of `POST /model/ID/converse`, and of its streaming sibling.
pub(super) fn converse_request(mut chat: ChatRequest) -> Result<Value, Invalid> {
    let mut request = Map::new();
    let tools = tool_config(&mut chat)?;
    let inference = inference_config(&mut chat);
    let mut set = |name: &str, value: Value| drop(request.insert(name.to_owned(), value));
    if !chat.system.is_empty() {
        set("system", chat.system.into_iter().map(text).collect());
    }
    set("messages", chat.turns.into_iter().map(turn).collect::<Result<_, _>>()?);
    if !inference.is_empty() {
        set("inferenceConfig", inference.into());
    }
    if let Some(tools) = tools {
        set("toolConfig", tools);
    }
    if let Some(schema) = chat.schema {
        let structure = json!({"jsonSchema": {"name": "answer", "schema": schema.to_string()}});
        set("outputConfig", json!({"textFormat": {"type": "json_schema", "structure": structure}}));
    }
    Ok(Value::Object(request))
}

fn inference_config(chat: &mut ChatRequest) -> Map<String, Value> {
    let stop = std::mem::take(&mut chat.stop);
    let members = [
        ("maxTokens", chat.max_tokens.map(Value::from)),
        // The OpenAI API goes up to 2.
        ("temperature", chat.temperature.map(|temperature| temperature.clamp(0.0, 1.0).into())),
        ("topP", chat.top_p.map(Value::from)),
        ("stopSequences", (!stop.is_empty()).then(|| stop.into())),
    ];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The tools, unless the model is to call none. Where messages have calls the API wants to know the tools all the same.
fn tool_config(chat: &mut ChatRequest) -> Result<Option<Value>, Invalid> {
    if chat.tools.is_empty() {
        return Ok(None);
    }
    if chat.one_tool {
        return Err(Invalid::no_counterpart("parallel_tool_calls"));
    }
    let is_call = |block: &Block| matches!(block, Block::ToolCall { .. } | Block::ToolResult { .. });
    let has_calls = chat.turns.iter().flat_map(|turn| &turn.blocks).any(is_call);
    let choice = match chat.tool_choice.take() {
        Some(ToolChoice::None) if !has_calls => return Ok(None),
        None | Some(ToolChoice::None) => None,
        Some(ToolChoice::Auto) => Some(json!({"auto": {}})),
        Some(ToolChoice::Required) => Some(json!({"any": {}})),
        Some(ToolChoice::Named(name)) => Some(json!({"tool": {"name": name}})),
    };
    let tools: Value = std::mem::take(&mut chat.tools).into_iter().map(tool).collect();
    let mut config = object([("tools", tools)]);
    if let Some(choice) = choice {
        config["toolChoice"] = choice;
    }
    Ok(Some(config))
}

fn tool(Tool { name, description, schema }: Tool) -> Value {
    let mut spec = object([("name", name.into()), ("inputSchema", object([("json", schema)]))]);
    if let Some(description) = description {
        spec["description"] = description.into();
    }
    object([("toolSpec", spec)])
}

fn text(text: String) -> Value {
    object([("text", text.into())])
}

fn turn(Turn { role, blocks }: Turn) -> Result<Value, Invalid> {
    let role = match role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let content: Value = blocks.into_iter().map(block).collect::<Result<_, _>>()?;
    Ok(object([("role", role.into()), ("content", content)]))
}

fn block(block: Block) -> Result<Value, Invalid> {
    Ok(match block {
        Block::Text(said) => text(said),
        Block::Image { media_type, data, param } => {
            let format = match media_type.strip_prefix("image/") {
                Some(format @ ("png" | "jpeg" | "gif" | "webp")) => format,
                _ => return Err(Invalid::new(param, "must be a PNG, JPEG, GIF or WebP image")),
            };
            let source = object([("bytes", data.into())]);
            object([("image", object([("format", format.into()), ("source", source)]))])
        }
        Block::ImageUrl { param, .. } => {
            let text = "must be data:TYPE;base64,DATA: the provider of this model fetches no images";
            return Err(Invalid::new(param, text));
        }
        Block::ToolCall { id, name, input } => {
            let call = [("toolUseId", id.into()), ("name", name.into()), ("input", input.into())];
            object([("toolUse", object(call))])
        }
        Block::ToolResult { id, text: said } => {
            let content: Vec<Value> = (!said.trim().is_empty()).then(|| text(said)).into_iter().collect();
            object([("toolResult", object([("toolUseId", id.into()), ("content", content.into())]))])
        }
    })
}
