//! What an answer is held to, from what its request asks for.

use ds4_chat::conversation::{Block, Conversation, Message, ResponseFormat, Tool, ToolChoice, TurnEnd};
use ds4_chat::render::RenderedPrompt;
use ds4_chat::tokenizer::{Tokenizer, TokenizerError};
use ds4_grammar::{Arguments, Entry, Format, Grammar, GrammarError, Grammars, Shape, ToolShape};

use super::request::{ChatPrompt, Strict};
use crate::api::Api;
use crate::error::{ApiError, ErrorKind};

/// What an answer is held to while it is sampled.
#[derive(Clone, Debug, Default)]
pub(super) struct Constraint {
    /// From the first token of the answer on.
    pub(super) answer: Option<Grammar>,
    /// From the opening of a block of calls on, in an answer that is free until then.
    pub(super) calls: Option<Grammar>,
    /// A call that the request demands.
    pub(super) demand: Option<DemandedCall>,
}

/// A call that the request demands.
#[derive(Clone, Debug)]
pub(super) struct DemandedCall {
    /// What to write right after the reasoning. Empty if the prompt opens the call.
    pub(super) after_reasoning: Vec<u32>,
    /// What follows.
    pub(super) grammar: Grammar,
}

impl Constraint {
    /// The constraint of an answer to `conversation`. `chat`: what else its request says of tools and schemas.
    ///
    /// # Errors
    /// A schema that cannot be enforced.
    pub(super) fn new(
        grammars: &Grammars,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
        chat: &ChatPrompt,
        rendered: &RenderedPrompt,
        api: Api,
    ) -> Result<Self, ApiError> {
        let format = match &conversation.response_format {
            ResponseFormat::Text => None,
            ResponseFormat::JsonObject => Some(Format::object()),
            ResponseFormat::JsonSchema(schema) => Some(Format { schema: schema.clone(), strict: chat.strict.format }),
        };
        if format.is_some() && continues_answer(conversation) {
            let message = "an answer in a given format cannot continue a message; leave one of the two out";
            return Err(ApiError::invalid(api.format_field(), message));
        }
        if conversation.response_format == ResponseFormat::JsonObject
            && !conversation.messages.iter().any(mentions_json)
        {
            let message = "the word \"json\" must be somewhere in the messages for this format: tell the model what to put into the object";
            return Err(ApiError::invalid(api.format_field(), message));
        }
        let compile = |shape: Shape| grammars.compile(&shape).map_err(|error| refused(&error, api, &chat.strict));
        if !rendered.parser_options().tools {
            let answer = format.map(|format| compile(Shape::answer(format))).transpose()?;
            return Ok(Self { answer, ..Self::default() });
        }
        let is_allowed = |tool: &&Tool| chat.allowed_tools.as_ref().is_none_or(|names| names.contains(tool.name()));
        let tools = tools(conversation).chain(&chat.tools_found).filter(is_allowed);
        let tools: Vec<ToolShape> = tools.map(|tool| shape_of(tool, &chat.strict)).collect();
        let entry = match &conversation.tool_choice {
            ToolChoice::Auto | ToolChoice::None => {
                let (answer, calls) = match format {
                    Some(_) => (Some(compile(Shape { entry: Entry::Answer, format, tools })?), None),
                    None => (None, Some(compile(Shape::calls(Entry::Opener, tools))?)),
                };
                return Ok(Self { answer, calls, demand: None });
            }
            ToolChoice::Named(name) => Entry::Call(name.clone()),
            ToolChoice::Required => Entry::Block,
        };
        let after_reasoning = opening(tokenizer, rendered)?;
        let grammar = compile(Shape::calls(entry, tools))?;
        Ok(Self { demand: Some(DemandedCall { after_reasoning, grammar }), ..Self::default() })
    }
}

fn opening(tokenizer: &Tokenizer, rendered: &RenderedPrompt) -> Result<Vec<u32>, TokenizerError> {
    rendered.after_reasoning.as_ref().map_or_else(|| Ok(Vec::new()), |opening| tokenizer.encode_prompt(opening))
}

fn continues_answer(conversation: &Conversation) -> bool {
    matches!(conversation.messages.last(), Some(Message::Assistant(last)) if last.end == TurnEnd::Continued)
}

/// Whether the word is in the message's text, however it is capitalized.
fn mentions_json(message: &Message) -> bool {
    let content = match message {
        Message::System(instructions) | Message::Developer { instructions, .. } => &instructions.content,
        Message::User { content, .. } | Message::ToolResult { content, .. } | Message::LatestReminder(content) => {
            content
        }
        Message::Assistant(assistant) => &assistant.content,
    };
    let mentions = |text: &str| text.as_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"json"));
    content.0.iter().any(|block| matches!(block, Block::Text(text) if mentions(text)))
}

/// All tools, those of system messages included.
fn tools(conversation: &Conversation) -> impl Iterator<Item = &Tool> {
    let of_messages = conversation.messages.iter().flat_map(|message| match message {
        Message::System(instructions) => instructions.tools.as_slice(),
        _ => &[],
    });
    conversation.tools.iter().chain(of_messages)
}

fn shape_of(tool: &Tool, strict: &Strict) -> ToolShape {
    let is_strict = strict.tools.contains(tool.name());
    let arguments = match (strict.inputs.get(tool.name()), tool.definition().get("parameters")) {
        (Some(input), _) => Arguments::Input(input.grammar.clone()),
        (None, Some(schema)) if is_strict => Arguments::Schema(schema.clone()),
        (None, _) => Arguments::Any,
    };
    ToolShape { name: tool.name().to_owned(), arguments }
}

fn refused(error: &GrammarError, api: Api, strict: &Strict) -> ApiError {
    let path = match error {
        GrammarError::Input { tool, .. } => strict.inputs.get(tool).map_or("tools", |input| &input.path),
        GrammarError::Format { .. } => api.format_field(),
        GrammarError::Vocabulary { .. } => return ApiError::new(ErrorKind::Engine, format!("server error: {error}")),
        _ => "tools",
    };
    ApiError::unsupported(ErrorKind::UnsupportedValue, path, error.to_string())
}
