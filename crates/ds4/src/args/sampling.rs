//! How tokens are chosen.

use clap::Args;
use ds4_engine::StopMatcher;
use ds4_engine::sampling::SamplingParams;

use super::number::{fraction, whole};

/// Sampling options.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long = "temp", value_name = "T", default_value_t = 1.0, allow_negative_numbers = true, value_parser = fraction)]
    pub temperature: f32,

    /// Choose among the K likeliest tokens; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = whole::<u32>(..))]
    pub top_k: u32,

    /// Choose among the likeliest tokens that have this share of the probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, value_parser = fraction)]
    pub top_p: f32,

    /// Leave out tokens less likely than this share of the likeliest one's probability
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true, value_parser = fraction)]
    pub min_p: f32,

    /// Divide the scores of tokens seen before; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, value_parser = fraction)]
    pub repeat_penalty: f32,

    /// Lower the score of tokens already in the answer, once
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = fraction)]
    pub presence_penalty: f32,

    /// Lower the score of tokens already in the answer, per occurrence
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = fraction)]
    pub frequency_penalty: f32,

    /// End the answer before this text; may be given several times
    #[arg(long = "stop", value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Seed of the random choice: the same seed gives the same answer [default: a random one]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(..))]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The engine's parameters. Ranges are checked by the engine.
    pub fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            repetition_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            ..SamplingParams::default()
        }
    }

    /// Checks everything that can be checked without a model, and returns the matcher of the stop sequences.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn check(&self) -> Result<StopMatcher, String> {
        let option = |parameter: &str| match parameter {
            "temperature" => "--temp".to_owned(),
            "repetition_penalty" => "--repeat-penalty".to_owned(),
            other => format!("--{}", other.replace('_', "-")),
        };
        self.params().validate(0).map_err(|error| format!("{}: {error}", option(error.field())))?;
        StopMatcher::new(&self.stop).map_err(|error| format!("--stop: {error}"))
    }
}
