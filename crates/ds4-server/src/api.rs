//! The APIs that generate text, and the few facts in which they differ for the code that they share.

use crate::error::Family;

/// An API that generates text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Completions: raw text.
    Completions,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Messages,
}

impl Api {
    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
        }
    }

    /// The shape of its errors.
    pub fn family(self) -> Family {
        match self {
            Self::Messages => Family::Anthropic,
            Self::Chat | Self::Completions | Self::Responses => Family::OpenAi,
        }
    }

    /// The field of a request that holds the prompt.
    pub fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat | Self::Messages => "messages",
            Self::Completions => "prompt",
            Self::Responses => "input",
        }
    }

    /// The field of a request that holds the schema of the answer.
    pub fn format_field(self) -> &'static str {
        match self {
            Self::Chat | Self::Completions => "response_format",
            Self::Responses => "text.format",
            Self::Messages => "output_config.format",
        }
    }

    /// How ids of tool calls begin.
    pub fn call_prefix(self) -> &'static str {
        match self {
            Self::Messages => "toolu_",
            Self::Chat | Self::Completions | Self::Responses => "call_",
        }
    }
}
