//! `ds4 debug`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::number::whole;
use super::{BackendArgs, ModelArgs};

const ABOUT: &str = "Look at single stages: tokens, prompts, parsed output, logits";

const LONG_ABOUT: &str = "\
Look at single stages of the engine.

tokenize, render and parse read JSON lines (from FILE, or standard input) and write one JSON line for each; blank lines \
are skipped. A line that cannot be answered gives {\"error\": \"…\"} in its place, the others are answered all the \
same, and the exit code is 1.";

const EXAMPLES: &str = "\
Examples:
  echo '{\"text\": \"Hello\"}' | ds4 debug tokenize
  ds4 debug render --tokenizer model.gguf conversations.jsonl
  ds4 debug logits -m FILE --tokens ids.json --out logits.npy";

/// Arguments of `ds4 debug`.
#[derive(Args, Clone, Debug)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct DebugArgs {
    /// The stage.
    #[command(subcommand)]
    pub command: DebugCommand,
}

/// The stages.
#[derive(Clone, Debug, Subcommand)]
pub enum DebugCommand {
    /// Text to token ids: {"text": …, "special": false} gives {"ids": […]}
    ///
    /// With "special": true, spellings of control tokens become those tokens; otherwise they are text like any other.
    Tokenize(LinesArgs),
    /// Conversations to prompts: {"profile": …, "input": {"messages": …}} gives {"text": …, "ids": […]}
    ///
    /// The conversation is rendered as the engine would for a request; `input` may hold `thinking_mode`,
    /// `reasoning_effort`, `drop_thinking`, `context` (messages rendered before) and `request`.
    Render(LinesArgs),
    /// Model output to reasoning, answer and tool calls: {"ids": […], "thinking": …, "tools": …} gives
    /// {"reasoning_content": …, "content": …, "tool_calls": […], "finish_reason": …}
    ///
    /// Further fields: `finish` (stop or length), `initial` (reasoning or content), `calls_in_reasoning`, `lenient`.
    /// They may stand in an object `input`.
    Parse(LinesArgs),
    /// Token ids to logits: a JSON list of ids gives a NumPy file, float32 [n_tokens, n_vocab]
    Logits(Box<LogitsArgs>),
}

/// Arguments of the stages that work on JSON lines.
#[derive(Args, Clone, Debug)]
pub struct LinesArgs {
    /// The vocabulary: v4 (the official one, built in), a tokenizer.json, or a GGUF file
    #[arg(long, value_name = "v4|FILE", default_value = "v4")]
    pub tokenizer: PathBuf,

    /// The JSON lines [default: standard input]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `ds4 debug logits`.
#[derive(Args, Clone, Debug)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// A JSON list of token ids; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub tokens: PathBuf,

    /// The NumPy file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// Tokens per forward pass
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<u32>(1..=65536))]
    pub chunk: u32,

    #[command(flatten)]
    pub backend: BackendArgs,
}
