//! Everything between a prompt and a stream of tokens.
//!
//! [`Engine::start`] gives a backend to the engine thread, which owns it from then on. The handle that comes back
//! is cheap to clone, knows nothing of the backend's type, and takes [`Request`]s from any thread; each answers with a
//! [`Generation`], a stream of [`Event`]s:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use ds4_engine::{Engine, EngineOptions, Event, Request};
//! # fn f(backend: ds4_model::reference::ReferenceBackend, tokenizer: Arc<ds4_chat::tokenizer::Tokenizer>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::start(backend, Arc::clone(&tokenizer), EngineOptions::default())?;
//! let mut request = Request::new(tokenizer.encode("Once upon a time"));
//! request.max_tokens = Some(100);
//! for event in engine.submit(request)? {
//!     match event {
//!         Event::Token(token) => print!("{}", token.text),
//!         Event::Finished(finished) => println!("{}\n{:?}", finished.text, finished.usage),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Data flows one way. [`Engine::submit`] checks a request and puts it into the inbox, a bounded queue. The scheduler admits
//! waiting jobs to slots, continues the longest state that the cache has of their prompts, in memory or on disk, and forms one batch
//! per step: a row for every sequence that decodes, and rows of prompts up to a budget. What a sequence generates does not
//! depend on the others, on the budget, or on what was reused: that is the backend's promise about rows, kept up here by
//! giving every generation its own sampler.

mod cache;
mod disk;
mod engine;
mod error;
mod event;
mod generation;
mod inbox;
mod job;
mod options;
mod request;
pub mod sampling;
mod scheduler;
mod stats;
mod stop;
mod text;

pub use disk::DiskError;
pub use engine::Engine;
pub use error::{EngineError, GenerationError};
pub use event::{Disconnected, Event, EventSink, FinishReason, Finished, Prefill, Started, Timings, Token, Usage};
pub use generation::{CancelHandle, Generation};
pub use options::EngineOptions;
pub use request::{MAX_WEIGHT, MIN_WEIGHT, Request};
pub use stats::KvStats;
pub use stop::{MAX_STOP_BYTES, MAX_STOP_SEQUENCES, StopError, StopMatcher};
