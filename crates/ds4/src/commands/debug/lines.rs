//! JSON lines in, JSON lines out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::exit::{Outcome, output_error};

/// Answers every line of `file` (or of standard input) that is not blank. A line that has no answer gets
/// `{"error": …}`, and the outcome is then a failure.
///
/// # Errors
/// Input that cannot be read, output that cannot be written.
pub fn answer(file: Option<&Path>, answer: impl Fn(&str) -> anyhow::Result<Value>) -> anyhow::Result<Outcome> {
    let (input, name): (Box<dyn Read>, String) = match file {
        None => (Box::new(io::stdin().lock()), "standard input".to_owned()),
        Some(path) => {
            let name = path.display().to_string();
            (Box::new(File::open(path).with_context(|| format!("cannot open {name}"))?), name)
        }
    };
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut output = BufWriter::new(io::stdout().lock());
    let mut outcome = Outcome::Done;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).with_context(|| format!("cannot read {name}"))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let result = std::str::from_utf8(&line).context("the line is not UTF-8").and_then(&answer);
        let result = result.unwrap_or_else(|error| {
            outcome = Outcome::Failed;
            json!({ "error": format!("{error:#}") })
        });
        writeln!(output, "{result}").map_err(output_error)?;
        // Whoever writes lines one by one waits for each answer; whoever sends a file does not.
        if input.buffer().is_empty() {
            output.flush().map_err(output_error)?;
        }
    }
    output.flush().map_err(output_error)?;
    Ok(outcome)
}
