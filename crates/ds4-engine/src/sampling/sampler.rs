//! The sampler of one generation.

use std::ops::Range;

use ds4_model::ModelError;
use ds4_model::logits::softmax::{copy_sane, largest};
use ds4_model::logits::{BLOCK, Digest, DigestRequest, DrawRequest, Softmax};

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
        let Some(likeliest) = copy_sane(logits, &mut self.work) else {
            return Err(SampleError::NoLogits { n_vocab });
        };
        let report = self.logprobs.map(|count| {
            let distribution = Distribution::new(&self.work, likeliest.1);
            let top = distribution.top(&self.work, count);
            (distribution, top)
        });

        let token = self.choose(likeliest, directive, unit)?;
        self.penalties.accept(token);
        let logprobs =
            report.map(|(distribution, top)| TokenLogprobs { logprob: distribution.of(logits[token as usize]), top });
        Ok(Sampled { token, logprobs })
    }

    /// Chooses from `work`, which it changes; `likeliest` is its largest logit.
    fn choose(&mut self, likeliest: (u32, f32), directive: &Directive<'_>, unit: f64) -> Result<u32, SampleError> {
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
        let unchanged = self.bias.is_empty()
            && self.penalties.is_off()
            && directive.allowed.is_none()
            && directive.banned.is_empty();
        let largest = if unchanged { Some(likeliest) } else { largest(&self.work) };
        let Some((likeliest, max)) = largest else {
            return Err(SampleError::NothingAllowed { n_vocab });
        };
        if directive.greedy || self.truncation.temperature == 0.0 {
            return Ok(likeliest);
        }
        let softmax = Softmax::new(max, self.truncation.temperature);
        if self.truncation.is_off() {
            // Every token: first the block of them, then the one inside.
            self.weights.clear();
            self.weights.extend(self.work.chunks(BLOCK).map(|block| softmax.block_sum(block)));
            return Ok(draw(&self.weights, unit).map_or(likeliest, |(block, rest)| {
                let first = block * BLOCK;
                let inside = self.work[first..].iter().take(BLOCK).map(|&logit| f64::from(softmax.weight(logit)));
                reach(inside, rest).map_or(likeliest, |(index, _)| (first + index) as u32)
            }));
        }
        self.truncation.select(self.work.as_slice(), max, &mut self.candidates);
        Ok(self.draw_candidate(softmax, unit).unwrap_or(likeliest))
    }

    /// Draws one of the candidates.
    fn draw_candidate(&mut self, softmax: Softmax, unit: f64) -> Option<u32> {
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|&(_, logit)| f64::from(softmax.weight(logit))));
        draw(&self.weights, unit).map(|(index, _)| self.candidates[index].0)
    }

    /// The digest of row number `row` by which [`sample_from`](Self::sample_from) can probably do without the row; `None` if it cannot.
    pub fn digest_request(&self, row: usize, directive: &Directive<'_>) -> Option<DigestRequest> {
        let untouched = self.bias.is_empty() && self.penalties.is_off() && self.logprobs.is_none();
        if !untouched || directive.forced.is_some() || directive.allowed.is_some() {
            return None;
        }
        let temperature = self.truncation.temperature as f32;
        let draw = (!directive.greedy && temperature > 0.0).then(|| {
            // Rounded, and the subtraction from the largest logit will be, too: a little more.
            let below = self.truncation.reach() * self.truncation.temperature * 1.01;
            DrawRequest { temperature, below: if self.truncation.is_off() { 0.0 } else { below as f32 } }
        });
        DigestRequest::new(row, directive.banned, draw)
    }

    /// Samples the next token from what [`digest_request`](Self::digest_request) asked for, and counts it: the token that
    /// [`sample`](Self::sample) takes from the whole row, which is not looked at beyond what `read` is asked for, a range of
    /// tokens.
    ///
    /// `None`, with nothing changed, if the digest is not enough: the whole row is needed.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn sample_from(
        &mut self,
        digest: &Digest,
        directive: &Directive<'_>,
        n_vocab: usize,
        read: impl FnOnce(Range<usize>) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Option<Sampled>, ModelError> {
        // Why there is nothing to take is for the whole row to say.
        let Some((likeliest, max)) = digest.likeliest else { return Ok(None) };
        let mut random = self.random.clone();
        let unit = random.next_unit();
        let softmax = Softmax::new(max, self.truncation.temperature);
        let token = if directive.greedy || self.truncation.temperature == 0.0 {
            likeliest
        } else if self.truncation.is_off() {
            match draw(&digest.block_sums, unit) {
                None => likeliest,
                Some((block, rest)) => {
                    let first = block * BLOCK;
                    copy_sane(&read(first..n_vocab.min(first + BLOCK))?, &mut self.work);
                    for &token in directive.banned {
                        if let Some(logit) = (token as usize).checked_sub(first).and_then(|at| self.work.get_mut(at)) {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                    let inside = self.work.iter().map(|&logit| f64::from(softmax.weight(logit)));
                    reach(inside, rest).map_or(likeliest, |(index, _)| (first + index) as u32)
                }
            }
        } else if self.truncation.select(digest, max, &mut self.candidates) {
            self.draw_candidate(softmax, unit).unwrap_or(likeliest)
        } else {
            return Ok(None);
        };
        self.random = random;
        self.penalties.accept(token);
        Ok(Some(Sampled { token, logprobs: None }))
    }
}

/// Draws an index, each with a probability in proportion to its weight, by the uniform number `unit`; and how far into its
/// weight the number reaches. `None` if no weight is above zero.
fn draw(weights: &[f64], unit: f64) -> Option<(usize, f64)> {
    reach(weights.iter().copied(), unit * weights.iter().sum::<f64>())
}

/// The first index at which the sum of the weights exceeds `target`, and what of the target is left there. Rounding can put the
/// target at the very end; then it is the last index that has any weight.
fn reach(weights: impl Iterator<Item = f64>, target: f64) -> Option<(usize, f64)> {
    let (mut passed, mut last) = (0.0, None);
    for (index, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = Some((index, target - passed));
        }
        passed += weight;
        if passed > target && weight > 0.0 {
            break;
        }
    }
    last
}
