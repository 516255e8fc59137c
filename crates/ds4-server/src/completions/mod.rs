//! `POST /v1/completions`: raw text, continued.

pub(crate) mod request;
mod response;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;

use crate::admin::json_response;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::models::check_model;
use crate::session::Session;
use crate::sse;
use crate::state::{AppState, defect};
use request::CompletionRequest;
use response::CompletionStream;

/// The routes of this folder.
pub fn routes() -> Router<AppState> {
    Router::new().route("/v1/completions", post(create))
}

async fn create(
    State(state): State<AppState>,
    session: Session,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    // Encoding the prompt takes time in proportion to it.
    let reading = {
        let state = state.clone();
        tokio::task::spawn_blocking(move || CompletionRequest::read(&body, state.config(), state.tokenizer()))
    };
    let request = reading.await.map_err(|error| defect(&error))??;
    check_model(&state, &request.model)?;
    state.trace_ignored(&request.ignored);
    let mut format = CompletionStream::new(&state, request.model, request.include_usage, request.logprobs);
    let prepared = state.prepare(session.with(request.generation)).await?;
    let generation = state.start(prepared)?;
    if request.stream {
        return Ok(sse::respond(generation, format));
    }
    let turn = generation.collect().await?;
    Ok(json_response(&format.completion(&turn)))
}
