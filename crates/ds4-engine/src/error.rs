//! What can go wrong: before a generation begins, and while it runs.

use std::sync::Arc;

use ds4_model::ModelError;

use crate::StopError;
use crate::disk::DiskError;
use crate::request::{MAX_WEIGHT, MIN_WEIGHT};
use crate::sampling::{ParamsError, SampleError};

/// Why the engine did not start, or did not accept a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// An engine option that makes no sense.
    #[error("engine option {option} is {value}; it must be {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: usize,
        /// What is accepted.
        expected: String,
    },

    /// The operating system gave no thread.
    #[error("the engine thread could not be started: {0}")]
    Thread(#[source] std::io::Error),

    /// The store of prefixes on disk.
    #[error(transparent)]
    Disk(#[from] DiskError),

    /// The operating system gave no random numbers.
    #[error("no random seed could be drawn from the operating system: {0}; give the request a seed")]
    Seed(#[source] getrandom::Error),

    /// Nothing to continue.
    #[error("the prompt is empty; it needs at least one token")]
    EmptyPrompt,

    /// A prompt that leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens, but the context holds {context} and the answer needs at least one of them; \
         shorten the prompt or use a larger context"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },

    /// A token id that the model does not have.
    #[error(
        "token {index} of the prompt (counted from 0) has id {token}, but the model's vocabulary has {n_vocab} tokens; \
         the prompt was encoded with another tokenizer"
    )]
    PromptToken {
        /// The id.
        token: u32,
        /// Where in the prompt.
        index: usize,
        /// Size of the vocabulary.
        n_vocab: usize,
    },

    /// A snapshot outside the prompt.
    #[error(
        "a snapshot after {snapshot} tokens is impossible: the prompt has {prompt}, and a snapshot needs at least one"
    )]
    Snapshot {
        /// Where it should be taken.
        snapshot: usize,
        /// Tokens of the prompt.
        prompt: usize,
    },

    /// A session's weight out of range.
    #[error("a session's weight is {weight}; it must be from {MIN_WEIGHT} to {MAX_WEIGHT}")]
    Weight {
        /// The weight.
        weight: f64,
    },

    /// An answer of no tokens.
    #[error("max_tokens is 0; it must be at least 1")]
    NoTokens,

    /// A sampling parameter.
    #[error(transparent)]
    Sampling(#[from] ParamsError),

    /// The stop sequences.
    #[error(transparent)]
    Stop(#[from] StopError),

    /// As many requests as the engine takes.
    #[error("the engine is busy: {capacity} requests are running or waiting, and it takes no more; try again later")]
    QueueFull {
        /// Most requests running or waiting.
        capacity: usize,
    },

    /// It takes no requests any more.
    #[error("the engine takes no more requests: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a generation ended early.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// The backend failed.
    #[error("the model could not be computed: {0}")]
    Backend(Arc<ModelError>),

    /// No token could be sampled.
    #[error(transparent)]
    Sampling(#[from] SampleError),

    /// A defect of the program.
    #[error("the engine had to stop because of a defect in it: {0}")]
    Defect(String),
}

impl From<ModelError> for GenerationError {
    fn from(error: ModelError) -> Self {
        Self::Backend(Arc::new(error))
    }
}
