//! What a request may ask of the sampler.

use std::collections::BTreeMap;

use super::logprobs::MAX_TOP_LOGPROBS;

/// Sampling parameters. The defaults are the model's recommendation (temperature 1, nothing cut by top-p) with
/// min-p 0.05, which keeps the noise of low-bit weights out of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Flattens (above 1) or sharpens (below 1) the distribution, 0 to 2. 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens may be drawn. 0: no limit.
    pub top_k: u32,
    /// Only the likeliest tokens that together have this probability may be drawn, above 0 to 1. 1: no limit.
    pub top_p: f32,
    /// Only tokens at least this probable, relative to the likeliest, may be drawn, 0 to 1. 0: no limit.
    pub min_p: f32,
    /// Seed of the random numbers. `None`: a random one, which the generation reports.
    pub seed: Option<u64>,
    /// Logits of tokens in the prompt or the answer are divided (if positive) or multiplied (if negative) by this,
    /// above 0 to 2. 1: off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token that is in the answer, -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time that it is in the answer, -2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, -100 to 100 each.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Report log-probabilities: of each sampled token and of this many likeliest ones, 0 to 20. `None`: not at all.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.05,
            seed: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Parameters that take the likeliest token at every step.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every value. `n_vocab`: number of token ids.
    ///
    /// # Errors
    /// The first parameter that is not a number or out of its range, by name.
    pub fn validate(&self, n_vocab: usize) -> Result<(), ParamsError> {
        let within = |name, value: f32, least: f32, most: f32| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(ParamsError::Range { name, value, least, most, open: false })
            }
        };
        let above_zero = |name, value: f32, most: f32| {
            if value > 0.0 && value <= most {
                Ok(())
            } else {
                Err(ParamsError::Range { name, value, least: 0.0, most, open: true })
            }
        };
        within("temperature", self.temperature, 0.0, 2.0)?;
        above_zero("top_p", self.top_p, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        above_zero("repetition_penalty", self.repetition_penalty, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        for (&token, &bias) in &self.logit_bias {
            if token as usize >= n_vocab {
                return Err(ParamsError::BiasToken { token, n_vocab });
            }
            if !(-100.0..=100.0).contains(&bias) {
                return Err(ParamsError::Bias { token, bias });
            }
        }
        match self.logprobs {
            Some(top) if top > MAX_TOP_LOGPROBS => Err(ParamsError::Logprobs { top }),
            _ => Ok(()),
        }
    }
}

/// A sampling parameter that cannot be honoured.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// A number out of range, or not a number.
    #[error("{name} is {value}; it must be {}{least} and at most {most}", if *.open { "greater than " } else { "at least " })]
    Range {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f32,
        /// Lower end of the range.
        least: f32,
        /// Upper end of the range.
        most: f32,
        /// Whether the lower end itself is excluded.
        open: bool,
    },
    /// A bias for a token that does not exist.
    #[error("logit_bias names token {token}, but the vocabulary has {n_vocab} tokens (0 to {})", .n_vocab.saturating_sub(1))]
    BiasToken {
        /// The token id.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A bias out of range, or not a number.
    #[error("logit_bias of token {token} is {bias}; it must be at least -100 and at most 100")]
    Bias {
        /// The token id.
        token: u32,
        /// The bias.
        bias: f32,
    },
    /// Too many log-probabilities per token.
    #[error(
        "log-probabilities of the {top} likeliest tokens were asked for; at most {MAX_TOP_LOGPROBS} can be reported"
    )]
    Logprobs {
        /// The number asked for.
        top: usize,
    },
}

impl ParamsError {
    /// The request field at fault, as the HTTP APIs call it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Range { name, .. } => name,
            Self::BiasToken { .. } | Self::Bias { .. } => "logit_bias",
            Self::Logprobs { .. } => "top_logprobs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_the_ends_of_every_range_are_accepted() {
        assert_eq!(SamplingParams::default().validate(10), Ok(()));
        assert_eq!(SamplingParams::greedy().validate(10), Ok(()));
        let least = SamplingParams {
            temperature: 0.0,
            top_p: f32::MIN_POSITIVE,
            min_p: 0.0,
            repetition_penalty: f32::MIN_POSITIVE,
            presence_penalty: -2.0,
            frequency_penalty: -2.0,
            logit_bias: BTreeMap::from([(0, -100.0)]),
            logprobs: Some(0),
            ..SamplingParams::default()
        };
        assert_eq!(least.validate(1), Ok(()));
        let most = SamplingParams {
            temperature: 2.0,
            top_k: u32::MAX,
            min_p: 1.0,
            repetition_penalty: 2.0,
            presence_penalty: 2.0,
            frequency_penalty: 2.0,
            logit_bias: BTreeMap::from([(9, 100.0)]),
            logprobs: Some(MAX_TOP_LOGPROBS),
            ..SamplingParams::default()
        };
        assert_eq!(most.validate(10), Ok(()));
    }

    #[test]
    fn whatever_is_out_of_range_is_named() {
        let default = SamplingParams::default;
        let bad: Vec<(SamplingParams, &str)> = vec![
            (
                SamplingParams { temperature: 2.5, ..default() },
                "temperature is 2.5; it must be at least 0 and at most 2",
            ),
            (SamplingParams { temperature: -0.1, ..default() }, "temperature is -0.1"),
            (SamplingParams { temperature: f32::NAN, ..default() }, "temperature is NaN"),
            (SamplingParams { temperature: f32::INFINITY, ..default() }, "temperature is inf"),
            (SamplingParams { top_p: 0.0, ..default() }, "top_p is 0; it must be greater than 0 and at most 1"),
            (SamplingParams { top_p: 1.5, ..default() }, "top_p is 1.5"),
            (SamplingParams { min_p: 1.01, ..default() }, "min_p is 1.01"),
            (SamplingParams { repetition_penalty: 0.0, ..default() }, "repetition_penalty is 0"),
            (SamplingParams { presence_penalty: -3.0, ..default() }, "presence_penalty is -3"),
            (SamplingParams { frequency_penalty: f32::NAN, ..default() }, "frequency_penalty is NaN"),
            (SamplingParams { logit_bias: BTreeMap::from([(10, 1.0)]), ..default() }, "token 10, but"),
            (SamplingParams { logit_bias: BTreeMap::from([(9, 101.0)]), ..default() }, "token 9 is 101"),
            (SamplingParams { logit_bias: BTreeMap::from([(9, f32::NAN)]), ..default() }, "token 9 is NaN"),
            (SamplingParams { logprobs: Some(21), ..default() }, "at most 20"),
        ];
        for (params, expected) in bad {
            let error = params.validate(10).expect_err(expected);
            let message = error.to_string();
            assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        }
    }
}
