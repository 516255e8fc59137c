//! The core that all APIs share: from a conversation to a stream of neutral events.
//!
//! ```text
//! GenerationRequest --prepare--> Prepared --start--> GenerationStream --next / collect--> GenerationEvent / Turn
//! ```
//!
//! An API's own code turns its JSON into a [`GenerationRequest`] and events into its own. Everything between is here:
//! rendering, replay of sampled turns, limits, constraints and demanded calls, stop sequences, cancellation, keepalive, usage.

mod answer;
mod constraint;
mod event;
mod guide;
mod prepare;
mod request;
mod stream;
mod titles;
mod turn_text;

pub use event::{Delta, Finish, FinishReason, GenerationEvent, ScoredToken, TokenLogprob, Usage};
pub use prepare::Prepared;
pub(crate) use prepare::prepare;
pub use request::{ChatPrompt, ClientSampling, GenerationRequest, PromptSource, Strict, ToolInput};
pub use stream::{GenerationStream, Turn, TurnCall};
