//! `ds4 bench`.

use std::path::PathBuf;

use clap::Args;

use super::number::whole;
use super::{BackendArgs, ModelArgs};

const EXAMPLES: &str = "\
Examples:
  ds4 bench --synthetic v4-flash-q2 --alias    will the real model run well here? (needs 4 GB, no download)
  ds4 bench -m FILE --ctx 2048,8192 --gen 64   how fast is this file at these contexts?
  ds4 bench --profile                          where does the time go?
  ds4 bench --passes 5                         medians of five: use it to compare two versions
  ds4 bench --scaling 1,2,4,8                  how many threads are worth using?
  ds4 bench --sessions 1,2,4,8 --gen 64        what do sessions do to each other, what does the KV cache save?
  ds4 bench --json results.json                the same figures for a program

The roofline is what the memory allows: a decoded token has to read every weight it uses and its cache rows
once; that many bytes over the measured read bandwidth is the ideal, and the last column says how near we are.";

/// Arguments of `ds4 bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub synthetic: SyntheticArgs,

    /// Context lengths to measure at, in tokens
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512", value_parser = whole::<u32>(..))]
    pub ctx: Vec<u32>,

    /// Tokens to decode at each length
    #[arg(long = "gen", value_name = "N", default_value_t = 16, value_parser = whole::<u32>(1..))]
    pub generate: u32,

    /// Tokens per prefill step [default: as the server, 512; on NVIDIA cards 2048, with 96 GiB or more 3072]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..=8192))]
    pub prefill_chunk: Option<u32>,

    /// Measure each length so often and take medians, for figures that can be repeated
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u16>(1..=1000), conflicts_with = "sessions")]
    pub passes: u16,

    /// Below the table, say which operations the time went to (JSON always does)
    #[arg(long)]
    pub profile: bool,

    /// Measure with each of these numbers of CPU threads, one after the other, and compare them
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "threads",
          value_parser = whole::<u16>(1..=1024))]
    pub scaling: Vec<u16>,

    /// Measure sessions that share an engine instead: so many decoding at once, one beside a long prompt, conversations
    /// of --ctx tokens resumed from memory and from disk, and what writing states to disk costs
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with_all = ["scaling", "profile", "csv", "svg"],
          value_parser = whole::<u16>(1..=256))]
    pub sessions: Vec<u16>,

    /// With --sessions: tokens of the long prompt, of which 90 seconds are measured at most
    #[arg(long, value_name = "N", default_value_t = 32_768, value_parser = whole::<u32>(1..))]
    pub long: u32,

    /// With --sessions: a folder on the disk to measure [default: where the KV cache is]
    #[arg(long, value_name = "DIR")]
    pub kv_dir: Option<PathBuf>,

    /// Write JSON, to standard output in place of the table or to a file
    #[arg(long, value_name = "OUT", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,

    /// Write CSV, likewise
    #[arg(long, value_name = "OUT", num_args = 0..=1, default_missing_value = "-")]
    pub csv: Option<PathBuf>,

    /// Draw the speeds over the context length
    #[arg(long, value_name = "OUT")]
    pub svg: Option<PathBuf>,

    #[command(flatten)]
    pub backend: BackendArgs,
}

/// A model with random weights in place of a file.
#[derive(Args, Clone, Debug)]
pub struct SyntheticArgs {
    /// Random weights of a published shape, made in memory: v4-flash-q2, v4-flash-q4, v4-flash-mxfp4 or nano
    #[arg(long, value_name = "SHAPE", conflicts_with = "model", value_parser = shape)]
    pub synthetic: Option<ds4_synth::Shape>,

    /// Let all layers share one layer's weights: the full shape in a few GB
    #[arg(long, requires = "synthetic")]
    pub alias: bool,

    /// Only the first N layers
    #[arg(long, value_name = "N", requires = "synthetic", value_parser = whole::<usize>(1..))]
    pub layers: Option<usize>,
}

/// A shape by name.
pub(super) fn shape(name: &str) -> Result<ds4_synth::Shape, String> {
    ds4_synth::Shape::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = ds4_synth::Shape::ALL.iter().map(|shape| shape.name).collect();
        format!("there is no shape of that name; it is one of {}", names.join(", "))
    })
}
