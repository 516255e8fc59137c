//! `ds4 run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ds4_chat::render::{Effort, Profile, Thinking};

use super::number::whole;
use super::{BackendArgs, ModelArgs, SamplingArgs};
use crate::terminal::Stream;

const ABOUT: &str = "Answer one prompt";

const LONG_ABOUT: &str = "\
Answer one prompt.

The answer goes to standard output, and nothing else does. Reasoning, progress and the closing line (tokens, speed, \
time to first token) go to standard error; reasoning only if that is a terminal, unless --show-thinking says otherwise. Tool \
calls that the model writes are text: this command has no tools.

Ctrl-C ends the answer; what is there stays, and the exit code is 130.";

const EXAMPLES: &str = "\
Examples:
  ds4 run -p 'What is 12 + 30?'
  ds4 run -m FILE --think high -p 'Is 2027 a prime?'
  ds4 run -m FILE -p - < question.txt > answer.txt
  ds4 run -m FILE --prompt-file notes.md --system 'Summarize.' -n 400
  ds4 run --raw --temp 0 -n 40 -p 'Once upon a time'";

/// Arguments of `ds4 run`.
#[derive(Args, Clone, Debug)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub input: PromptArgs,

    /// System text, before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,

    /// Most tokens to generate, reasoning included [default: 8192; 65536 with thinking, 131072 with max]
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = whole::<u32>(1..))]
    pub tokens: Option<u32>,

    /// Longest context, prompt and answer together, in tokens [default: the model's own]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..))]
    pub ctx: Option<u32>,

    /// Whether and how hard to think first [default: high; off for the demo model]
    #[arg(long, value_enum, value_name = "LEVEL", conflicts_with = "raw")]
    pub think: Option<ThinkArg>,

    /// Whether to show the reasoning, on standard error
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ShowThinking::Auto)]
    pub show_thinking: ShowThinking,

    /// How the model release was taught reasoning effort
    #[arg(long, value_enum, value_name = "PROFILE", default_value_t = ProfileArg::Auto)]
    pub prompt_profile: ProfileArg,

    /// Continue the text as it is: no chat format around it
    #[arg(long)]
    pub raw: bool,

    /// No closing line, no notes
    #[arg(short = 'q', long)]
    pub quiet: bool,

    /// Say how long each stage of the start takes
    #[arg(short = 'v', long)]
    pub verbose: bool,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    pub backend: BackendArgs,
}

/// Where the prompt comes from: exactly one of two.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// The prompt; - reads it from standard input
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,

    /// Read the prompt from a file
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
}

/// Reasoning before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ThinkArg {
    /// Answer at once
    Off,
    /// Little (releases from 0731 on; earlier ones have no such level and think as with high)
    Low,
    /// The usual amount
    High,
    /// As much as possible
    Max,
}

impl ThinkArg {
    /// Most tokens of an answer when nothing else is said: as many as the official service allows.
    pub fn default_tokens(self) -> usize {
        match self {
            ThinkArg::Off => 8_192,
            ThinkArg::Low | ThinkArg::High => 65_536,
            ThinkArg::Max => 131_072,
        }
    }

    /// What to do when nothing is said: the demo model answers best at once, real models were made to think.
    pub fn or_default(chosen: Option<ThinkArg>, is_demo: bool) -> ThinkArg {
        chosen.unwrap_or(if is_demo { ThinkArg::Off } else { ThinkArg::High })
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ThinkArg::Off => "off",
            ThinkArg::Low => "low",
            ThinkArg::High => "high",
            ThinkArg::Max => "max",
        }
    }

    /// What the prompt format calls it.
    pub fn thinking(self) -> Thinking {
        match self {
            ThinkArg::Off => Thinking::Off,
            ThinkArg::Low => Thinking::On(Effort::Low),
            ThinkArg::High => Thinking::On(Effort::High),
            ThinkArg::Max => Thinking::On(Effort::Max),
        }
    }
}

/// When the reasoning is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShowThinking {
    /// If standard error is a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ShowThinking {
    /// Whether to show it now.
    pub fn shows(self) -> bool {
        match self {
            ShowThinking::Auto => Stream::Error.is_terminal(),
            ShowThinking::Always => true,
            ShowThinking::Never => false,
        }
    }
}

/// The prompt format's variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// From the names that the file gives itself; preview if they say nothing
    Auto,
    /// The releases of April 2026
    Preview,
    /// The release 0731 and later ones
    #[value(name = "0731")]
    Release0731,
}

impl ProfileArg {
    /// The variant to use for a model whose names say `named`.
    pub fn resolve(self, named: Profile) -> Profile {
        match self {
            ProfileArg::Auto => named,
            ProfileArg::Preview => Profile::Preview,
            ProfileArg::Release0731 => Profile::Release0731,
        }
    }
}
