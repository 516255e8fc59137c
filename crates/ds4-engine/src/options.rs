//! How an engine is set up.

use std::time::Duration;

use crate::EngineError;

/// Settings of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences computed together. 1.
    pub parallel: usize,
    /// Prompt tokens per step, of all sequences together. More computes a prompt faster; fewer lets decoding
    /// sequences and cancellations wait less. 512.
    pub prefill_chunk: usize,
    /// Requests that may wait while `parallel` others run. 64.
    pub queue: usize,
    /// Context in tokens: prompt and answer together. `None`: what the model was made for.
    pub ctx: Option<usize>,
    /// States to keep in memory for prompts that continue them: those of ended generations, and the snapshots that
    /// requests ask for. 1.
    pub retain: usize,
    /// Events of one generation that may lie unread before it has to wait. 256.
    pub event_buffer: usize,
    /// How long a generation waits for its events to be read before it is cancelled. 60 s.
    pub stall_timeout: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            parallel: 1,
            prefill_chunk: 512,
            queue: 64,
            ctx: None,
            retain: 1,
            event_buffer: 256,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl EngineOptions {
    /// Checks the options against a model's context length, and returns the context to use.
    pub(crate) fn context(&self, model_context: usize) -> Result<usize, EngineError> {
        let at_least_one =
            [("parallel", self.parallel), ("prefill_chunk", self.prefill_chunk), ("event_buffer", self.event_buffer)];
        if let Some((option, value)) = at_least_one.into_iter().find(|&(_, value)| value == 0) {
            return Err(EngineError::Option { option, value, expected: "at least 1".to_owned() });
        }
        match self.ctx {
            None => Ok(model_context),
            Some(ctx) if (2..=model_context).contains(&ctx) => Ok(ctx),
            Some(value) => Err(EngineError::Option {
                option: "ctx",
                value,
                expected: format!("from 2 to {model_context}, the context length of the model"),
            }),
        }
    }
}
