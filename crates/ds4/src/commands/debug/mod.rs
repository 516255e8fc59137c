//! `ds4 debug`: single stages, in the formats that tests record.

mod lines;
mod logits;
mod tokenizer;

use anyhow::Context;
use ds4_chat::debug::{parse_line, render_line};
use serde::Deserialize;
use serde_json::json;

use crate::args::{DebugArgs, DebugCommand};
use crate::exit::Outcome;

/// Runs one stage.
///
/// # Errors
/// What keeps the whole stage from running; a line's own error stands in its place in the output.
pub fn execute(args: &DebugArgs) -> anyhow::Result<Outcome> {
    match &args.command {
        DebugCommand::Tokenize(args) => {
            let tokenizer = tokenizer::open(&args.tokenizer)?;
            lines::answer(args.file.as_deref(), |line| {
                let input: TokenizeInput = serde_json::from_str(line)
                    .context(r#"expected an object such as {"text": "…", "special": false}"#)?;
                let ids = match input.special {
                    true => tokenizer.encode_with_special(&input.text),
                    false => tokenizer.encode(&input.text),
                };
                Ok(json!({ "ids": ids }))
            })
        }
        DebugCommand::Render(args) => {
            let tokenizer = tokenizer::open(&args.tokenizer)?;
            lines::answer(args.file.as_deref(), |line| Ok(render_line(line, &tokenizer)?))
        }
        DebugCommand::Parse(args) => {
            let tokenizer = tokenizer::open(&args.tokenizer)?;
            lines::answer(args.file.as_deref(), |line| Ok(parse_line(line, &tokenizer)?))
        }
        DebugCommand::Logits(args) => logits::execute(args),
    }
}

/// A line of `ds4 debug tokenize`; other fields are not looked at.
#[derive(Deserialize)]
struct TokenizeInput {
    text: String,
    #[serde(default)]
    special: bool,
}
