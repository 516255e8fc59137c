//! Penalties on tokens that were there already.
//!
//! - **Repetition** (Keskar et al. 2019, section 4.1): for every token of the prompt or the answer, the logit is divided by
//!   the penalty if positive, multiplied if negative.
//! - **Frequency and presence** (the OpenAI API): for every token of the answer,
//!   `logit -= frequency * count + presence`. The prompt does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::SamplingParams;

/// The tokens of a generation so far, as far as its penalties need them, and the penalties.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// Tokens of the prompt; empty without a repetition penalty.
    prompt: BTreeSet<u32>,
    /// How often each token was sampled; empty without any penalty.
    sampled: BTreeMap<u32, u32>,
}

impl Penalties {
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let repeats = params.repetition_penalty != 1.0;
        Self {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            prompt: if repeats { prompt.iter().copied().collect() } else { BTreeSet::new() },
            sampled: BTreeMap::new(),
        }
    }

    /// Whether logits stay as they are.
    pub(super) fn is_off(&self) -> bool {
        self.repetition == 1.0 && self.presence == 0.0 && self.frequency == 0.0
    }

    /// Counts a sampled token.
    pub(super) fn accept(&mut self, token: u32) {
        if !self.is_off() {
            let count = self.sampled.entry(token).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    /// logits: [n_vocab], no NaN, no +∞; neither is there afterwards.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        if self.is_off() {
            return;
        }
        if self.repetition != 1.0 {
            let only_prompt = self.prompt.iter().filter(|token| !self.sampled.contains_key(token));
            for &token in only_prompt.chain(self.sampled.keys()) {
                if let Some(logit) = logits.get_mut(token as usize) {
                    let scaled = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
                    *logit = within(*logit, scaled);
                }
            }
        }
        for (&token, &count) in &self.sampled {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = within(*logit, *logit - (self.frequency * count as f32 + self.presence));
            }
        }
    }
}

/// A penalized logit as a number: however large the penalty, what the model allows stays possible.
fn within(before: f32, after: f32) -> f32 {
    if before == f32::NEG_INFINITY { before } else { after.clamp(f32::MIN, f32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalized(params: SamplingParams, prompt: &[u32], sampled: &[u32]) -> Vec<f32> {
        let mut penalties = Penalties::new(&params, prompt);
        sampled.iter().for_each(|&token| penalties.accept(token));
        let mut logits = vec![2.0, -2.0, 2.0, -2.0, f32::NEG_INFINITY];
        penalties.apply(&mut logits);
        logits
    }

    #[test]
    fn repetition_counts_prompt_and_answer_once_each() {
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        let logits = penalized(params, &[0, 0, 1], &[1, 4, 2, 2]);
        assert_eq!(logits, [1.0, -4.0, 1.0, -2.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn frequency_and_presence_count_the_answer_only() {
        let params = SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..SamplingParams::default() };
        let logits = penalized(params, &[0, 1], &[2, 3, 2, 2, 4]);
        assert_eq!(logits, [2.0, -2.0, 2.0 - 1.75, -2.75, f32::NEG_INFINITY]);
    }

    #[test]
    fn tokens_outside_the_vocabulary_and_overflow_are_harmless() {
        let params = SamplingParams { repetition_penalty: 1e-40, ..SamplingParams::default() };
        let logits = penalized(params, &[0, 9], &[77]);
        assert_eq!(logits[0], f32::MAX);
    }

    /// Penalties that overflowed once left no token at all.
    #[test]
    fn no_penalty_makes_a_token_impossible() {
        let params = SamplingParams { repetition_penalty: 2.0, frequency_penalty: 2.0, ..SamplingParams::default() };
        let mut penalties = Penalties::new(&params, &[0]);
        penalties.accept(1);
        let mut logits = [-3e38, -3e38, f32::NEG_INFINITY];
        penalties.apply(&mut logits);
        assert_eq!(logits, [f32::MIN, f32::MIN, f32::NEG_INFINITY]);
    }
}
