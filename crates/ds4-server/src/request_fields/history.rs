//! The messages of a conversation: how many there may be, and whether calls and results belong together.

use std::collections::HashMap;

use ds4_chat::conversation::{AssistantMessage, Message};

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::Field;

/// The elements of an array of messages: at least one, and not too many.
///
/// # Errors
/// It is not an array, or has the wrong length.
pub fn message_list<'a>(field: &Field<'a>, limits: &Limits) -> Result<Vec<Field<'a>>, ApiError> {
    let messages = field.array()?;
    if messages.is_empty() {
        return Err(field.refused(format!("{} is empty; send at least one message", field.path())));
    }
    if messages.len() > limits.messages {
        let message =
            format!("{} has {} entries; at most {} are accepted", field.path(), messages.len(), limits.messages);
        return Err(field.refused(message));
    }
    Ok(messages)
}

/// Checks that every call is answered exactly once before the next assistant turn, and every result answers a call.
/// A model that sees half of an exchange makes things up, and the agent that lost the other half does not notice.
/// Only the last assistant turn may have unanswered calls. Calls and results without ids are not looked at.
///
/// `path_of` gives the request's path of a message by its index.
///
/// # Errors
/// The first message at fault.
pub fn check_history(messages: &[Message], path_of: impl Fn(usize) -> String) -> Result<(), ApiError> {
    let last_assistant = messages.iter().rposition(|message| matches!(message, Message::Assistant(_)));
    // The calls that may be answered now, and whether they have been.
    let mut open: HashMap<&str, bool> = HashMap::new();
    let mut opened_by = 0;
    for (index, message) in messages.iter().enumerate() {
        match message {
            Message::Assistant(assistant) => {
                all_answered(&open, || path_of(opened_by))?;
                open = calls(assistant, || path_of(index))?;
                opened_by = index;
            }
            Message::ToolResult { call_id: Some(id), .. } => match open.get_mut(id.as_str()) {
                Some(answered @ false) => *answered = true,
                Some(true) => {
                    let message = format!("the tool call {id:?} has two results; give each call exactly one");
                    return Err(ApiError::invalid(path_of(index), message));
                }
                None => {
                    let message = format!(
                        "this is the result of the tool call {id:?}, but the assistant message before it has no call with that id"
                    );
                    return Err(ApiError::invalid(path_of(index), message));
                }
            },
            _ => {}
        }
    }
    if last_assistant == Some(opened_by) {
        return Ok(());
    }
    all_answered(&open, || path_of(opened_by))
}

fn calls(assistant: &AssistantMessage, path: impl Fn() -> String) -> Result<HashMap<&str, bool>, ApiError> {
    let mut open = HashMap::new();
    for id in assistant.tool_calls.iter().filter_map(|call| call.id.as_deref()) {
        if open.insert(id, false).is_some() {
            return Err(ApiError::invalid(path(), format!("two tool calls of this message have the id {id:?}")));
        }
    }
    Ok(open)
}

fn all_answered(open: &HashMap<&str, bool>, path: impl Fn() -> String) -> Result<(), ApiError> {
    match open.iter().filter(|(_, answered)| !**answered).map(|(id, _)| id).min() {
        None => Ok(()),
        Some(id) => {
            let message =
                format!("the tool call {id:?} of this message has no result before the next assistant message");
            Err(ApiError::invalid(path(), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use ds4_chat::conversation::{Content, ToolCall};

    use super::*;

    fn calling(ids: &[&str]) -> Message {
        let call = |id: &&str| ToolCall { id: Some((*id).to_owned()), ..ToolCall::default() };
        Message::Assistant(AssistantMessage {
            tool_calls: ids.iter().map(call).collect(),
            ..AssistantMessage::default()
        })
    }

    fn result(id: &str) -> Message {
        Message::ToolResult { call_id: Some(id.to_owned()), content: Content::text("x") }
    }

    #[test]
    fn calls_and_results_must_match() {
        let user = || Message::user("x");
        let check =
            |messages: &[Message]| check_history(messages, |index| index.to_string()).map_err(|error| error.param);
        for messages in [
            vec![user()],
            vec![user(), calling(&["a", "b"]), result("b"), user(), result("a")],
            vec![user(), calling(&["a"]), result("a"), calling(&["a"]), result("a")],
            vec![user(), calling(&["a", "b"]), result("a"), user()],
            vec![user(), calling(&["a"]), result("a"), Message::assistant("x")],
        ] {
            assert_eq!(check(&messages), Ok(()), "{messages:?}");
        }
        for (messages, at) in [
            (vec![user(), result("a")], "1"),
            (vec![user(), calling(&["a"]), result("b")], "2"),
            (vec![user(), calling(&["a"]), result("a"), result("a")], "3"),
            (vec![user(), calling(&["a", "b"]), result("a"), calling(&["c"])], "1"),
            (vec![user(), calling(&["a"]), user(), Message::assistant("x")], "1"),
            (vec![user(), calling(&["a", "a"])], "1"),
            (vec![user(), calling(&["a"]), result("a"), Message::assistant("x"), result("a")], "4"),
        ] {
            assert_eq!(check(&messages), Err(Some(at.to_owned())), "{messages:?}");
        }
    }
}
