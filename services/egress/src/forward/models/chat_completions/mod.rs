//! Chat completions of the OpenAI API in front of providers that speak another one: what a request asks for and how
//! answers are written, whoever the provider is. Each provider's own module knows the rest.

mod answer;
mod body;
mod chunks;
mod messages;
mod request;
mod tools;
mod translation;

pub(super) use answer::{Completion, Finish, ToolCall, Usage, count, error};
pub(super) use body::{Translate, Translated};
pub(super) use chunks::Chunks;
pub(super) use translation::{Provider, complete};

pub(super) use request::parse;

use crate::forward::refusal::Refusal;
use serde_json::{Map, Value};

/// A request for a chat completion.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ChatRequest {
    /// The texts of system and developer messages, in order.
    pub(super) system: Vec<String>,
    /// The conversation, with the two sides in turn.
    pub(super) turns: Vec<Turn>,
    pub(super) tools: Vec<Tool>,
    pub(super) tool_choice: Option<ToolChoice>,
    /// Whether the model may call one tool at a time only.
    pub(super) one_tool: bool,
    pub(super) max_tokens: Option<u64>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) stop: Vec<String>,
    /// Whom the agent works for, in its own words.
    pub(super) user: Option<String>,
    /// The JSON Schema that the answer shall have.
    pub(super) schema: Option<Value>,
    pub(super) is_streamed: bool,
    /// Whether a streamed answer ends with what it used.
    pub(super) include_usage: bool,
}

/// The messages of one side before the other one's.
#[derive(Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) role: Role,
    pub(super) blocks: Vec<Block>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    User,
    Assistant,
}

/// A part of a turn.
#[derive(Debug, PartialEq)]
pub(super) enum Block {
    Text(String),
    /// A picture in base64.
    Image {
        media_type: String,
        data: String,
        /// Its place in the request, for providers that do not take it.
        param: String,
    },
    ImageUrl {
        url: String,
        param: String,
    },
    ToolCall {
        id: String,
        name: String,
        input: Map<String, Value>,
    },
    ToolResult {
        id: String,
        text: String,
    },
}

/// A function that the model may call.
#[derive(Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) schema: Value,
}

/// Whether the model calls a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToolChoice {
    Auto,
    Required,
    None,
    Named(String),
}

/// Why a request cannot be translated.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// The member that is wrong, such as `messages[0].role`.
    param: Option<String>,
    text: String,
}

impl Invalid {
    /// The fault of a member; the text follows its name.
    pub(super) fn new(param: impl Into<String>, what: &str) -> Self {
        let param = param.into();
        Self { text: format!("\"{param}\" {what}"), param: Some(param) }
    }

    /// The value that was read cannot be written.
    pub(super) fn unwritable(error: serde_json::Error) -> Self {
        Self { param: None, text: format!("the request cannot be translated: {error}") }
    }

    /// A member that the provider has nothing for.
    pub(super) fn no_counterpart(param: impl Into<String>) -> Self {
        Self::new(param, "asks for something that the provider of this model does not have: leave it out")
    }
}

/// An object of these members, which may be large: unlike the macro of the same form it copies none.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl From<Invalid> for Refusal {
    fn from(Invalid { param, text }: Invalid) -> Self {
        let refusal = Self::bad_request(text).permanent();
        match param {
            Some(param) => refusal.param(param),
            None => refusal,
        }
    }
}

#[cfg(test)]
mod tests;
