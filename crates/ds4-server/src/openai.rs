//! What the APIs of the OpenAI family write alike.

use serde_json::{Value, json};

use crate::generation::{ScoredToken, TokenLogprob, Usage};

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

/// Log-probabilities of tokens, as chat and responses report them.
pub fn logprob_entries(logprobs: &[TokenLogprob]) -> Vec<Value> {
    let entry = |logprob: &TokenLogprob| {
        let mut entry = scored(&logprob.token);
        entry["top_logprobs"] = logprob.top.iter().map(scored).collect();
        entry
    };
    logprobs.iter().map(entry).collect()
}

fn scored(token: &ScoredToken) -> Value {
    json!({
        "token": String::from_utf8_lossy(&token.bytes),
        "logprob": logprob(token.logprob),
        "bytes": token.bytes,
    })
}

/// A log-probability as JSON, which has no infinity: OpenAI's value for a token that is as good as impossible.
pub fn logprob(logprob: f32) -> f32 {
    const IMPOSSIBLE: f32 = -9999.0;
    logprob.max(IMPOSSIBLE)
}
