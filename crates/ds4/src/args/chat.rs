//! `ds4 chat`.

use std::path::PathBuf;

use clap::Args;

use super::number::whole;
use super::{BackendArgs, KvCacheArgs, ModelArgs, ProfileArg, SamplingArgs, ShowThinking, ThinkArg};

const ABOUT: &str = "Talk with the model";

const LONG_ABOUT: &str = "\
Talk with the model.

What was said stays computed: a new message costs only its own tokens. /help lists the commands, such as /retry, \
/undo, /read FILE and /save FILE. Ctrl-C stops an answer, at the prompt it clears the line; twice, or Ctrl-D, ends the program. \
A message of several lines: end a line with \\, press Alt-Enter, or put it between lines of \"\"\".

Standard input that is not a terminal is read line by line, commands included. Then only answers go to standard \
output, and the exit code is 1 if a line could not be carried out.";

const EXAMPLES: &str = "\
Examples:
  ds4 chat                                  with the built-in demo model
  ds4 chat -m FILE --think off --system 'Answer in one sentence.'
  ds4 chat -m FILE --resume talk.json       go on with a saved conversation
  printf '%s\\n' 'My name is Anna.' 'What is my name?' | ds4 chat -q";

/// Arguments of `ds4 chat`.
#[derive(Args, Clone, Debug)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// System text, before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Go on with a conversation that /save has written
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Most tokens of an answer, reasoning included [default: 8192; 65536 with thinking, 131072 with max]
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = whole::<u32>(1..))]
    pub tokens: Option<u32>,

    /// Longest context, the whole conversation, in tokens [default: the model's own]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..))]
    pub ctx: Option<u32>,

    /// Whether and how hard to think first [default: high; off for the demo model]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub think: Option<ThinkArg>,

    /// Whether to show the reasoning, on standard error
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ShowThinking::Auto)]
    pub show_thinking: ShowThinking,

    /// Keep the reasoning of earlier answers in the prompt: nothing is computed twice, but the context fills faster,
    /// and models were trained without it
    #[arg(long)]
    pub keep_thinking: bool,

    /// How the model release was taught reasoning effort
    #[arg(long, value_enum, value_name = "PROFILE", default_value_t = ProfileArg::Auto)]
    pub prompt_profile: ProfileArg,

    /// Do not write what you type to the history file
    #[arg(long)]
    pub no_history: bool,

    /// No closing lines, no notes
    #[arg(short = 'q', long)]
    pub quiet: bool,

    #[command(flatten)]
    pub kv: KvCacheArgs,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    pub backend: BackendArgs,
}
