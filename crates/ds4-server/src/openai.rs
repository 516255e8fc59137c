//! What the APIs of the OpenAI family write alike.

use serde_json::{Value, json};

use crate::generation::Usage;

/// Token counts as chat and completions report them, with the fields of DeepSeek's own API beside OpenAI's.
pub fn usage(usage: &Usage) -> Value {
    let missed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens, "cache_write_tokens": missed },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
        "prompt_cache_hit_tokens": usage.cached_tokens,
        "prompt_cache_miss_tokens": missed,
    })
}

/// A log-probability as JSON, which has no infinity: OpenAI's value for a token that is as good as impossible.
pub fn logprob(logprob: f32) -> f32 {
    const IMPOSSIBLE: f32 = -9999.0;
    logprob.max(IMPOSSIBLE)
}
