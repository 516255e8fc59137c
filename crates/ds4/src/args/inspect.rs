//! `ds4 inspect`.

use std::path::PathBuf;

use clap::Args;

use super::Size;

const ABOUT: &str = "Show what a model file holds, and check it";

const LONG_ABOUT: &str = "\
Show what a model file holds, and check it: its shape, its tensors by role and type, sizes, the memory that a \
conversation takes, and whether ds4 can run it.

The exit code is 0 if ds4 can run the file (and, with --deep, if every block is sound) and 1 otherwise. Any GGUF file \
whose tensor types ds4 knows can be looked into.";

const EXAMPLES: &str = "\
Examples:
  ds4 inspect                          the built-in demo model
  ds4 inspect v4-flash-q2.gguf
  ds4 inspect --deep v4-flash-q2.gguf  reads the whole file
  ds4 inspect --card-memory 96G FILE   would it fit an NVIDIA card of 96 GiB?
  ds4 inspect --json FILE | jq .parameters";

/// Arguments of `ds4 inspect`.
#[derive(Args, Clone, Debug)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct InspectArgs {
    /// The GGUF file [default: the built-in demo model]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Read every block of every tensor and look for infinities and NaNs
    #[arg(long)]
    pub deep: bool,

    /// List every tensor
    #[arg(long)]
    pub tensors: bool,

    /// Plan for an NVIDIA card with this much memory, instead of for this machine's cards
    #[arg(long, value_name = "SIZE")]
    pub card_memory: Option<Size>,

    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}
