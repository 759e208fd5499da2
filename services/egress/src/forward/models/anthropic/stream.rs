//! A streamed message as the chunks of a chat completion.

use super::response::{self, TokenCounts};
use crate::{
    forward::body::BoxError,
    forward::models::{
        chat_completions::{Chunks, Translate},
        sse::Events,
    },
};
use serde_json::Value;
use std::io;

/// Reads the events of one message.
#[derive(Debug, Default)]
pub(in crate::forward::models) struct MessageStream {
    events: Events,
    message: Message,
}

/// The message so far.
#[derive(Debug, Default)]
struct Message {
    usage: TokenCounts,
    /// The tool call that goes on: blocks of a message come one after the other.
    tool: Option<OpenTool>,
}

#[derive(Debug)]
struct OpenTool {
    index: usize,
    /// The arguments, as long as they have not come in pieces.
    input: Option<Value>,
}

impl Translate for MessageStream {
    fn push(&mut self, piece: &[u8], chunks: &mut Chunks) -> Result<(), BoxError> {
        let Self { events, message } = self;
        events.push(piece, |data| {
            let event: Value = serde_json::from_slice(data)
                .map_err(|e| io::Error::other(format!("an event of the provider's stream is not JSON: {e}")))?;
            message.event(&event, chunks);
            Ok(())
        })
    }
}

impl Message {
    fn event(&mut self, event: &Value, chunks: &mut Chunks) {
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                let message = &event["message"];
                self.usage.update(&message["usage"]);
                chunks.start(message["id"].as_str(), message["model"].as_str());
            }
            "content_block_start" => self.start_block(&event["content_block"], chunks),
            "content_block_delta" => self.delta(&event["delta"], chunks),
            "content_block_stop" => self.end_block(chunks),
            "message_delta" => {
                self.usage.update(&event["usage"]);
                let reason = &event["delta"]["stop_reason"];
                if !reason.is_null() {
                    chunks.finish(response::finish(reason));
                }
            }
            "message_stop" => chunks.end(self.usage.total()),
            "error" => {
                let (kind, message) =
                    response::error(event).unwrap_or(("api_error", "the provider gave the answer up"));
                chunks.error(kind, message);
            }
            "ping" => chunks.keep_alive(),
            // The API adds kinds of events, and asks its clients to pass over those that they do not know.
            _ => {}
        }
    }

    fn start_block(&mut self, block: &Value, chunks: &mut Chunks) {
        match block["type"].as_str().unwrap_or_default() {
            "text" => chunks.text(block["text"].as_str().unwrap_or_default()),
            "tool_use" => {
                let string = |name: &str| block[name].as_str().unwrap_or_default();
                let index = chunks.tool_call(string("id"), string("name"));
                self.tool = Some(OpenTool { index, input: Some(block["input"].clone()) });
            }
            _ => {}
        }
    }

    fn delta(&mut self, delta: &Value, chunks: &mut Chunks) {
        match (delta["type"].as_str(), &mut self.tool) {
            (Some("text_delta"), _) => chunks.text(delta["text"].as_str().unwrap_or_default()),
            (Some("input_json_delta"), Some(tool)) => {
                let piece = delta["partial_json"].as_str().unwrap_or_default();
                if !piece.is_empty() {
                    tool.input = None;
                    chunks.arguments(tool.index, piece);
                }
            }
            _ => {}
        }
    }

    /// Arguments that came in no pieces are sent now: a call without arguments has the object `{}`.
    fn end_block(&mut self, chunks: &mut Chunks) {
        if let Some(OpenTool { index, input: Some(input) }) = self.tool.take() {
            let text = if input.is_object() { input.to_string() } else { "{}".to_owned() };
            chunks.arguments(index, &text);
        }
    }
}
