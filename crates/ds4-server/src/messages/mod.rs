//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: the API that Claude Code and Anthropic's SDKs speak.

mod blocks;
mod history;
pub(crate) mod request;
mod response;
mod stream;
mod tools;

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use serde_json::json;

use crate::admin::json_response;
use crate::api::Api;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorKind};
use crate::generation::{GenerationRequest, PromptSource, Usage};
use crate::models::check_model;
use crate::router::RequestId;
use crate::session::Session;
use crate::sse;
use crate::state::AppState;
use request::{MessagesRequest, PromptRequest};
use response::Envelope;
use stream::MessagesStream;

/// How long the first event waits for the number of cached tokens, which it should tell. It is known as soon as the
/// engine looks at the request; behind other work that may take longer, and the last event tells it again.
const PATIENCE: Duration = Duration::from_millis(200);

/// The routes of this folder.
pub fn routes() -> Router<AppState> {
    Router::new().route("/v1/messages", post(create)).route("/v1/messages/count_tokens", post(count_tokens))
}

async fn create(
    State(state): State<AppState>,
    session: Session,
    Extension(RequestId(request_id)): Extension<RequestId>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request = MessagesRequest::read(&body, state.config())?;
    drop(body);
    check_model(&state, &request.model)?;
    state.trace_ignored(&request.ignored);
    let envelope = Envelope::new(&state, request.model);
    let prepared = state.prepare(session.with(request.generation)).await?;
    let begins_with_reasoning = prepared.begins_with_reasoning();
    let mut generation = state.start(prepared)?;
    if request.stream {
        let usage = Usage {
            prompt_tokens: generation.prompt_tokens(),
            cached_tokens: generation.cached_tokens(PATIENCE).await.unwrap_or(0),
            ..Usage::default()
        };
        let signature = generation.turn_id().to_owned();
        let format = MessagesStream::new(envelope, usage, signature, begins_with_reasoning, request_id);
        return Ok(sse::respond(generation, format));
    }
    let turn = generation.collect().await?;
    Ok(json_response(&envelope.message(&turn, begins_with_reasoning)))
}

/// How many tokens the prompt of a request has, also if that is too many. The engine is not asked.
async fn count_tokens(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let request = PromptRequest::read(&body, state.config())?;
    drop(body);
    check_model(&state, &request.model)?;
    let generation = GenerationRequest::new(Api::Messages, PromptSource::Chat(Box::new(request.prompt)));
    let tokens = match state.prepare(generation).await {
        Ok(prepared) => prepared.prompt_tokens(),
        Err(ApiError { kind: ErrorKind::ContextLength { prompt, .. }, .. }) => prompt,
        Err(error) => return Err(error),
    };
    Ok(json_response(&json!({ "input_tokens": tokens })))
}
