//! The operations of both APIs of models.

use crate::policy::Protocol;
use hoistway_model::agent::LlmRole;

/// An operation that goes to the model which the request's body names: of the OpenAI API, or of that of Anthropic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Messages,
    CountTokens,
}

impl Api {
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let openai = [Self::ChatCompletions, Self::Completions, Self::Embeddings, Self::Responses];
        openai.into_iter().chain([Self::Messages, Self::CountTokens]).find(|api| path == api.path())
    }

    /// The path below that of the base URL.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::CountTokens => "messages/count_tokens",
        }
    }

    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::Responses => Protocol::OpenAi,
            Self::Messages | Self::CountTokens => Protocol::Anthropic,
        }
    }

    /// As OpenTelemetry's conventions for generative AI name it.
    pub(super) const fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::CountTokens => "count_tokens",
        }
    }

    /// Whether its streams say what was used when they are asked for it with `stream_options`.
    pub(super) const fn has_stream_options(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }

    pub(super) const fn role(self) -> LlmRole {
        match self {
            Self::Embeddings => LlmRole::Embedding,
            _ => LlmRole::Chat,
        }
    }
}
