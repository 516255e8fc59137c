//! The sampler of one generation.

use super::logprobs::{Distribution, TokenLogprobs};
use super::penalties::Penalties;
use super::random::RandomStream;
use super::truncation::{Candidate, Truncation};
use super::{Directive, SamplingParams};

/// Turns rows of logits into tokens, one generation's after the other.
///
/// What it keeps between steps is the random stream and the tokens that penalties count; the buffers are reused. Every step
/// takes exactly one random number, also where nothing is drawn, so the number of a step depends on the seed and the
/// step alone.
#[derive(Clone, Debug)]
pub struct Sampler {
    bias: Vec<(u32, f32)>,
    penalties: Penalties,
    truncation: Truncation,
    logprobs: Option<usize>,
    random: RandomStream,
    seed: u64,
    /// The step's logits, as they are changed. [n_vocab]
    work: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Their weights.
    weights: Vec<f64>,
}

/// A sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Log-probabilities, if they were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why no token could be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// There is nothing to sample from.
    #[error(
        "the model gave no usable logits for the next token: all {n_vocab} are NaN or -inf; its weights are damaged or a computation overflowed"
    )]
    NoLogits {
        /// Number of logits.
        n_vocab: usize,
    },
    /// A constraint that no token satisfies.
    #[error("no token may come next: the constraint on the output forbids all {n_vocab} tokens")]
    NothingAllowed {
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A forced token that does not exist.
    #[error("the constraint on the output demands token {token}, but the vocabulary has {n_vocab} tokens")]
    ForcedToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
}

impl Sampler {
    /// A sampler at the start of an answer to `prompt`. `params` are valid; `seed` takes the place of an absent
    /// `params.seed`.
    pub fn new(params: &SamplingParams, prompt: &[u32], seed: u64) -> Self {
        let seed = params.seed.unwrap_or(seed);
        Self {
            bias: params.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            penalties: Penalties::new(params, prompt),
            truncation: Truncation {
                temperature: f64::from(params.temperature),
                top_k: params.top_k as usize,
                top_p: f64::from(params.top_p),
                min_p: f64::from(params.min_p),
            },
            logprobs: params.logprobs,
            random: RandomStream::new(seed),
            seed,
            work: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Samples the next token and counts it. logits: [n_vocab], any values; NaN counts as -∞, +∞ as the largest number.
    ///
    /// # Errors
    /// No finite logit; a directive that leaves no token.
    pub fn sample(&mut self, logits: &[f32], directive: &Directive<'_>) -> Result<Sampled, SampleError> {
        let n_vocab = logits.len();
        let unit = self.random.next_unit();
        self.work.clear();
        // The explicit case, because `f32::min` would turn a NaN into the largest number.
        let sane = |&logit: &f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) };
        self.work.extend(logits.iter().map(sane));
        if largest(&self.work).is_none() {
            return Err(SampleError::NoLogits { n_vocab });
        }
        let report = self.logprobs.map(|count| {
            let distribution = Distribution::new(&self.work);
            let top = distribution.top(&self.work, count);
            (distribution, top)
        });

        let token = self.choose(directive, unit)?;
        self.penalties.accept(token);
        let logprobs = report
            .map(|(distribution, top)| TokenLogprobs { logprob: distribution.of(sane(&logits[token as usize])), top });
        Ok(Sampled { token, logprobs })
    }

    /// Chooses from `work`, which it changes.
    fn choose(&mut self, directive: &Directive<'_>, unit: f64) -> Result<u32, SampleError> {
        let n_vocab = self.work.len();
        if let Some(token) = directive.forced {
            return if (token as usize) < n_vocab {
                Ok(token)
            } else {
                Err(SampleError::ForcedToken { token, n_vocab })
            };
        }
        for &(token, bias) in &self.bias {
            if let Some(logit) = self.work.get_mut(token as usize) {
                *logit = (*logit + bias).min(f32::MAX);
            }
        }
        self.penalties.apply(&mut self.work);
        if let Some(mask) = directive.allowed {
            mask.apply(&mut self.work);
        }
        for &token in directive.banned {
            if let Some(logit) = self.work.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let Some((likeliest, max)) = largest(&self.work) else {
            return Err(SampleError::NothingAllowed { n_vocab });
        };
        if directive.greedy || self.truncation.temperature == 0.0 {
            return Ok(likeliest);
        }
        self.truncation.select(&self.work, max, &mut self.candidates);
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|&(_, logit)| self.truncation.weight(logit, max)));
        Ok(draw(&self.weights, unit).map_or(likeliest, |index| self.candidates[index].0))
    }
}

/// The largest logit and its token, of equal ones the lowest id; `None` if there is none above -∞.
fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|&logit| logit == max).map(|token| (token as u32, max))
}

/// Draws an index, each with a probability in proportion to its weight, by the uniform number `unit`. `None` if no weight is
/// above zero.
fn draw(weights: &[f64], unit: f64) -> Option<usize> {
    let target = unit * weights.iter().sum::<f64>();
    let mut passed = 0.0;
    let reached = weights.iter().position(|&weight| {
        passed += weight;
        passed > target
    });
    // Rounding can leave the target at the very end; then it is the last index that has any weight.
    reached.or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
}
