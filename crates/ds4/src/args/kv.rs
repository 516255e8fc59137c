//! The KV cache: its options where a model runs, and `ds4 kv`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::ModelArgs;
use super::number::whole;

/// A number of bytes, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size; write 800M, 16G or 1.5TiB, or 0");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let power = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
            "" => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            _ => return Err(wrong()),
        };
        let bytes = number * 1024_f64.powi(power);
        // Larger than any disk, smaller than what a float64 cannot count.
        if bytes.is_finite() && bytes < 2_f64.powi(53) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// Where computed prompts are kept.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "KV cache")]
pub struct KvCacheArgs {
    /// Memory for the states of running and past requests [default: a quarter of this machine's]
    #[arg(long, value_name = "SIZE")]
    pub kv_ram: Option<Size>,

    /// Disk space for the states of past requests; 0 keeps none [default: 32 GiB, at most a quarter of what is free]
    #[arg(long, value_name = "SIZE")]
    pub kv_disk: Option<Size>,

    /// Folder for them; they contain what was said [default: ds4/kv in your cache folder; none for the demo model]
    #[arg(long, value_name = "DIR")]
    pub kv_dir: Option<PathBuf>,
}

const LONG_ABOUT: &str = "\
Look at the KV cache on disk, and tidy it.

`ds4 serve` keeps the computed states of prompts and answers there, so that conversations go on without being computed again. They contain \
everything that was said; only your account can read them. What is removed is computed again when it is needed.";

const EXAMPLES: &str = "\
Examples:
  ds4 kv ls                                 what is kept, the latest first
  ds4 kv show 3f9a -m FILE                  one of them, with its text
  ds4 kv verify                             read everything and check it
  ds4 kv prune --to 4G                      remove what was not used for longest
  ds4 kv prune --all
  ds4 kv export 3f9a talk.ds4kv             take it to another computer
  ds4 kv import talk.ds4kv";

/// Arguments of `ds4 kv`.
#[derive(Args, Clone, Debug)]
#[command(about = "Look at the KV cache on disk, and tidy it", long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct KvArgs {
    /// What to do
    #[command(subcommand)]
    pub command: KvCommand,

    /// The cache's folder [default: ds4/kv in your cache folder]
    #[arg(long, value_name = "DIR", global = true)]
    pub kv_dir: Option<PathBuf>,
}

/// What to do with the cache.
#[derive(Clone, Debug, Subcommand)]
pub enum KvCommand {
    /// List what is kept, the latest first
    Ls {
        /// Also the states in the middle of conversations
        #[arg(long)]
        all: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one state
    Show {
        /// The beginning of its id
        id: String,
        #[command(flatten)]
        model: ModelArgs,
    },
    /// Read everything and check it; the exit code is 1 if something is damaged
    Verify {
        /// Remove what is damaged
        #[arg(long)]
        repair: bool,
    },
    /// Remove states
    Prune(PruneArgs),
    /// Write one state with all its pages to a file, which contains the whole conversation
    Export {
        /// The beginning of its id
        id: String,
        /// The file
        file: PathBuf,
    },
    /// Take an exported state in
    Import {
        /// The file
        file: PathBuf,
    },
}

/// Which states to remove: at least one has to be said.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct PruneArgs {
    /// Until so much is left, those first that were not used for longest
    #[arg(long, value_name = "SIZE")]
    pub to: Option<Size>,
    /// Those that were not used for so many days
    #[arg(long, value_name = "DAYS", value_parser = whole::<u32>(..))]
    pub unused: Option<u32>,
    /// One
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let sizes = [("0", 0), ("512", 512), ("4k", 4096), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("3 TB", 3 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "1.2.3M", "5 apples", "1e9", "9999999999999T", "nan", "inf"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
