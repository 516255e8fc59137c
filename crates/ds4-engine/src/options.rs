//! How an engine is set up.

use std::time::Duration;

use ds4_model::StateLayout;

use crate::EngineError;

/// Settings of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences computed together. 1.
    pub parallel: usize,
    /// Prompt tokens per step, of all sequences together. More computes a prompt faster; fewer lets decoding
    /// sequences and cancellations wait less. `None`: what the backend is quick with, 512 on most.
    pub prefill_chunk: Option<usize>,
    /// Requests that may wait while `parallel` others run. 64.
    pub queue: usize,
    /// Context in tokens: prompt and answer together. `None`: what the model was made for.
    pub ctx: Option<usize>,
    /// Most states to keep in memory for prompts that continue them; 0 keeps none. 4096.
    pub retain: usize,
    /// Most bytes of all states in memory, those of running sequences included. `None`: no limit. It bounds the context, too: a
    /// request that could outgrow it is not accepted, and one for which there is no room beside the others waits.
    pub kv_ram: Option<u64>,
    /// Events of one generation that may lie unread before it has to wait. 256.
    pub event_buffer: usize,
    /// How long a generation waits for its events to be read before it is cancelled. 60 s.
    pub stall_timeout: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            parallel: 1,
            prefill_chunk: None,
            queue: 64,
            ctx: None,
            retain: 4096,
            kv_ram: None,
            event_buffer: 256,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl EngineOptions {
    /// Checks the options against a model's context length and the memory that its states take, and returns the context to use.
    pub(crate) fn context(&self, model_context: usize, layout: &StateLayout) -> Result<usize, EngineError> {
        let at_least_one = [
            ("parallel", self.parallel),
            ("prefill_chunk", self.prefill_chunk.unwrap_or(1)),
            ("event_buffer", self.event_buffer),
        ];
        if let Some((option, value)) = at_least_one.into_iter().find(|&(_, value)| value == 0) {
            return Err(EngineError::Option { option, value, expected: "at least 1".to_owned() });
        }
        let context = match self.ctx {
            None => model_context,
            Some(ctx) if (2..=model_context).contains(&ctx) => ctx,
            Some(value) => {
                return Err(EngineError::Option {
                    option: "ctx",
                    value,
                    expected: format!("from 2 to {model_context}, the context length of the model"),
                });
            }
        };
        let Some(budget) = self.kv_ram else { return Ok(context) };
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        // Beside a running sequence the snapshot that it started from has to be there.
        let needed = |tokens| layout.sequence_bytes(tokens) + layout.sequence_bytes(0);
        let holds = layout.tokens_within(budget.saturating_sub(layout.sequence_bytes(0)));
        let least = self.ctx.unwrap_or(layout.page_tokens);
        if holds < least {
            let expected = format!("at least {} bytes, which {least} tokens of context take", needed(least));
            return Err(EngineError::Option { option: "kv_ram", value: budget, expected });
        }
        Ok(context.min(holds))
    }
}
