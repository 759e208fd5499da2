//! A streamed answer of the Converse API as the chunks of a chat completion.

use super::response;
use crate::{
    forward::body::BoxError,
    forward::models::chat_completions::{Chunks, Translate},
};
use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use aws_smithy_types::event_stream::Message;
use bytes::BytesMut;
use serde_json::Value;
use std::io;

/// The largest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// Reads the events of one answer.
#[derive(Debug, Default)]
pub(in crate::forward::models) struct ConverseStream {
    decoder: MessageFrameDecoder,
    unread: BytesMut,
    /// The tool call that goes on, and whether it has arguments yet.
    tool: Option<(usize, bool)>,
}

impl Translate for ConverseStream {
    fn push(&mut self, piece: &[u8], chunks: &mut Chunks) -> Result<(), BoxError> {
        self.unread.extend_from_slice(piece);
        while let DecodedFrame::Complete(message) = self.decoder.decode_frame(&mut self.unread)? {
            self.message(&message, chunks)?;
        }
        match self.unread.len() > MAX_EVENT {
            true => Err(io::Error::other("an event of the stream is too large").into()),
            false => Ok(()),
        }
    }
}

impl ConverseStream {
    fn message(&mut self, message: &Message, chunks: &mut Chunks) -> Result<(), BoxError> {
        let header = |name: &str| {
            let found = message.headers().iter().find(|header| header.name().as_str() == name);
            found.and_then(|header| header.value().as_string().ok()).map_or("", |text| text.as_str())
        };
        match header(":message-type") {
            "event" => {
                let event: Value = serde_json::from_slice(message.payload())
                    .map_err(|e| io::Error::other(format!("an event of the provider's stream is not JSON: {e}")))?;
                self.event(header(":event-type"), &event, chunks);
            }
            "exception" => {
                let payload: Value = serde_json::from_slice(message.payload()).unwrap_or_default();
                let text = payload["message"].as_str().unwrap_or("the provider gave the answer up");
                chunks.error(header(":exception-type"), text);
            }
            _ => chunks.error(header(":error-code"), header(":error-message")),
        }
        Ok(())
    }

    fn event(&mut self, kind: &str, event: &Value, chunks: &mut Chunks) {
        match kind {
            "messageStart" => chunks.start(None, None),
            "contentBlockStart" => {
                if let Some(call) = event.pointer("/start/toolUse") {
                    let string = |name: &str| call[name].as_str().unwrap_or_default();
                    self.tool = Some((chunks.tool_call(string("toolUseId"), string("name")), false));
                }
            }
            "contentBlockDelta" => {
                chunks.text(event.pointer("/delta/text").and_then(Value::as_str).unwrap_or_default());
                let piece = event.pointer("/delta/toolUse/input").and_then(Value::as_str).unwrap_or_default();
                if let Some((index, has_arguments)) = &mut self.tool
                    && !piece.is_empty()
                {
                    *has_arguments = true;
                    chunks.arguments(*index, piece);
                }
            }
            // A call without arguments has the object `{}`.
            "contentBlockStop" => {
                if let Some((index, false)) = self.tool.take() {
                    chunks.arguments(index, "{}");
                }
            }
            "messageStop" => chunks.finish(response::finish(&event["stopReason"])),
            "metadata" => chunks.end(response::usage(&event["usage"])),
            // Kinds of events that are added later change nothing of the others.
            _ => {}
        }
    }
}
