//! Everything between a prompt and a stream of tokens.

pub mod sampling;
mod stop;

pub use stop::{MAX_STOP_BYTES, MAX_STOP_SEQUENCES, StopError, StopMatcher};
