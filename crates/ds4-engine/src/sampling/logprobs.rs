//! Log-probabilities of the model's own distribution.

use ds4_model::logits::Softmax;

use super::truncation::rank;

/// Most tokens whose log-probabilities can be asked for beside the sampled one.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token id.
    pub token: u32,
    /// The natural logarithm of its probability; -∞ if the model excludes it.
    pub logprob: f32,
}

/// Log-probabilities at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the sampled token.
    pub logprob: f32,
    /// Of the likeliest tokens, likeliest first, of equal ones the lowest id first. As many as were asked for; the sampled
    /// token is among them only if it is one of the likeliest.
    pub top: Vec<TokenLogprob>,
}

/// The model's distribution at one step: enough to give the log-probability of any token.
pub(super) struct Distribution {
    /// log Σ exp(logit), in float64.
    log_sum: f64,
}

impl Distribution {
    /// logits: [n_vocab], no NaN, no +∞; `max` is the largest, finite.
    pub(super) fn new(logits: &[f32], max: f32) -> Self {
        Self { log_sum: f64::from(max) + libm::log(Softmax::new(max, 1.0).sum(logits)) }
    }

    /// Of a token with this logit; of a NaN, as of -∞, -∞.
    pub(super) fn of(&self, logit: f32) -> f32 {
        if logit.is_nan() { f32::NEG_INFINITY } else { (f64::from(logit.min(f32::MAX)) - self.log_sum) as f32 }
    }

    /// The `count` likeliest tokens.
    pub(super) fn top(&self, logits: &[f32], count: usize) -> Vec<TokenLogprob> {
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
        for (token, &logit) in logits.iter().enumerate() {
            let entry = (token as u32, logit);
            if top.len() == count && top.last().is_none_or(|last| rank(&entry, last).is_gt()) {
                continue;
            }
            let place = top.partition_point(|other| rank(other, &entry).is_lt());
            top.insert(place, entry);
            top.truncate(count);
        }
        top.into_iter().map(|(token, logit)| TokenLogprob { token, logprob: self.of(logit) }).collect()
    }
}
