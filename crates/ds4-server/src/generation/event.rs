//! What a generation tells its API.

use ds4_engine::Timings;

/// Something that happened to a generation, in terms that every API can put in its own.
///
/// In order: at most one `Started`; any number of deltas; one `Finished` or `Failed`, and nothing after it. `KeepAlive` may
/// stand anywhere before that. A call's events are not interleaved with others.
#[derive(Clone, Debug)]
pub enum GenerationEvent {
    /// It left the queue; how much of the prompt was cached is known now.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// How many of them need not be computed again.
        cached_tokens: usize,
    },
    /// More reasoning. Never empty.
    Reasoning(Delta),
    /// More of the answer. Never empty.
    Text(Delta),
    /// A tool call begins.
    CallStart {
        /// Place of the call in the turn, from 0.
        index: usize,
        /// Its id, in the API's own form.
        id: String,
        /// Name of the tool.
        name: String,
    },
    /// More of a call's arguments: JSON text.
    CallArguments {
        /// The call.
        index: usize,
        /// The text.
        delta: String,
    },
    /// A tool call is over.
    CallEnd {
        /// The call.
        index: usize,
        /// Whether it was written to its end. If not, its arguments stay unterminated, so that no client executes half of
        /// a command.
        complete: bool,
    },
    /// Nothing else was to be told for [`keepalive`](crate::ServerConfig::keepalive).
    KeepAlive,
    /// The answer is over.
    Finished(Finish),
    /// The answer broke off. A stream must not end as if it were complete.
    Failed(crate::ApiError),
}

/// A piece of text, and the tokens that it is made of if log-probabilities were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// The text: whole characters.
    pub text: String,
    /// Its tokens.
    pub logprobs: Vec<TokenLogprob>,
}

/// A sampled token with its log-probability and those of the likeliest ones at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The sampled token.
    pub token: ScoredToken,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<ScoredToken>,
}

/// A token's bytes and the natural logarithm of its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its bytes, which need not be a whole character.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// The end of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it.
    #[default]
    Stop,
    /// This stop sequence was found.
    StopSequence(String),
    /// The model called tools.
    ToolCalls,
    /// The token limit or the end of the context.
    Length,
}

/// Token counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, all of them.
    pub prompt_tokens: usize,
    /// How many of these need not be computed again.
    pub cached_tokens: usize,
    /// Tokens sampled, without the end-of-sentence token.
    pub completion_tokens: usize,
    /// How many of these are reasoning.
    pub reasoning_tokens: usize,
}
