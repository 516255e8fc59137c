//! `ds4 pull`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::catalog::{ENDPOINT, PUBLISHED};

use super::number::whole;

const LONG_ABOUT: &str = "\
Download a published model.

An interrupted download goes on where it stopped when the same command is given again: what is there lies in \
FILE.part until it is complete and its checksum right. Nothing is started that the disk has no room for, and a file \
that exists is never replaced.";

const EXAMPLES: &str = "\
Examples:
  ds4 pull --list                           what is published
  ds4 pull q2                               into the current folder, under its own name
  ds4 pull q4 --dir /models
  ds4 pull --url https://example.org/model.gguf --sha256 HEX --out model.gguf
  HF_TOKEN=… ds4 pull q2                    as a known user, if the server asks for that

`ds4 doctor` says which of the files this machine can run.";

/// Arguments of `ds4 pull`.
#[derive(Args, Clone, Debug)]
#[command(about = "Download a published model", long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct PullArgs {
    /// Which published file
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(PUBLISHED.map(|file| file.name)))]
    #[arg(conflicts_with_all = ["url", "list"])]
    pub name: Option<String>,

    /// Download the file at this address instead
    #[arg(long, value_name = "URL", conflicts_with = "list")]
    pub url: Option<String>,

    /// List the published files
    #[arg(long)]
    pub list: bool,

    /// The file to write [default: the published name, in the current folder]
    #[arg(short = 'o', long, value_name = "FILE", conflicts_with = "dir")]
    pub out: Option<PathBuf>,

    /// The folder to write into, under the published name
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// The checksum that the file must have [default: what the server states, else what is known of the file]
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub sha256: Option<String>,

    /// If the file is there already, read all of it and check its checksum
    #[arg(long)]
    pub verify: bool,

    /// The server with the published files, or a mirror of it
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = ENDPOINT)]
    pub endpoint: String,

    /// Attempts in a row that may bring nothing new before the download is given up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole::<u32>(..))]
    pub retries: u32,

    /// Seconds without a byte after which a connection counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = whole::<u64>(1..=3600))]
    pub timeout: u64,
}

/// 64 hexadecimal digits, made lowercase.
fn sha256(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a SHA-256 checksum has 64 hexadecimal digits".to_owned()),
    }
}
