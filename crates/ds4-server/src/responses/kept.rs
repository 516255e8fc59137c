//! Asking for responses that are kept.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use ds4_chat::json::Json;
use serde_json::{Value, json};

use super::request::plain;
use super::store::StoredResponse;
use crate::admin::json_response;
use crate::error::{ApiError, ErrorKind};
use crate::state::AppState;

/// Items of a page where the request does not say.
const PAGE: usize = 20;

/// Most items of a page.
const LARGEST_PAGE: usize = 100;

/// `GET /v1/responses/{id}`: the response as it was given.
pub async fn retrieve(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let stored = find(&state, &id)?;
    if parameter(query.as_deref(), "stream").is_some_and(|value| value == "true") {
        let message = "a response that is kept cannot be streamed; leave stream out";
        return Err(ApiError::unsupported(ErrorKind::UnsupportedValue, "stream", message));
    }
    Ok(json_response(&stored.response))
}

/// `DELETE /v1/responses/{id}`.
pub async fn delete(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response, ApiError> {
    if !state.responses().remove(&id) {
        return Err(not_found(&id));
    }
    Ok(json_response(&json!({ "id": id, "object": "response", "deleted": true })))
}

/// `POST /v1/responses/{id}/cancel`: there are no responses that run without a connection.
pub async fn cancel(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response, ApiError> {
    find(&state, &id)?;
    let message = "only background responses can be cancelled; close the connection of one that is running";
    Err(ApiError::new(ErrorKind::Invalid, message))
}

/// `GET /v1/responses/{id}/input_items`: what the response answered, the conversation before it included.
pub async fn input_items(
    State(state): State<AppState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let stored = find(&state, &id)?;
    let query = query.as_deref();
    let limit = match parameter(query, "limit") {
        None => PAGE,
        Some(text) => text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit)).ok_or_else(|| {
            ApiError::invalid("limit", format!("limit is {text:?}; it must be an integer from 1 to {LARGEST_PAGE}"))
        })?,
    };
    let is_ascending = match parameter(query, "order") {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(other) => return Err(ApiError::invalid("order", format!("order is {other:?}; it must be asc or desc"))),
    };
    let mut items = stored.all_input();
    if !is_ascending {
        items.reverse();
    }
    let item_id = |item: &&Arc<Json>| item.get("id").and_then(Json::as_str).unwrap_or_default().to_owned();
    let start = match parameter(query, "after") {
        None => 0,
        Some(after) => {
            let found = items.iter().position(|item| item_id(item) == after);
            found.map(|index| index + 1).ok_or_else(|| {
                ApiError::invalid("after", format!("after is {after:?}, which is no item of this response"))
            })?
        }
    };
    let rest = items.get(start..).unwrap_or_default();
    let page = &rest[..limit.min(rest.len())];
    Ok(json_response(&json!({
        "object": "list",
        "data": page.iter().map(|item| listed(item)).collect::<Vec<_>>(),
        "first_id": page.first().map(item_id),
        "last_id": page.last().map(item_id),
        "has_more": rest.len() > page.len(),
    })))
}

/// An item as it is listed: of the explicit form, whatever the client sent.
fn listed(item: &Json) -> Value {
    let mut item = plain(item);
    if item["type"].is_null() {
        item["type"] = json!("message");
    }
    if item["type"] == "message"
        && let Some(text) = item["content"].as_str()
    {
        let kind = if item["role"] == "assistant" { "output_text" } else { "input_text" };
        let mut part = json!({ "type": kind, "text": text });
        if kind == "output_text" {
            part["annotations"] = json!([]);
        }
        item["content"] = json!([part]);
    }
    if item["status"].is_null() {
        item["status"] = json!("completed");
    }
    item
}

fn find(state: &AppState, id: &str) -> Result<Arc<StoredResponse>, ApiError> {
    state.responses().get(id).ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("Response with id '{id}' not found."))
}

/// A parameter of a query. Values that need escapes mean nothing here.
fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}
