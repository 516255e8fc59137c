//! What a conversation is, whichever API it came through.
//!
//! The HTTP adapters and the command line build a [`Conversation`]; [`crate::render`] turns it into a prompt. Text in
//! here is data: nothing in it can become a control token.

use crate::json::Json;

/// A conversation and what the request asks for beside its messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Tools of the request, in the client's order; their section stands at the end of the system text.
    pub tools: Vec<Tool>,
    /// Form of the answer that the request asks for; its section follows the tools.
    pub response_format: ResponseFormat,
    /// Whether the model may, must or must not call a tool.
    pub tool_choice: ToolChoice,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// System text. At the start of a conversation it is the system prompt; later it becomes a marked part of a user
    /// turn, so that the text before it (and its cached state) stays as it was.
    System(Instructions),
    /// The model's internal search-agent role: a user turn that may carry tools. It is not the "developer" role of
    /// public APIs, which is [`Message::System`]. Without kept reasoning it disappears once a later user turn exists.
    Developer {
        /// The text and its sections. The text must not be empty.
        instructions: Instructions,
        /// A quick task to run on this turn.
        task: Option<QuickTask>,
    },
    /// What the user says. Consecutive user messages and tool results form one turn.
    User {
        /// The text.
        content: Content,
        /// A quick task to run on this turn. Ignored when the message continues a turn that an earlier message opened.
        task: Option<QuickTask>,
    },
    /// What the model said.
    Assistant(AssistantMessage),
    /// The result of a tool call.
    ToolResult {
        /// Id of the call that this answers. Results are put in the order of the calls.
        call_id: Option<String>,
        /// The result, inserted verbatim.
        content: Content,
    },
    /// A reminder (date, app, language), usually between the system text and the first user message.
    LatestReminder(Content),
}

impl Message {
    /// A system message of plain text.
    pub fn system(text: impl Into<String>) -> Message {
        Message::System(Instructions { content: Content::text(text), ..Instructions::default() })
    }

    /// A user message of plain text.
    pub fn user(text: impl Into<String>) -> Message {
        Message::User { content: Content::text(text), task: None }
    }

    /// A finished assistant message of plain text, without reasoning.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::Assistant(AssistantMessage { content: Content::text(text), ..AssistantMessage::default() })
    }
}

/// The text of a system or developer message with the sections that belong to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instructions {
    /// The text.
    pub content: Content,
    /// Tools announced by this message (those of the request are in [`Conversation::tools`]).
    pub tools: Vec<Tool>,
    /// Answer form asked for by this message (that of the request is [`Conversation::response_format`]).
    pub response_format: ResponseFormat,
}

impl Instructions {
    /// Whether there is neither text nor a section.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.tools.is_empty() && self.response_format == ResponseFormat::Text
    }
}

/// An assistant turn of the history, or the one to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AssistantMessage {
    /// The reasoning, without its tags. Whether it is rendered depends on the conversation.
    pub reasoning: String,
    /// The visible answer.
    pub content: Content,
    /// The calls, in the order they were made.
    pub tool_calls: Vec<ToolCall>,
    /// How the turn ends.
    pub end: TurnEnd,
    /// A quick task to run on this turn.
    pub task: Option<QuickTask>,
    /// The sampled tokens of this turn, to be used instead of all of the above. See [`Replay`].
    pub replay: Option<Replay>,
}

/// How an assistant turn ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnEnd {
    /// With the end-of-sentence token.
    #[default]
    Finished,
    /// Not at all: the model continues it. Only for the last message. Reasoning without content stays open.
    Continued,
    /// With nothing, though its reasoning is closed (the reference encoder's `wo_eos`).
    Unterminated,
}

/// The tokens that the engine sampled for an assistant turn: those after the think marker that the prompt ended with,
/// without the end-of-sentence token. Text that is encoded again may get other tokens than the model chose; replaying
/// keeps a cached prefix valid. Use it only when the client sends back what it was given ([`ToolCall::same_call`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Whether the turn was sampled in thinking mode, that is after `<think>`.
    pub thinking: bool,
    /// The token ids.
    pub tokens: Vec<u32>,
}

/// A tool call of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The call's id, as far as the client gave one.
    pub id: Option<String>,
    /// Name of the tool.
    pub name: String,
    /// The arguments as JSON text. Text that is not a JSON object is shown to the model as it is.
    pub arguments: String,
}

impl ToolCall {
    /// Whether both call the same tool with the same arguments: compared as data, so spacing, escapes and key order
    /// do not count.
    pub fn same_call(&self, other: &ToolCall) -> bool {
        if self.name != other.name {
            return false;
        }
        match (Json::parse_python(&self.arguments), Json::parse_python(&other.arguments)) {
            (Ok(left), Ok(right)) => left.same_data(&right),
            (Err(_), Err(_)) => self.arguments == other.arguments,
            _ => false,
        }
    }
}

/// Text of a message, in blocks that are shown with a blank line between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(pub Vec<Block>);

/// One block of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Text.
    Text(String),
    /// Something that a text model cannot read, shown as `[Unsupported …]` with this label.
    Unsupported(String),
}

impl Content {
    /// One block of text.
    pub fn text(text: impl Into<String>) -> Content {
        Content(vec![Block::Text(text.into())])
    }

    /// The text that the model sees.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for (index, block) in self.0.iter().enumerate() {
            if index > 0 {
                out.push_str("\n\n");
            }
            match block {
                Block::Text(text) => out.push_str(text),
                Block::Unsupported(label) => {
                    out.push_str("[Unsupported ");
                    out.push_str(label);
                    out.push(']');
                }
            }
        }
        out
    }

    /// Whether the model would see nothing.
    pub fn is_empty(&self) -> bool {
        self.0.len() < 2 && self.0.iter().all(|block| matches!(block, Block::Text(text) if text.is_empty()))
    }
}

/// A tool that the model may call: the JSON object that is shown to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool(Json);

impl Tool {
    /// A tool in the form that the model was trained on: exactly the keys `name`, `description` and `parameters`, so
    /// that clients which order keys differently or add others get the same prompt.
    ///
    /// `parameters` is a JSON Schema of an object; `None` gives `{}`.
    pub fn new(name: impl Into<String>, description: Option<String>, parameters: Option<Json>) -> Tool {
        Tool(Json::Object(vec![
            ("name".to_owned(), Json::String(name.into())),
            ("description".to_owned(), Json::String(description.unwrap_or_default())),
            ("parameters".to_owned(), parameters.unwrap_or_else(|| Json::Object(Vec::new()))),
        ]))
    }

    /// A tool whose definition is shown exactly as given.
    pub fn verbatim(definition: Json) -> Tool {
        Tool(definition)
    }

    /// The tool's name; empty if the definition has none.
    pub fn name(&self) -> &str {
        self.0.get("name").and_then(Json::as_str).unwrap_or_default()
    }

    /// The object that is shown to the model.
    pub fn definition(&self) -> &Json {
        &self.0
    }
}

/// The form of answer that a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that follows this schema.
    JsonSchema(Json),
}

/// Whether the model may, must or must not call a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No tools: they are not shown, and the output is not searched for calls.
    None,
    /// Some tool must be called.
    Required,
    /// This tool must be called.
    Named(String),
}

/// Internal classification tasks that the model was trained for: one token after a turn instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuickTask {
    /// Whether to search or to answer; its token follows an opened assistant turn.
    Action,
    /// Search queries for the turn.
    Query,
    /// How authoritative sources must be.
    Authority,
    /// The subject area.
    Domain,
    /// A title for the conversation.
    Title,
    /// Whether to read a page.
    ReadUrl,
}

impl QuickTask {
    /// All tasks.
    pub const ALL: [QuickTask; 6] = [
        QuickTask::Action,
        QuickTask::Query,
        QuickTask::Authority,
        QuickTask::Domain,
        QuickTask::Title,
        QuickTask::ReadUrl,
    ];

    /// The task's name in requests.
    pub fn name(self) -> &'static str {
        match self {
            QuickTask::Action => "action",
            QuickTask::Query => "query",
            QuickTask::Authority => "authority",
            QuickTask::Domain => "domain",
            QuickTask::Title => "title",
            QuickTask::ReadUrl => "read_url",
        }
    }

    /// The task of this name.
    pub fn from_name(name: &str) -> Option<QuickTask> {
        QuickTask::ALL.into_iter().find(|task| task.name() == name)
    }
}
