//! `POST /v1/responses`, and the responses that are kept.

mod continued;
mod custom_input;
mod disk;
mod input;
mod kept;
mod output;
pub(crate) mod request;
mod response;
mod sealed;
mod store;
mod stream;
mod tools;

use axum::Router;
use axum::extract::State;
use axum::response::Response as HttpResponse;
use axum::routing::{get, post};
use serde_json::json;

use crate::admin::json_response;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorKind};
use crate::generation::GenerationEvent;
use crate::models::check_model;
use crate::session::Session;
use crate::sse;
use crate::state::AppState;
use request::{Context, ResponsesRequest};
use response::Response;
pub use sealed::Seal;
pub use store::ResponseStore;
use stream::ResponseStream;

/// The routes of this folder.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/responses", post(create))
        .route("/v1/responses/input_tokens", post(input_tokens))
        .route("/v1/responses/{id}", get(kept::retrieve).delete(kept::delete))
        .route("/v1/responses/{id}/input_items", get(kept::input_items))
        .route("/v1/responses/{id}/cancel", post(kept::cancel))
}

fn read(state: &AppState, JsonBody(body): JsonBody) -> Result<ResponsesRequest, ApiError> {
    let context = Context { config: state.config(), store: state.responses(), seal: state.seal() };
    let request = ResponsesRequest::read(&body, context)?;
    check_model(state, &request.model)?;
    state.trace_ignored(&request.ignored);
    Ok(request)
}

async fn create(State(state): State<AppState>, session: Session, body: JsonBody) -> Result<HttpResponse, ApiError> {
    let request = read(&state, body)?;
    let prepared = state.prepare(session.with(request.generation.clone())).await?;
    let mut generation = state.start(prepared)?;
    let is_streamed = request.stream;
    let mut response = Response::new(&state, request, &generation);
    if is_streamed {
        return Ok(sse::respond(generation, ResponseStream::new(response)));
    }
    while let Some(event) = generation.next().await {
        if let GenerationEvent::Failed(error) = event {
            return Err(error);
        }
        let last = response.take(&event).pop();
        if let (GenerationEvent::Finished(_), Some((_, mut end))) = (event, last) {
            return Ok(json_response(&end["response"].take()));
        }
    }
    Err(ApiError::new(ErrorKind::Engine, "server error: the answer has no end"))
}

/// How many tokens the input of a request has, also if that is too many.
async fn input_tokens(State(state): State<AppState>, body: JsonBody) -> Result<HttpResponse, ApiError> {
    let request = read(&state, body)?;
    let tokens = match state.prepare(request.generation).await {
        Ok(prepared) => prepared.prompt_tokens(),
        Err(ApiError { kind: ErrorKind::ContextLength { prompt, .. }, .. }) => prompt,
        Err(error) => return Err(error),
    };
    Ok(json_response(&json!({ "object": "response.input_tokens", "input_tokens": tokens })))
}
