//! What a request goes on from: the conversation so far, and its own input.

use std::collections::HashSet;
use std::sync::Arc;

use ds4_chat::conversation::{Content, Instructions, Message};
use ds4_chat::json::Json;

use super::input::{Transcript, transcript};
use super::request::Context;
use super::store::{ResponseStore, StoredResponse};
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};

/// The response that the request names to be continued.
///
/// # Errors
/// It is not kept.
pub fn previous(object: &Object<'_>, store: &ResponseStore) -> Result<Option<Arc<StoredResponse>>, ApiError> {
    let Some(field) = object.get("previous_response_id") else { return Ok(None) };
    let id = field.str()?;
    store.get(id).map(Some).ok_or_else(|| {
        let message = format!("Previous response with id '{id}' not found.");
        ApiError::unsupported(ErrorKind::PreviousResponseNotFound, field.path(), message)
    })
}

/// The kept response whose calls are answered by an input that begins with results of tools: nothing before them in the input can
/// have made these calls, so the input goes on where that response ended.
///
/// # Errors
/// None that is kept made the first of them.
pub fn response_of_results(input: &[Json], store: &ResponseStore) -> Result<Option<Arc<StoredResponse>>, ApiError> {
    let Some(first) = input.first() else { return Ok(None) };
    let kind = first.get("type").and_then(Json::as_str);
    let is_result = matches!(kind, Some("function_call_output" | "custom_tool_call_output"));
    let Some(call_id) = first.get("call_id").and_then(Json::as_str).filter(|_| is_result) else { return Ok(None) };
    store.with_call(call_id).map(Some).ok_or_else(|| {
        let message = format!(
            "No tool call found for tool output with call_id '{call_id}'. No response that is kept here made this call: \
             send the whole conversation"
        );
        ApiError::invalid("input[0]", message)
    })
}

/// The request's own input as items.
///
/// # Errors
/// None where there must be some; too many.
pub fn input_items(object: &Object<'_>, is_continued: bool, config: &ServerConfig) -> Result<Vec<Json>, ApiError> {
    let Some(field) = object.get("input") else {
        if is_continued || object.get("instructions").is_some() {
            return Ok(Vec::new());
        }
        let message = "the field input is missing; send a text or a list of items, or instructions";
        return Err(ApiError::invalid("input", message));
    };
    if let Some(text) = field.json().as_str() {
        let part = [("type", "input_text"), ("text", text)];
        let part = Json::Object(part.map(|(name, value)| (name.to_owned(), Json::from(value))).to_vec());
        let message =
            [("type", Json::from("message")), ("role", Json::from("user")), ("content", Json::Array(vec![part]))];
        return Ok(vec![Json::Object(message.map(|(name, value)| (name.to_owned(), value)).to_vec())]);
    }
    let Some(items) = field.json().as_array() else { return Err(field.must_be("a string or an array of items")) };
    if items.is_empty() {
        return Err(field.refused("input is an empty list; send at least one item"));
    }
    if items.len() > config.limits.messages {
        let message = format!("input has {} items; at most {} are accepted", items.len(), config.limits.messages);
        return Err(field.refused(message));
    }
    Ok(items.to_vec())
}

/// The messages: instructions, the conversation so far, the new input.
///
/// # Errors
/// The first item that is wrong, by its path.
pub fn messages(
    object: &Object<'_>,
    input: &[Json],
    previous: Option<&StoredResponse>,
    context: Context<'_>,
) -> Result<Transcript, ApiError> {
    // References to items that are kept stand for them.
    let reference = |item: &Json| {
        let is_reference = item.get("type").and_then(Json::as_str) == Some("item_reference");
        item.get("id").and_then(Json::as_str).filter(|_| is_reference).map(str::to_owned)
    };
    let references: Vec<Option<String>> = input.iter().map(reference).collect();
    let wanted: HashSet<&str> = references.iter().flatten().map(String::as_str).collect();
    let referenced = context.store.items(&wanted);
    let own = input.iter().zip(&references).enumerate().map(|(index, (item, id))| {
        let kept = id.as_ref().and_then(|id| referenced.get(id)).map(|item| &**item);
        Field::at(kept.unwrap_or(item), format!("input[{index}]"))
    });
    let earlier = previous.map(StoredResponse::conversation).unwrap_or_default();
    let earlier = earlier.into_iter().map(|item| Field::at(item, "previous_response_id"));
    let items: Vec<Field<'_>> = earlier.chain(own).collect();
    let mut transcript = transcript(&items, context.config, context.seal)?;
    if let Some(instructions) = object.get("instructions") {
        let content = Content::text(instructions.str()?);
        transcript.messages.insert(0, Message::System(Instructions { content, ..Instructions::default() }));
        for (index, _) in &mut transcript.turn_ids {
            *index += 1;
        }
    }
    Ok(transcript)
}
