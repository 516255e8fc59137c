//! `GET /openapi.json`: what the server takes and gives, in OpenAPI 3.1; and `GET /docs`, the same as a page.
//!
//! Requests are read by hand, for their errors; so the document is written by hand as well, and held to the code by
//! tests: every property that is documented is taken and read, every field that is read is documented, and so is
//! every route.

mod page;
mod property;
mod requests;
mod responses;

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use crate::state::AppState;
use requests::{chat, completions, messages, responses as responses_request};

/// The routes of this folder.
pub fn routes() -> Router<AppState> {
    Router::new().route("/openapi.json", get(document)).route("/docs", get(shown))
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
static TEXT: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());
static PAGE: LazyLock<String> = LazyLock::new(|| page::html(&DOCUMENT));

async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

async fn shown() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, PAGE.as_str()).into_response()
}

fn build() -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[method] = operation;
    };
    add("/v1/chat/completions", "post", generation("Answer a conversation", "ChatRequest", "ChatCompletion", true));
    add("/v1/completions", "post", generation("Continue raw text", "CompletionRequest", "Completion", true));
    add("/v1/responses", "post", generation("Answer with typed items", "ResponsesRequest", "Response", true));
    add(
        "/v1/responses/input_tokens",
        "post",
        generation("Count the tokens of a responses request", "ResponsesRequest", "InputTokens", false),
    );
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" },
        "description": "Id of a response that was stored." });
    add("/v1/responses/{id}", "get", lookup("A stored response", &[&id], "Response"));
    add("/v1/responses/{id}", "delete", lookup("Forget a stored response", &[&id], "Deleted"));
    let query = |name: &str, schema: Value, description: &str| json!({ "name": name, "in": "query", "schema": schema, "description": description });
    let limit =
        query("limit", json!({ "type": "integer", "minimum": 1, "maximum": 100, "default": 20 }), "Most items.");
    let order = query("order", json!({ "enum": ["asc", "desc"], "default": "desc" }), "Oldest or newest first.");
    let after = query("after", json!({ "type": "string" }), "Id of the item after which to begin.");
    add(
        "/v1/responses/{id}/input_items",
        "get",
        lookup("What a response answered", &[&id, &limit, &order, &after], "List"),
    );
    add(
        "/v1/responses/{id}/cancel",
        "post",
        json!({ "summary": "Only for background responses, which are not supported: always refused", "parameters": [id],
            "responses": errors() }),
    );
    add("/v1/messages", "post", generation("Answer a conversation (Anthropic)", "MessagesRequest", "Message", true));
    add(
        "/v1/messages/count_tokens",
        "post",
        generation("Count the tokens of a messages request", "MessagesRequest", "CountedTokens", false),
    );
    add(
        "/v1/models",
        "get",
        lookup("The models' names; with an anthropic-version header in Anthropic's shape", &[], "Models"),
    );
    let name = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" },
        "description": "A model's name. Any is answered, unless the server was started with --strict-model." });
    add("/v1/models/{id}", "get", lookup("A model", &[&name], "Model"));
    add("/health", "get", lookup("Whether the server runs. Needs no key", &[], "Health"));
    add("/healthz", "get", lookup("As /health", &[], "Health"));
    add("/props", "get", lookup("Settings of the server", &[], "Props"));
    add("/metrics", "get", text("Counters for Prometheus", "application/openmetrics-text"));
    add(
        "/openapi.json",
        "get",
        json!({ "summary": "This document", "responses": with_errors(json!({ "description": "OpenAPI 3.1",
        "content": { "application/json": { "schema": { "type": "object" } } } })) }),
    );
    add("/docs", "get", text("This document as a page", "text/html"));
    add("/", "get", text("A page to talk to the model", "text/html"));

    let mut schemas = responses::schemas();
    for (name, properties) in [
        ("ChatRequest", chat()),
        ("CompletionRequest", completions()),
        ("ResponsesRequest", responses_request()),
        ("MessagesRequest", messages()),
    ] {
        schemas.insert(name.to_owned(), property::object(&properties));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ds4",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT", "identifier": "MIT" },
            "description": "DeepSeek V4 Flash behind the APIs that agents and SDKs speak. All paths are served without /v1 as well. \
                Fields that are not listed are ignored; listed ones with a bad value are refused by name.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "header": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
        },
        "security": [{}, { "bearer": [] }, { "header": [] }],
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn errors() -> Value {
    json!({ "default": { "description": "What is wrong, in the shape of the API's family",
        "content": { "application/json": { "schema": reference("Error") } } } })
}

fn with_errors(good: Value) -> Value {
    let mut responses = errors();
    responses["200"] = good;
    responses
}

/// An endpoint that takes a body. `streams`: the answer can come as events.
fn generation(summary: &str, request: &str, response: &str, streams: bool) -> Value {
    let mut content = json!({ "application/json": { "schema": reference(response) } });
    if streams {
        let description = "With \"stream\": true, events whose data is JSON";
        content["text/event-stream"] = json!({ "schema": { "description": description } });
    }
    json!({
        "summary": summary,
        "requestBody": { "required": true, "content": { "application/json": { "schema": reference(request) } } },
        "responses": with_errors(json!({ "description": "The answer", "content": content })),
    })
}

fn lookup(summary: &str, parameters: &[&Value], response: &str) -> Value {
    let good = json!({ "description": summary, "content": { "application/json": { "schema": reference(response) } } });
    json!({ "summary": summary, "parameters": parameters, "responses": with_errors(good) })
}

fn text(summary: &str, media: &str) -> Value {
    let good = json!({ "description": summary, "content": { media: { "schema": { "type": "string" } } } });
    json!({ "summary": summary, "responses": with_errors(good) })
}

#[cfg(test)]
mod tests;
