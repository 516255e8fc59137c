//! The HTTP APIs that coding agents and SDKs speak, over the ds4 engine.
//!
//! ```text
//! connection (serve) -> path (paths) -> request id, error bodies (router) -> origin, key (guard) -> an API's module
//! JSON (body, fields) -> GenerationRequest (generation) -> prompt -> engine -> GenerationEvent -> frames (sse) or one body
//! ```
//!
//! # How an API is written
//!
//! Each API has a folder of its own with its routes, its request, its response and its stream. It shares:
//!
//! - `body::JsonBody`, the extractor of a request's body: an exact [`ds4_chat::json::Json`], every way to be wrong refused;
//! - `fields`, to read values with their paths: `object.get("top_p").map(|f| f.number(0.0, 1.0)).transpose()?`;
//! - `request_fields`, for what several APIs spell alike: thinking and effort, tools, stop sequences, text parts;
//! - [`ApiError`], which an endpoint returns; the router writes its body in the family's shape;
//! - [`generation`], the core:
//!
//! ```text
//! let chat = ChatPrompt::new(conversation, thinking);
//! let request = GenerationRequest { sampling, max_tokens, stop, ..GenerationRequest::new(Api::Messages, PromptSource::Chat(Box::new(chat))) };
//! let prepared = state.prepare(request).await?;     // 400 before any work: overflow, bad parameters
//! let generation = state.start(prepared)?;          // 429 or 503 with retry-after
//! // not streamed: dropped with the connection, and then cancelled
//! let turn = generation.collect().await?;
//! // streamed: StreamFormat turns each event into frames
//! Ok(sse::respond(generation, format))
//! ```
//!
//! [`GenerationStream::cached_tokens`](generation::GenerationStream::cached_tokens) waits a moment for the cached tokens where
//! the opening event must tell them. [`GenerationStream::turn_id`](generation::GenerationStream::turn_id) is the id under
//! which the turn's tokens are kept for replay, also without calls: a signature to give to the client, and to be put into
//! [`ChatPrompt::turn_ids`](generation::ChatPrompt::turn_ids) when it comes back. Calls are found by their own ids.

mod admin;
mod api;
mod body;
mod chat;
mod completions;
mod config;
mod error;
mod fields;
pub mod generation;
mod guard;
mod ids;
mod in_service;
mod kv_metrics;
mod messages;
mod metrics;
mod models;
#[cfg(test)]
mod official;
mod openai;
mod openapi;
mod page;
mod paths;
mod replay;
mod request_fields;
mod responses;
mod router;
mod serve;
mod session;
pub mod sse;
mod state;
mod trace;

pub use api::Api;
pub use config::{Limits, ServerConfig, UnsupportedMedia};
pub use error::{ApiError, ErrorKind, Family};
pub use replay::ReplayStore;
pub use serve::serve;
pub use state::{AppState, SetupError};
