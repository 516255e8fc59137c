//! What to generate.

use std::time::Instant;

use crate::sampling::{Guide, SamplingParams};
use crate::{EngineError, StopMatcher};

/// Least weight of a session.
pub const MIN_WEIGHT: f64 = 0.01;
/// Greatest weight of a session.
pub const MAX_WEIGHT: f64 = 100.0;

/// A prompt to continue, and how.
pub struct Request {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to sample, at least 1. `None`: until the context is full. What the context has no room for is cut.
    pub max_tokens: Option<usize>,
    /// How tokens are sampled.
    pub sampling: SamplingParams,
    /// Strings that end the answer wherever they appear in its text. Callers for whom only a part of the text counts
    /// use a [`StopMatcher`] of their own.
    pub stop_sequences: Vec<String>,
    /// Lengths of beginnings of the prompt, in tokens, whose states are to be kept for later prompts that agree only up
    /// to there: a state cannot be rolled back. Each costs a step of its own and memory for a state. Kept anyway are the end of a
    /// generation, a place near the end of a prompt, and the place where a prompt leaves one that is known.
    pub snapshots: Vec<usize>,
    /// Tokens that end the answer, such as the end-of-sentence token.
    pub stop_tokens: Vec<u32>,
    /// A smaller context than the engine's, in tokens.
    pub context: Option<usize>,
    /// Greater goes first: out of the queue, and in the share of prefill. 0.
    pub priority: i32,
    /// Names the conversation that the request is part of, if that is known. Nothing depends on it but who is served next and
    /// which states make way when memory runs out: prefixes are found without it, and are shared between sessions.
    pub session: Option<String>,
    /// How much its session is to get beside others of the same priority, as a multiple of what a session gets that says
    /// nothing. 1.
    pub weight: f64,
    /// When the answer is no longer wanted.
    pub deadline: Option<Instant>,
    /// Follows the generation and constrains it.
    pub guide: Option<Box<dyn Guide>>,
}

impl Request {
    /// A request with default settings: no stop tokens, no limit but the context.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            max_tokens: None,
            sampling: SamplingParams::default(),
            stop_sequences: Vec::new(),
            snapshots: Vec::new(),
            stop_tokens: Vec::new(),
            context: None,
            priority: 0,
            session: None,
            weight: 1.0,
            deadline: None,
            guide: None,
        }
    }

    /// Checks everything against the model's sizes. Returns the number of tokens to sample at most, and the
    /// matcher of the stop sequences.
    pub(crate) fn check(&self, context: usize, n_vocab: usize) -> Result<(usize, StopMatcher), EngineError> {
        if self.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let context = self.context.map_or(context, |limit| limit.min(context));
        let prompt = self.prompt.len();
        if prompt >= context {
            return Err(EngineError::PromptTooLong { prompt, context });
        }
        if let Some(index) = self.prompt.iter().position(|&token| token as usize >= n_vocab) {
            return Err(EngineError::PromptToken { token: self.prompt[index], index, n_vocab });
        }
        if let Some(&snapshot) = self.snapshots.iter().find(|&&at| at == 0 || at > prompt) {
            return Err(EngineError::Snapshot { snapshot, prompt });
        }
        if self.max_tokens == Some(0) {
            return Err(EngineError::NoTokens);
        }
        if !(MIN_WEIGHT..=MAX_WEIGHT).contains(&self.weight) {
            return Err(EngineError::Weight { weight: self.weight });
        }
        self.sampling.validate(n_vocab)?;
        let matcher = StopMatcher::new(&self.stop_sequences)?;
        let room = context - prompt;
        Ok((self.max_tokens.map_or(room, |max| max.min(room)), matcher))
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("prompt_tokens", &self.prompt.len())
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("stop_sequences", &self.stop_sequences)
            .field("snapshots", &self.snapshots)
            .field("stop_tokens", &self.stop_tokens)
            .field("context", &self.context)
            .field("priority", &self.priority)
            .field("session", &self.session)
            .field("weight", &self.weight)
            .field("deadline", &self.deadline)
            .field("guided", &self.guide.is_some())
            .finish()
    }
}
