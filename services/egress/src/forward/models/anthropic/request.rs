//! A request for a chat completion as one for a message.

use crate::forward::models::chat_completions::{Block, ChatRequest, Role, Tool, ToolChoice, Turn, object};
use serde_json::{Map, Value, json};

/// The tokens of an answer whose request names no limit: the API insists on one, and every model takes this one.
const MAX_TOKENS: u64 = 4096;

/// The body of `POST /v1/messages`.
pub(super) fn message_request(model: &str, chat: ChatRequest) -> Value {
    let mut request = Map::new();
    let mut set = |name: &str, value: Value| drop(request.insert(name.to_owned(), value));
    set("model", model.into());
    set("max_tokens", chat.max_tokens.unwrap_or(MAX_TOKENS).into());
    if !chat.system.is_empty() {
        set("system", chat.system.into_iter().map(text).collect());
    }
    set("messages", chat.turns.into_iter().map(turn).collect());
    if !chat.tools.is_empty() {
        set("tools", chat.tools.into_iter().map(tool).collect());
        if let Some(choice) = tool_choice(chat.tool_choice, chat.one_tool) {
            set("tool_choice", choice);
        }
    }
    if !chat.stop.is_empty() {
        set("stop_sequences", chat.stop.into());
    }
    // The OpenAI API goes up to 2.
    if let Some(temperature) = chat.temperature {
        set("temperature", temperature.clamp(0.0, 1.0).into());
    }
    if let Some(top_p) = chat.top_p {
        set("top_p", top_p.into());
    }
    if let Some(user) = chat.user {
        set("metadata", json!({"user_id": user}));
    }
    if let Some(schema) = chat.schema {
        set("output_config", json!({"format": {"type": "json_schema", "schema": schema}}));
    }
    if chat.is_streamed {
        set("stream", true.into());
    }
    Value::Object(request)
}

fn text(text: String) -> Value {
    object([("type", "text".into()), ("text", text.into())])
}

fn turn(Turn { role, blocks }: Turn) -> Value {
    let role = match role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let content: Value = blocks.into_iter().map(block).collect();
    object([("role", role.into()), ("content", content)])
}

fn block(block: Block) -> Value {
    match block {
        Block::Text(said) => text(said),
        Block::Image { media_type, data, .. } => {
            let source = [("type", "base64".into()), ("media_type", media_type.into()), ("data", data.into())];
            object([("type", "image".into()), ("source", object(source))])
        }
        Block::ImageUrl { url, .. } => json!({"type": "image", "source": {"type": "url", "url": url}}),
        Block::ToolCall { id, name, input } => {
            object([("type", "tool_use".into()), ("id", id.into()), ("name", name.into()), ("input", input.into())])
        }
        Block::ToolResult { id, text } => {
            object([("type", "tool_result".into()), ("tool_use_id", id.into()), ("content", text.into())])
        }
    }
}

fn tool(Tool { name, description, schema }: Tool) -> Value {
    let mut tool = object([("name", name.into()), ("input_schema", schema)]);
    if let Some(description) = description {
        tool["description"] = description.into();
    }
    tool
}

fn tool_choice(choice: Option<ToolChoice>, one_tool: bool) -> Option<Value> {
    let mut value = match choice {
        None if !one_tool => return None,
        None | Some(ToolChoice::Auto) => json!({"type": "auto"}),
        Some(ToolChoice::Required) => json!({"type": "any"}),
        Some(ToolChoice::None) => return Some(json!({"type": "none"})),
        Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if one_tool {
        value["disable_parallel_tool_use"] = true.into();
    }
    Some(value)
}
