//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use crate::admin::json_response;
use crate::error::{ApiError, ErrorKind, Family};
use crate::router::family;
use crate::state::AppState;

/// Most tokens of an answer that clients are told.
const MAX_COMPLETION: usize = 65_536;

/// When the weights were published, 24 April 2026, in seconds since 1970 and as a date.
const PUBLISHED: (u64, &str) = (1_776_988_800, "2026-04-24T00:00:00Z");

/// The routes of this file.
pub fn routes() -> Router<AppState> {
    Router::new().route("/v1/models", get(list)).route("/v1/models/{*id}", get(one))
}

/// Whether the server answers to a model of this name.
///
/// # Errors
/// It does not, and is strict about it.
pub(crate) fn check_model(state: &AppState, name: &str) -> Result<(), ApiError> {
    let config = state.config();
    if !config.strict_models || name == config.model_id || config.aliases.iter().any(|alias| alias == name) {
        return Ok(());
    }
    let message = format!("The model `{name}` does not exist; this server has {}", config.model_id);
    Err(ApiError { param: Some("model".to_owned()), ..ApiError::new(ErrorKind::ModelNotFound, message) })
}

async fn list(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let config = state.config();
    let ids: Vec<&str> = std::iter::once(&config.model_id).chain(&config.aliases).map(String::as_str).collect();
    let family = family("", &headers);
    let data: Vec<Value> = ids.iter().map(|id| model(&state, id, family)).collect();
    json_response(&match family {
        Family::OpenAi => json!({ "object": "list", "data": data }),
        Family::Anthropic => {
            json!({ "data": data, "has_more": false, "first_id": ids.first(), "last_id": ids.last() })
        }
    })
}

async fn one(State(state): State<AppState>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    check_model(&state, &id)?;
    Ok(json_response(&model(&state, &id, family("", &headers))))
}

fn model(state: &AppState, id: &str, family: Family) -> Value {
    let context = state.engine().context();
    let max_completion = MAX_COMPLETION.min(context);
    match family {
        Family::OpenAi => json!({
            "id": id,
            "object": "model",
            "created": PUBLISHED.0,
            "owned_by": "deepseek-ai",
            "name": "DeepSeek V4 Flash",
            "context_length": context,
            "max_model_len": context,
            "top_provider": {
                "context_length": context,
                "max_completion_tokens": max_completion,
                "is_moderated": false,
            },
            "supported_parameters": [
                "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "stream",
                "reasoning_effort", "response_format", "logprobs", "logit_bias"
            ],
        }),
        Family::Anthropic => json!({
            "type": "model",
            "id": id,
            "display_name": "DeepSeek V4 Flash",
            "created_at": PUBLISHED.1,
            "lifecycle": "active",
            "max_input_tokens": context,
            "max_tokens": max_completion,
        }),
    }
}
