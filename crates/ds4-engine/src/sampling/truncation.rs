//! Which tokens may be drawn: top-k, top-p, min-p.

use std::cmp::Ordering;

use ds4_model::logits::{Digest, Softmax};

/// A token and its logit.
pub(super) type Candidate = (u32, f32);

/// Order from the likeliest token to the least likely; of equal ones (0 and -0 are equal) the lowest id first.
///
/// Total, because logits here are never NaN.
pub(super) fn rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

/// Where candidates are found: a row of logits, or a digest of one.
pub(super) trait Tokens {
    /// Fills `candidates` with the tokens whose logits are at least `lowest` and above -∞, in order of their ids; false if not all of
    /// them are known.
    fn gather(&self, lowest: f64, candidates: &mut Vec<Candidate>) -> bool;

    /// The weights of all tokens, in the order in which blocks of logits are summed.
    fn weight(&self, softmax: Softmax) -> f64;
}

impl Tokens for [f32] {
    fn gather(&self, lowest: f64, candidates: &mut Vec<Candidate>) -> bool {
        gather(self, lowest, candidates);
        true
    }

    fn weight(&self, softmax: Softmax) -> f64 {
        softmax.sum(self)
    }
}

impl Tokens for Digest {
    fn gather(&self, lowest: f64, candidates: &mut Vec<Candidate>) -> bool {
        candidates.clear();
        candidates.extend(self.candidates.iter().filter(|&&(_, logit)| f64::from(logit) >= lowest));
        f64::from(self.lowest) <= lowest
    }

    /// By the temperature that the digest was asked for.
    fn weight(&self, _: Softmax) -> f64 {
        self.block_sums.iter().sum()
    }
}

/// The truncations of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truncation {
    pub(super) temperature: f64,
    /// 0: off.
    pub(super) top_k: usize,
    pub(super) top_p: f64,
    pub(super) min_p: f64,
}

impl Truncation {
    /// Whether every token with a logit above -∞ passes.
    pub(super) fn is_off(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p == 0.0
    }

    /// Fills `candidates` with the tokens that pass top-k, top-p and min-p, in order of their ids; false if `tokens` does not know
    /// enough for that.
    ///
    /// tokens: no NaN, no +∞; `max` is the largest logit, finite. Tokens of logit -∞ never pass; the
    /// likeliest always does. Few likely tokens take linear time.
    pub(super) fn select(&self, tokens: &(impl Tokens + ?Sized), max: f32, candidates: &mut Vec<Candidate>) -> bool {
        let softmax = Softmax::new(max, self.temperature);
        let by_id = |candidates: &mut Vec<Candidate>| candidates.sort_unstable_by_key(|&(token, _)| token);
        // Top-p is a share of what top-k left, so what min-p will drop has to stay for the sum.
        if self.top_k > 0 {
            if !self.gather_likeliest(tokens, max, candidates, |candidates| candidates.len() >= self.top_k) {
                return false;
            }
            if candidates.len() > self.top_k {
                candidates.select_nth_unstable_by(self.top_k - 1, rank);
                candidates.truncate(self.top_k);
            }
            // A sum must not depend on how the selection permuted its terms.
            by_id(candidates);
            if self.top_p < 1.0 {
                let sum: f64 = candidates.iter().map(|&(_, logit)| f64::from(softmax.weight(logit))).sum();
                keep_share(candidates, softmax, self.top_p * sum);
            }
        } else if self.top_p < 1.0 {
            let share = self.top_p * tokens.weight(softmax);
            if !self.gather_likeliest(tokens, max, candidates, |candidates| keep_share(candidates, softmax, share)) {
                return false;
            }
        } else {
            return tokens.gather(self.lowest_logit(max), candidates);
        }
        let lowest = self.lowest_logit(max);
        candidates.retain(|&(_, logit)| f64::from(logit) >= lowest);
        by_id(candidates);
        true
    }

    /// How far below the likeliest logit, in temperatures, a digest should list tokens for most selections to be possible: one of
    /// the bounds of [`gather_likeliest`](Self::gather_likeliest), or what min-p needs.
    pub(super) fn reach(&self) -> f64 {
        match (self.top_k, self.top_p < 1.0) {
            // Forty tokens can be far apart, and few texts have more than a thousand so near.
            (1.., _) => 12.0,
            // What lies further below has hardly any weight.
            (0, true) => 6.0,
            (0, false) => -libm::log(self.min_p),
        }
    }

    /// The lowest logit that min-p lets pass.
    fn lowest_logit(&self, max: f32) -> f64 {
        if self.min_p > 0.0 { f64::from(max) + self.temperature * libm::log(self.min_p) } else { f64::NEG_INFINITY }
    }

    /// Gathers all tokens above a bound, lower and lower until `enough` says so or there are no more; false if `tokens` does not know
    /// them.
    fn gather_likeliest(
        &self,
        tokens: &(impl Tokens + ?Sized),
        max: f32,
        candidates: &mut Vec<Candidate>,
        mut enough: impl FnMut(&mut Vec<Candidate>) -> bool,
    ) -> bool {
        /// How far below the likeliest, in temperatures; e^-3 and so on.
        const BOUNDS: [f64; 5] = [3.0, 6.0, 12.0, 24.0, f64::INFINITY];
        for bound in BOUNDS {
            if !tokens.gather(f64::from(max) - bound * self.temperature, candidates) {
                return false;
            }
            if enough(candidates) {
                break;
            }
        }
        true
    }
}

/// The tokens whose logits are at least `lowest` and above -∞, in order of their ids.
fn gather(logits: &[f32], lowest: f64, candidates: &mut Vec<Candidate>) {
    /// Most groups have nothing to gather, which one comparison of vectors tells.
    const GROUP: usize = 32;
    candidates.clear();
    // As float32, rounded down: what is above `lowest` in float64 is above this.
    let bound = (lowest as f32).next_down().max(f32::MIN);
    for (group, values) in logits.chunks(GROUP).enumerate() {
        if !values.iter().fold(false, |any, &logit| any | (logit >= bound)) {
            continue;
        }
        for (inside, &logit) in values.iter().enumerate() {
            if logit > f32::NEG_INFINITY && f64::from(logit) >= lowest {
                candidates.push(((group * GROUP + inside) as u32, logit));
            }
        }
    }
}

/// Keeps the likeliest candidates that together reach the weight `share`, at least one; false, and all of them, if they do not
/// reach it.
///
/// Sorts only as many as are needed: blocks of the likeliest, each eight times as large as the one before.
fn keep_share(candidates: &mut Vec<Candidate>, softmax: Softmax, share: f64) -> bool {
    const FIRST_BLOCK: usize = 64;
    let (mut sum, mut sorted, mut block) = (0.0, 0, FIRST_BLOCK);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        if block < rest.len() {
            rest.select_nth_unstable_by(block - 1, rank);
        }
        let taken = block.min(rest.len());
        rest[..taken].sort_unstable_by(rank);
        for (index, &(_, logit)) in rest[..taken].iter().enumerate() {
            sum += f64::from(softmax.weight(logit));
            if sum >= share {
                candidates.truncate(sorted + index + 1);
                return true;
            }
        }
        sorted += taken;
        block *= 8;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, with everything sorted and nothing clever.
    fn naive(truncation: &Truncation, logits: &[f32]) -> Vec<u32> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut all: Vec<Candidate> = logits
            .iter()
            .enumerate()
            .map(|(token, &logit)| (token as u32, logit))
            .filter(|c| c.1.is_finite())
            .collect();
        all.sort_by(rank);
        if truncation.top_k > 0 {
            all.truncate(truncation.top_k);
        }
        let softmax = Softmax::new(max, truncation.temperature);
        let mut by_id = all.clone();
        by_id.sort_by_key(|c| c.0);
        // The sum over a whole vocabulary has an order of its own.
        let sum = match truncation.top_k {
            0 => softmax.sum(logits),
            _ => by_id.iter().map(|c| f64::from(softmax.weight(c.1))).sum(),
        };
        let share = truncation.top_p * sum;
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for &(token, logit) in &all {
            if truncation.top_p < 1.0 && sum >= share && !kept.is_empty() {
                break;
            }
            sum += f64::from(softmax.weight(logit));
            if truncation.min_p == 0.0
                || logit as f64 >= max as f64 + truncation.temperature * libm::log(truncation.min_p)
            {
                kept.push(token);
            }
        }
        kept.sort_unstable();
        kept
    }

    proptest! {
        #[test]
        fn selection_equals_its_definition(
            // Few distinct values: ties are where selections go wrong.
            logits in prop::collection::vec(prop_oneof![
                4 => (-40_i8..40).prop_map(|step| f32::from(step) / 8.0),
                1 => Just(f32::NEG_INFINITY),
                1 => -5.0_f32..5.0,
            ], 1..1500),
            temperature in prop_oneof![Just(1.0), 0.05_f64..2.0],
            top_k in prop_oneof![Just(0_usize), 1_usize..40, 1_usize..2000],
            top_p in prop_oneof![Just(1.0), 0.01_f64..1.0],
            min_p in prop_oneof![Just(0.0), Just(0.05), 0.0_f64..=1.0],
        ) {
            prop_assume!(logits.iter().any(|logit| logit.is_finite()));
            let truncation = Truncation { temperature, top_k, top_p, min_p };
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut candidates = Vec::new();
            assert!(truncation.select(logits.as_slice(), max, &mut candidates));
            prop_assert!(candidates.iter().all(|&(token, logit)| logits[token as usize] == logit));
            let ids: Vec<u32> = candidates.iter().map(|c| c.0).collect();
            prop_assert!(!ids.is_empty());
            prop_assert_eq!(ids, naive(&truncation, &logits));
        }
    }
}
