//! `ds4 doctor`.

use clap::Args;

use super::{BackendArgs, ModelArgs};

const LONG_ABOUT: &str = "\
Say what this machine can run.

Shows the processor, the memory and how fast it reads, room on the disks and the graphics cards; which of the \
published models fit, with how much context, and how fast they can decode at most. That speed is a roofline: the \
bytes that one token has to read over the measured bandwidth. `ds4 bench` measures what is reached.";

const EXAMPLES: &str = "\
Examples:
  ds4 doctor                     what can this machine run?
  ds4 doctor -m FILE             and this file?
  ds4 doctor --self-test         does this machine compute correctly?
  ds4 doctor --json              the same for a program

The self-test runs every operation of the backend beside a plain reference, and compares logits of the built-in demo \
model with those of an independent implementation. It exits with 1 if anything differs by more than it may.";

/// Arguments of `ds4 doctor`.
#[derive(Args, Clone, Debug)]
#[command(about = "Say what this machine can run", long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Check every operation of the backend, and the demo model's logits
    #[arg(long)]
    pub self_test: bool,

    /// Write JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub backend: BackendArgs,
}
