//! What a generation tells about itself, and where it tells it.

use std::time::Duration;

use crate::GenerationError;
use crate::sampling::TokenLogprobs;

/// Something that happened to a generation.
///
/// In order: one `Started`, a `Prefill` after every step of the prompt, a `Token` for every token sampled, one `Finished`.
/// `Finished` always comes, and nothing after it. A generation that ends while it waits gives only `Finished`.
#[derive(Clone, Debug)]
pub enum Event {
    /// It left the queue.
    Started(Started),
    /// More of the prompt was computed.
    Prefill(Prefill),
    /// A token was sampled.
    Token(Token),
    /// It ended.
    Finished(Finished),
}

/// A generation left the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Seed of its random numbers: the request's, or the one that was drawn.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them need not be computed again.
    pub reused_tokens: usize,
    /// Most tokens that it will sample: the request's limit, or what the context has room for.
    pub max_tokens: usize,
}

/// How far the prompt is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens computed, the reused ones included.
    pub done: usize,
    /// Tokens of the prompt.
    pub total: usize,
    /// Tokens reused.
    pub reused: usize,
}

/// A sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is certain now: complete characters that cannot be the beginning of a stop sequence. Often it is not
    /// the token's own text; joined in order, with that of [`Finished`], it is the answer's text. Control
    /// tokens and stop tokens have no text of their own.
    pub text: String,
    /// Log-probabilities, if the request asked for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// A generation ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back and turned out to be text.
    pub text: String,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
}

/// Why a generation ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FinishReason {
    /// A stop token was sampled, or the guide said that the answer is complete.
    Stop,
    /// As many tokens as were asked for, or as the context has room for.
    Length,
    /// This stop sequence was found.
    StopSequence(String),
    /// The caller cancelled it, dropped it, or did not read its events for too long; or the engine was shut down.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// Something failed.
    Error(GenerationError),
}

/// Token counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were not computed again.
    pub reused_tokens: usize,
    /// Tokens sampled, a stop token included.
    pub completion_tokens: usize,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From the request to its start.
    pub queued: Duration,
    /// From the start to the first token, or to the end if there was none.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
}

/// The other end of a generation's events is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody receives the generation's events any more")]
pub struct Disconnected;

/// Where the engine thread puts a generation's events: one end of a channel of any kind.
///
/// Nothing here may wait. A generation whose sink has no room is left out of the next steps; one that never
/// gets room is cancelled after [`EngineOptions::stall_timeout`](crate::EngineOptions::stall_timeout).
pub trait EventSink: Send {
    /// Whether the events of another step (at most two, and then `Finished`) are welcome.
    fn has_room(&mut self) -> bool;

    /// Takes an event, whether there is room or not: a step in progress is not taken back, and `Finished` always comes.
    ///
    /// # Errors
    /// Nobody receives any more. The generation is then cancelled.
    fn send(&mut self, event: Event) -> Result<(), Disconnected>;
}
