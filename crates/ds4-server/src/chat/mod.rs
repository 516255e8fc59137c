//! `POST /v1/chat/completions`.

mod messages;
pub(crate) mod request;
mod response;
mod stream;

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
use crate::state::AppState;
use request::ChatRequest;
use response::Envelope;

/// The routes of this folder.
pub fn routes() -> Router<AppState> {
    Router::new().route("/v1/chat/completions", post(create))
}

async fn create(
    State(state): State<AppState>,
    session: Session,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request = ChatRequest::read(&body, state.config())?;
    drop(body);
    check_model(&state, &request.model)?;
    state.trace_ignored(&request.ignored);
    let envelope = Envelope::new(&state, request.model);
    let prepared = state.prepare(session.with(request.generation)).await?;
    let generation = state.start(prepared)?;
    if request.stream {
        let format = stream::ChatStream::new(envelope, request.thinking, request.include_usage);
        return Ok(sse::respond(generation, format));
    }
    let turn = generation.collect().await?;
    Ok(json_response(&envelope.completion(&turn, request.thinking, request.logprobs)))
}
