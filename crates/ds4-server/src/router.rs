//! All routes, and what every response gets.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, ErrorKind, Family};
use crate::guard;
use crate::state::AppState;

/// All routes of the server.
pub fn router(state: AppState) -> Router {
    Router::new()
        .merge(crate::admin::routes())
        .merge(crate::models::routes())
        .merge(crate::openapi::routes())
        .merge(crate::page::routes())
        .merge(crate::chat::routes())
        .merge(crate::completions::routes())
        .merge(crate::responses::routes())
        .merge(crate::messages::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .layer(middleware::from_fn_with_state(state.clone(), finish))
        .with_state(state)
}

async fn not_found(request: Request) -> ApiError {
    let message = format!("nothing is served at {}", request.uri().path());
    ApiError::new(ErrorKind::NotFound, message)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!("{} does not take {} requests", request.uri().path(), request.method());
    ApiError::new(ErrorKind::MethodNotAllowed, message)
}

/// The id of a request, in its extensions and in the response's headers.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Gives each request an id, and errors the body of the family that was asked.
async fn finish(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let family = family(request.uri().path(), request.headers());
    let id = state.ids().next("req_");
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        state.metrics().rejected(error.kind);
        if let Some(trace) = state.trace() {
            trace.line("refused", serde_json::json!({ "request_id": id, "path": path, "error": error.message }));
        }
        let body = error.body(family, &id).to_string();
        let mut headers = response.headers().clone();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response = (response.status(), headers, body).into_response();
    }
    if let Some(trace) = state.trace() {
        let status = response.status().as_u16();
        let fields = serde_json::json!({ "request_id": id, "method": method.as_str(), "path": path, "status": status });
        trace.line("response", fields);
    }
    // Letters, digits and an underscore.
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value.clone());
        response.headers_mut().insert("request-id", value);
    }
    response
}

/// The family of a path's API; elsewhere what the client's headers look like.
pub fn family(path: &str, headers: &HeaderMap) -> Family {
    if path.starts_with("/v1/messages") || headers.contains_key("anthropic-version") {
        Family::Anthropic
    } else {
        Family::OpenAi
    }
}
