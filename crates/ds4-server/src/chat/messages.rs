//! The messages of a chat request.

use ds4_chat::conversation::{AssistantMessage, Content, Instructions, Message, ToolCall, TurnEnd};

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::fields::{Field, Object};
use crate::request_fields::{Owner, check_history, drop_billing_line, message_list, parts};

/// Reads the messages. Message *i* of the conversation is message *i* of the request.
///
/// # Errors
/// The first message that is wrong, by its path.
pub fn messages(field: &Field<'_>, config: &ServerConfig) -> Result<Vec<Message>, ApiError> {
    let fields = message_list(field, &config.limits)?;
    let last = fields.len() - 1;
    let mut messages = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        messages.push(message(field, index == last, config)?);
    }
    check_history(&messages, |index| format!("{}[{index}]", field.path()))?;
    Ok(messages)
}

fn message(field: &Field<'_>, is_last: bool, config: &ServerConfig) -> Result<Message, ApiError> {
    let object = field.object()?;
    let role = object.required("role")?;
    if let Some(prefix) = object.get("prefix")
        && prefix.bool()?
        && (!is_last || role.str()? != "assistant")
    {
        return Err(
            prefix.refused(format!("{} is set, but only a last assistant message can be continued", prefix.path()))
        );
    }
    Ok(match role.str()? {
        "system" | "developer" => {
            let mut content = parts(&object.required("content")?, Owner::Message, config)?;
            drop_billing_line(&mut content);
            Message::System(Instructions { content, ..Instructions::default() })
        }
        "user" => Message::User { content: parts(&object.required("content")?, Owner::Message, config)?, task: None },
        "latest_reminder" => Message::LatestReminder(parts(&object.required("content")?, Owner::Message, config)?),
        "tool" | "function" => Message::ToolResult {
            call_id: object.get("tool_call_id").map(|id| id.str().map(str::to_owned)).transpose()?,
            content: optional_parts(&object, "content", Owner::ToolResult, config)?,
        },
        "assistant" => Message::Assistant(assistant(&object, config)?),
        _ => return Err(role.must_be("one of system, developer, user, assistant, tool, latest_reminder")),
    })
}

fn optional_parts(object: &Object<'_>, name: &str, owner: Owner, config: &ServerConfig) -> Result<Content, ApiError> {
    object.get(name).map_or_else(|| Ok(Content::default()), |field| parts(&field, owner, config))
}

fn assistant(object: &Object<'_>, config: &ServerConfig) -> Result<AssistantMessage, ApiError> {
    let reasoning = object.get("reasoning_content").or_else(|| object.get("reasoning"));
    let reasoning = reasoning.map(|field| field.str().map(str::to_owned)).transpose()?.unwrap_or_default();
    let content = object.get("content").map(|field| parts(&field, Owner::Message, config)).transpose()?;
    let calls = object.get("tool_calls").map(|field| field.array()).transpose()?.unwrap_or_default();
    let tool_calls = calls.iter().map(tool_call).collect::<Result<Vec<_>, _>>()?;
    let continued = object.get("prefix").map(|field| field.bool()).transpose()?.unwrap_or(false);
    let continues_reasoning = continued && !reasoning.is_empty();
    if content.is_none() && tool_calls.is_empty() && !continues_reasoning {
        let path = object.path_of("content");
        let message = format!("{} is an assistant message with neither content nor tool_calls", object.path());
        return Err(ApiError::invalid(path, message));
    }
    Ok(AssistantMessage {
        reasoning,
        content: content.unwrap_or_default(),
        tool_calls,
        end: if continued { TurnEnd::Continued } else { TurnEnd::Finished },
        ..AssistantMessage::default()
    })
}

fn tool_call(field: &Field<'_>) -> Result<ToolCall, ApiError> {
    let object = field.object()?;
    let id = object.get("id").map(|id| id.str().map(str::to_owned)).transpose()?;
    // Free-form tools have their input where functions have arguments.
    let custom = object.get("custom").map(|custom| custom.object()).transpose()?;
    if let Some(custom) = custom {
        let name = custom.required("name")?.str()?.to_owned();
        let input = custom.get("input").map(|input| input.str()).transpose()?.unwrap_or_default();
        return Ok(ToolCall { id, name, arguments: format!("{{\"input\": {}}}", ds4_chat::json::quote(input)) });
    }
    let function = object.required("function")?.object()?;
    let name = function.required("name")?.str()?.to_owned();
    let arguments = match function.get("arguments") {
        None => "{}".to_owned(),
        // Some clients send the object itself.
        Some(field) if field.json().as_object().is_some() => field.json().to_string(),
        Some(field) => field.str()?.to_owned(),
    };
    Ok(ToolCall { id, name, arguments })
}
