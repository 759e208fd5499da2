//! The messages of a request: three kinds of speakers become two sides that take turns.

use super::{Block, ChatRequest, Invalid, Role, Turn};
use serde_json::{Map, Value};

const WRONG_CONTENT: &str = "must be a string or a list of parts";

/// Reads the messages into a request.
pub(super) fn read(messages: Option<Value>, request: &mut ChatRequest) -> Result<(), Invalid> {
    let Some(Value::Array(messages)) = messages else {
        return Err(Invalid::new("messages", "must be a list of messages"));
    };
    for (index, message) in messages.into_iter().enumerate() {
        let path = format!("messages[{index}]");
        let Value::Object(mut message) = message else { return Err(Invalid::new(path, "must be an object")) };
        message.retain(|_, value| !value.is_null());
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => request.system.extend(texts(message.remove("content"), &path)?),
            Some("user") => {
                let blocks = parts(message.remove("content"), &path)?;
                if blocks.is_empty() {
                    return Err(Invalid::new(format!("{path}.content"), "must not be empty"));
                }
                push_blocks(&mut request.turns, Role::User, blocks);
            }
            Some("assistant") => push_blocks(&mut request.turns, Role::Assistant, assistant(message, &path)?),
            // A tool's result is for the model, so it is on the user's side.
            Some("tool") => push_blocks(&mut request.turns, Role::User, vec![tool_result(message, &path)?]),
            _ => {
                let text = "must be system, developer, user, assistant or tool";
                return Err(Invalid::new(format!("{path}.role"), text));
            }
        }
    }
    match request.turns.is_empty() {
        true => Err(Invalid::new("messages", "must have a message of a user")),
        false => Ok(()),
    }
}

/// Adds to the turn of one side, or begins it.
fn push_blocks(turns: &mut Vec<Turn>, role: Role, blocks: Vec<Block>) {
    match turns.last_mut() {
        _ if blocks.is_empty() => {}
        Some(last) if last.role == role => last.blocks.extend(blocks),
        _ => turns.push(Turn { role, blocks }),
    }
}

fn assistant(mut message: Map<String, Value>, path: &str) -> Result<Vec<Block>, Invalid> {
    if message.contains_key("function_call") {
        return Err(Invalid::no_counterpart(format!("{path}.function_call")));
    }
    let mut blocks = match message.remove("content") {
        None => Vec::new(),
        content => texts(content, path)?.into_iter().map(Block::Text).collect(),
    };
    let calls = match message.remove("tool_calls") {
        None => return Ok(blocks),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(Invalid::new(format!("{path}.tool_calls"), "must be a list")),
    };
    for (index, call) in calls.iter().enumerate() {
        blocks.push(tool_call(call, &format!("{path}.tool_calls[{index}]"))?);
    }
    Ok(blocks)
}

fn tool_call(call: &Value, path: &str) -> Result<Block, Invalid> {
    let string = |pointer: &str| {
        let member = pointer.replace('/', ".");
        let found = call.pointer(pointer).and_then(Value::as_str);
        found.ok_or_else(|| Invalid::new(format!("{path}{member}"), "must be a string"))
    };
    let (id, name) = (string("/id")?.to_owned(), string("/function/name")?.to_owned());
    let input = match string("/function/arguments")?.trim() {
        "" => Map::new(),
        arguments => serde_json::from_str(arguments)
            .map_err(|_| Invalid::new(format!("{path}.function.arguments"), "must be the text of a JSON object"))?,
    };
    Ok(Block::ToolCall { id, name, input })
}

fn tool_result(mut message: Map<String, Value>, path: &str) -> Result<Block, Invalid> {
    let Some(Value::String(id)) = message.remove("tool_call_id") else {
        return Err(Invalid::new(format!("{path}.tool_call_id"), "must be a string"));
    };
    let text = match message.remove("content") {
        None => String::new(),
        content => texts(content, path)?.concat(),
    };
    Ok(Block::ToolResult { id, text })
}

/// The texts of a content that may have nothing else.
fn texts(content: Option<Value>, path: &str) -> Result<Vec<String>, Invalid> {
    let only = |block| match block {
        Block::Text(text) => Ok(text),
        _ => Err(Invalid::new(format!("{path}.content"), "may have text only in a message of this role")),
    };
    parts(content, path)?.into_iter().map(only).collect()
}

/// A content, without texts that say nothing: other providers refuse these.
fn parts(content: Option<Value>, path: &str) -> Result<Vec<Block>, Invalid> {
    let blocks = match content {
        Some(Value::String(text)) => vec![Block::Text(text)],
        Some(Value::Array(parts)) => {
            let part = |(index, part)| self::part(part, &format!("{path}.content[{index}]"));
            parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?
        }
        _ => return Err(Invalid::new(format!("{path}.content"), WRONG_CONTENT)),
    };
    let says_something = |block: &Block| !matches!(block, Block::Text(text) if text.trim().is_empty());
    Ok(blocks.into_iter().filter(says_something).collect())
}

fn part(mut part: Value, path: &str) -> Result<Block, Invalid> {
    let mut string = |pointer: &str| match part.pointer_mut(pointer).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Invalid::new(format!("{path}{}", pointer.replace('/', ".")), "must be a string")),
    };
    match string("/type")?.as_str() {
        "text" => Ok(Block::Text(string("/text")?)),
        "refusal" => Ok(Block::Text(string("/refusal")?)),
        "image_url" => image(string("/image_url/url")?, format!("{path}.image_url.url")),
        _ => {
            let text = "is a kind of content that the provider of this model is not sent: text and image_url are";
            Err(Invalid::new(format!("{path}.type"), text))
        }
    }
}

/// An image by a URL, or within a `data:` URL (RFC 2397).
fn image(url: String, param: String) -> Result<Block, Invalid> {
    let is_remote = ["http://", "https://"]
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    if is_remote {
        return Ok(Block::ImageUrl { url, param });
    }
    let in_base64 = |url: &str| {
        let (head, _) = url.strip_prefix("data:")?.split_once(',')?;
        let media_type = head.strip_suffix(";base64")?.split(';').next()?;
        (!media_type.is_empty()).then(|| (media_type.to_owned(), "data:,".len() + head.len()))
    };
    match in_base64(&url) {
        Some((media_type, start)) => {
            // The rest stays where it is: it may be large.
            let mut data = url;
            data.drain(..start);
            Ok(Block::Image { media_type, data, param })
        }
        None => Err(Invalid::new(param, "must be a URL of http:// or https://, or data:TYPE;base64,DATA")),
    }
}
