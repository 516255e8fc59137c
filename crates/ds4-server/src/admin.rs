//! Health, metrics and properties. Nothing here waits for a generation.

use std::fmt::Display;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::metrics;
use crate::state::AppState;

/// The routes of this file.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/health", get(health))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics_text))
        .route("/props", get(props))
}

/// A JSON response: a JSON value of either kind.
pub(crate) fn json_response(body: &impl Display) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The server accepts connections only once the model is loaded, so whoever can ask gets this answer.
async fn health() -> Response {
    json_response(&json!({ "status": "ok" }))
}

async fn metrics_text(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics().encode()).into_response()
}

async fn props(State(state): State<AppState>) -> Response {
    let (config, engine) = (state.config(), state.engine());
    json_response(&json!({
        "model": config.model_id,
        "aliases": config.aliases,
        "profile": format!("{:?}", state.profile()).to_lowercase(),
        "n_ctx": engine.context(),
        "parallel": engine.options().parallel,
        "queue": engine.options().queue,
        "client_sampling_in_thinking": config.client_sampling_in_thinking,
        "build": concat!("ds4 ", env!("CARGO_PKG_VERSION")),
        "replayable_turns": state.replay().len(),
    }))
}
