//! One line with a conversation → its prompt.

use super::fields::{DebugError, field, flag, list, text, wrong};
use crate::conversation::{
    AssistantMessage, Block, Content, Conversation, Instructions, Message, QuickTask, ResponseFormat, Tool, ToolCall,
    ToolChoice, TurnEnd,
};
use crate::json::Json;
use crate::render::{Effort, Ending, Profile, RenderOptions, Thinking, render};
use crate::tokenizer::Tokenizer;

/// Renders the conversation of one JSON line `{"profile": …, "input": …}` and gives `{"text": …, "ids": […]}`.
///
/// `profile` is `preview` (also if missing) or `0731`. `input` has `messages`, and optionally `context` (messages that
/// were rendered before), `thinking_mode` (`chat` or `thinking`), `reasoning_effort`, `drop_thinking`, `add_bos` and
/// `request` with the request fields `tool_choice` and `response_format`. A history that ends with a finished assistant
/// message is rendered as it is; every other prompt ends with an opened assistant turn.
///
/// The line is taken as text, not as a parsed value, because numbers in schemas and arguments must keep their digits.
///
/// # Errors
///
/// [`DebugError`] when the line is not JSON, a field has no meaning, or the conversation cannot be rendered.
pub fn render_line(line: &str, tokenizer: &Tokenizer) -> Result<serde_json::Value, DebugError> {
    let line = Json::parse(line)?;
    let input = field(&line, "input").ok_or_else(|| wrong("input", "is missing"))?;
    let profile = match text(&line, "", "profile")? {
        None | Some("preview") => Profile::Preview,
        Some("0731") => Profile::Release0731,
        Some(other) => return Err(wrong("profile", format!("unknown profile {other:?}: use preview or 0731"))),
    };
    let (conversation, already_rendered) = conversation(input)?;
    let options = RenderOptions {
        profile,
        thinking: thinking(input, profile)?,
        drop_thinking: flag(input, "input", "drop_thinking")?.unwrap_or(true),
        bos: flag(input, "input", "add_bos")?.unwrap_or(true),
        ending: ending(&conversation.messages),
        already_rendered,
    };
    let prompt = render(&conversation, &options)?.prompt;
    let ids = tokenizer.encode_prompt(&prompt)?;
    Ok(serde_json::json!({"text": prompt.to_display_string(), "ids": ids}))
}

fn thinking(input: &Json, profile: Profile) -> Result<Thinking, DebugError> {
    let effort = match (profile, text(input, "input", "reasoning_effort")?) {
        // Without an effort, neither profile writes a text.
        (Profile::Preview, None | Some("high")) | (Profile::Release0731, Some("high")) => Effort::High,
        (Profile::Release0731, None | Some("low")) => Effort::Low,
        (_, Some("max")) => Effort::Max,
        (Profile::Preview, Some(other)) => {
            let problem = format!("unknown reasoning effort {other:?} for the profile preview: use high or max");
            return Err(wrong("input.reasoning_effort", problem));
        }
        (Profile::Release0731, Some(other)) => {
            let problem = format!("unknown reasoning effort {other:?} for the profile 0731: use low, high or max");
            return Err(wrong("input.reasoning_effort", problem));
        }
    };
    match text(input, "input", "thinking_mode")? {
        Some("chat") => Ok(Thinking::Off),
        None | Some("thinking") => Ok(Thinking::On(effort)),
        Some(other) => {
            Err(wrong("input.thinking_mode", format!("unknown thinking mode {other:?}: use chat or thinking")))
        }
    }
}

/// Whether there is something to answer.
fn ending(messages: &[Message]) -> Ending {
    let is_turn = |message: &&Message| match message {
        Message::System(instructions) => !instructions.is_empty(),
        _ => true,
    };
    let is_finished = match messages.iter().rfind(is_turn) {
        Some(Message::Assistant(message)) => message.end != TurnEnd::Continued,
        _ => false,
    };
    let answerable = messages.iter().any(|message| {
        matches!(
            message,
            Message::User { .. } | Message::ToolResult { .. } | Message::Developer { .. } | Message::Assistant(_)
        )
    });
    if answerable && !is_finished { Ending::AssistantTurn } else { Ending::History }
}

/// The conversation, and how many of its messages were rendered before.
fn conversation(input: &Json) -> Result<(Conversation, usize), DebugError> {
    let mut conversation = Conversation::default();
    let request = field(input, "request");
    // A line with request fields is what a server gets, and a server writes schemas in canonical form.
    let canonical = request.is_some();
    let mut already_rendered = 0;
    for name in ["context", "messages"] {
        already_rendered = conversation.messages.len();
        for (index, item) in list(input, "input", name)?.iter().enumerate() {
            conversation.messages.push(message(item, &format!("input.{name}[{index}]"), canonical)?);
        }
    }
    if let Some(request) = request {
        conversation.tool_choice = tool_choice(request)?;
        conversation.response_format = response_format(request)?;
    }
    Ok((conversation, already_rendered))
}

fn message(item: &Json, path: &str, canonical: bool) -> Result<Message, DebugError> {
    let content = content(item, path)?;
    let task = match text(item, path, "task")? {
        None => None,
        Some(name) => Some(QuickTask::from_name(name).ok_or_else(|| {
            let names: Vec<&str> = QuickTask::ALL.iter().map(|task| task.name()).collect();
            wrong(format!("{path}.task"), format!("unknown task {name:?}: use one of {}", names.join(", ")))
        })?),
    };
    match text(item, path, "role")? {
        Some("system") => Ok(Message::System(instructions(item, path, content, canonical)?)),
        Some("developer") => {
            Ok(Message::Developer { instructions: instructions(item, path, content, canonical)?, task })
        }
        Some("user") => Ok(Message::User { content, task }),
        Some("assistant") => {
            let end = if flag(item, path, "prefix")? == Some(true) {
                TurnEnd::Continued
            } else if flag(item, path, "wo_eos")? == Some(true) {
                TurnEnd::Unterminated
            } else {
                TurnEnd::Finished
            };
            Ok(Message::Assistant(AssistantMessage {
                reasoning: text(item, path, "reasoning_content")?.unwrap_or_default().to_owned(),
                content,
                tool_calls: tool_calls(item, path)?,
                end,
                task,
                replay: None,
            }))
        }
        Some("tool") => {
            Ok(Message::ToolResult { call_id: text(item, path, "tool_call_id")?.map(str::to_owned), content })
        }
        Some("latest_reminder") => Ok(Message::LatestReminder(content)),
        Some(other) => Err(wrong(
            format!("{path}.role"),
            format!("unknown role {other:?}: use system, developer, user, assistant, tool or latest_reminder"),
        )),
        None => Err(wrong(format!("{path}.role"), "is missing")),
    }
}

fn content(item: &Json, path: &str) -> Result<Content, DebugError> {
    match field(item, "content") {
        None => Ok(Content::default()),
        Some(Json::String(text)) => Ok(Content::text(text)),
        Some(Json::Array(blocks)) => {
            let mut content = Content::default();
            for (index, block) in blocks.iter().enumerate() {
                let path = format!("{path}.content[{index}]");
                let kind = text(block, &path, "type")?.ok_or_else(|| wrong(format!("{path}.type"), "is missing"))?;
                content.0.push(match kind {
                    "text" => Block::Text(text(block, &path, "text")?.unwrap_or_default().to_owned()),
                    other => Block::Unsupported(other.to_owned()),
                });
            }
            Ok(content)
        }
        Some(_) => Err(wrong(format!("{path}.content"), "must be a string, an array of blocks or null")),
    }
}

fn instructions(item: &Json, path: &str, content: Content, canonical: bool) -> Result<Instructions, DebugError> {
    let mut tools = Vec::new();
    for (index, tool) in list(item, path, "tools")?.iter().enumerate() {
        let path = format!("{path}.tools[{index}]");
        let function = field(tool, "function").ok_or_else(|| wrong(format!("{path}.function"), "is missing"))?;
        tools.push(if canonical {
            let description = text(function, &path, "description")?.map(str::to_owned);
            let name = text(function, &path, "name")?.unwrap_or_default();
            Tool::new(name, description, field(function, "parameters").cloned())
        } else {
            Tool::verbatim(function.clone())
        });
    }
    let response_format = match field(item, "response_format") {
        None => ResponseFormat::Text,
        Some(Json::Object(entries)) if entries.is_empty() => ResponseFormat::Text,
        Some(schema) => ResponseFormat::JsonSchema(schema.clone()),
    };
    Ok(Instructions { content, tools, response_format })
}

fn tool_calls(item: &Json, path: &str) -> Result<Vec<ToolCall>, DebugError> {
    let mut calls = Vec::new();
    for (index, call) in list(item, path, "tool_calls")?.iter().enumerate() {
        let path = format!("{path}.tool_calls[{index}]");
        let function = field(call, "function").ok_or_else(|| wrong(format!("{path}.function"), "is missing"))?;
        let id = match text(call, &path, "id")?.filter(|id| !id.is_empty()) {
            Some(id) => Some(id),
            None => text(function, &path, "id")?,
        };
        let arguments = match field(function, "arguments") {
            None => String::new(),
            Some(Json::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let name = text(function, &path, "name")?.unwrap_or_default().to_owned();
        calls.push(ToolCall { id: id.map(str::to_owned), name, arguments });
    }
    Ok(calls)
}

fn tool_choice(request: &Json) -> Result<ToolChoice, DebugError> {
    let place = "input.request.tool_choice";
    match field(request, "tool_choice") {
        None => Ok(ToolChoice::Auto),
        Some(Json::String(choice)) => match choice.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            other => Err(wrong(place, format!("unknown value {other:?}: use auto, none, required or a tool"))),
        },
        Some(choice) => match field(choice, "function").and_then(|function| function.get("name")) {
            Some(Json::String(name)) => Ok(ToolChoice::Named(name.clone())),
            _ => Err(wrong(place, "must be a string or {\"type\": \"function\", \"function\": {\"name\": …}}")),
        },
    }
}

fn response_format(request: &Json) -> Result<ResponseFormat, DebugError> {
    let Some(format) = field(request, "response_format") else { return Ok(ResponseFormat::Text) };
    let place = "input.request.response_format";
    match text(format, place, "type")? {
        Some("text") => Ok(ResponseFormat::Text),
        Some("json_object") => Ok(ResponseFormat::JsonObject),
        Some("json_schema") => {
            let schema = field(format, "json_schema").and_then(|outer| field(outer, "schema"));
            let schema = schema.ok_or_else(|| wrong(format!("{place}.json_schema.schema"), "is missing"))?;
            Ok(ResponseFormat::JsonSchema(schema.clone()))
        }
        _ => Err(wrong(format!("{place}.type"), "must be text, json_object or json_schema")),
    }
}
