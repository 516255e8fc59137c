//! The command line's definition: one file per command, shared groups beside them.
//!
//! Help, completions and the manual are generated from these types, and only from them.

mod bench;
mod chat;
mod debug;
mod doctor;
mod inspect;
mod kv;
mod model;
mod number;
mod pull;
mod run;
mod sampling;
mod serve;
mod shell;
mod synth;

pub use bench::BenchArgs;
pub use chat::ChatArgs;
pub use debug::{DebugArgs, DebugCommand, LogitsArgs};
pub use doctor::DoctorArgs;
pub use inspect::InspectArgs;
pub use kv::{KvArgs, KvCacheArgs, KvCommand, PruneArgs, Size};
pub use model::{BackendArgs, BackendKind, ModelArgs};
pub use pull::PullArgs;
pub use run::{ProfileArg, PromptArgs, RunArgs, ShowThinking, ThinkArg};
pub use sampling::SamplingArgs;
pub use serve::{MediaArg, ServeArgs};
pub use shell::{CompletionsArgs, ManArgs};
pub use synth::SynthArgs;

use clap::{Parser, Subcommand};

const ABOUT: &str = "Run DeepSeek V4 Flash on this machine";

const LONG_ABOUT: &str = "\
Run DeepSeek V4 Flash on this machine.

ds4 reads DeepSeek V4 models in GGUF files and answers on the command line. Without a model file it uses \
nano, a tiny demo model that is built into the program.";

const EXAMPLES: &str = "\
Examples:
  ds4 run -p 'What is 12 + 30?'             ask the built-in demo model
  ds4 run -m v4-flash-q2.gguf -p 'Hello'    ask a real one
  ds4 chat -m v4-flash-q2.gguf              talk with it
  git diff | ds4 run -m FILE --system 'Review this.' -p -
  ds4 inspect v4-flash-q2.gguf              look into a file
  ds4 bench --synthetic v4-flash-q2 --alias will the real model run well here?

`ds4 COMMAND --help` says more about each command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "ds4", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the help text. What that says of each stands with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<RunArgs>),
    Chat(Box<ChatArgs>),
    Serve(Box<ServeArgs>),
    Inspect(InspectArgs),
    /// Measure prefill and decode speed beside what the memory allows
    Bench(Box<BenchArgs>),
    /// Write a model of a published shape with random weights
    Synth(SynthArgs),
    Pull(PullArgs),
    Doctor(DoctorArgs),
    Kv(KvArgs),
    Debug(DebugArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}
