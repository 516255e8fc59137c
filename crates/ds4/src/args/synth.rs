//! `ds4 synth`.

use std::path::PathBuf;

use clap::Args;

use super::bench::shape;
use super::number::whole;

const EXAMPLES: &str = "\
Examples:
  ds4 synth --shape v4-flash-q2 --alias --out flash.gguf      the full shape in 4 GB; only ds4 engines read it
  ds4 synth --shape v4-flash-q2 --layers 6 --out six.gguf     full width, six layers: for any engine

The weights are random: the file is for measuring, it has nothing to say.";

/// Arguments of `ds4 synth`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SynthArgs {
    /// v4-flash-q2, v4-flash-q4, v4-flash-mxfp4 or nano
    #[arg(long, value_name = "SHAPE", value_parser = shape)]
    pub shape: ds4_synth::Shape,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// Let all layers share one layer's weights
    #[arg(long)]
    pub alias: bool,

    /// Only the first N layers
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..))]
    pub layers: Option<usize>,

    /// Seed of the random weights
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u64>(..))]
    pub seed: u64,
}
