//! What makes a conversation unrenderable.

use super::{Ending, RenderOptions, all_tools};
use crate::conversation::{Conversation, Message, ToolChoice, TurnEnd};

/// Why a conversation cannot be rendered. Message indices count from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Nothing but system text.
    #[error("the conversation has nothing to answer: add at least one message that is not a system message")]
    NothingToAnswer,
    /// A continued message before the end.
    #[error("messages[{index}] is to be continued, but messages follow it: only the last message can be continued")]
    ContinuedNotLast {
        /// Index of the message.
        index: usize,
    },
    /// A developer message without text.
    #[error("messages[{index}] has the role developer and no text: give it some or leave it out")]
    EmptyDeveloper {
        /// Index of the message.
        index: usize,
    },
    /// A forced call without tools.
    #[error("a tool call is required, but the request has no tools: add tools or drop tool_choice")]
    ForcedCallWithoutTools,
    /// A forced call of a tool that was not announced.
    #[error("tool_choice names the tool {name:?}, which is not among the request's tools")]
    UnknownTool {
        /// The name asked for.
        name: String,
    },
    /// More messages rendered than there are.
    #[error("{already_rendered} messages were rendered before, but the conversation has only {messages}")]
    AlreadyRendered {
        /// The number given.
        already_rendered: usize,
        /// The number of messages.
        messages: usize,
    },
}

/// Whether the prompt shows tools.
pub(super) fn shows_tools(conversation: &Conversation) -> bool {
    conversation.tool_choice != ToolChoice::None && all_tools(conversation).next().is_some()
}

pub(super) fn check(conversation: &Conversation, options: &RenderOptions) -> Result<(), RenderError> {
    let messages = &conversation.messages;
    if options.already_rendered > messages.len() {
        let already_rendered = options.already_rendered;
        return Err(RenderError::AlreadyRendered { already_rendered, messages: messages.len() });
    }
    for (index, message) in messages.iter().enumerate() {
        match message {
            Message::Assistant(message) if message.end == TurnEnd::Continued && index + 1 < messages.len() => {
                return Err(RenderError::ContinuedNotLast { index });
            }
            Message::Developer { instructions, .. } if instructions.content.is_empty() => {
                return Err(RenderError::EmptyDeveloper { index });
            }
            _ => {}
        }
    }
    if options.ending == Ending::History {
        return Ok(());
    }
    if messages.iter().all(|message| matches!(message, Message::System(_))) {
        return Err(RenderError::NothingToAnswer);
    }
    match &conversation.tool_choice {
        ToolChoice::Auto | ToolChoice::None => Ok(()),
        ToolChoice::Required | ToolChoice::Named(_) if !shows_tools(conversation) => {
            Err(RenderError::ForcedCallWithoutTools)
        }
        ToolChoice::Required => Ok(()),
        ToolChoice::Named(name) if all_tools(conversation).any(|tool| tool.name() == name) => Ok(()),
        ToolChoice::Named(name) => Err(RenderError::UnknownTool { name: name.clone() }),
    }
}
