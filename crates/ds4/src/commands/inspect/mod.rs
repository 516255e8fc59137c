//! `ds4 inspect`: what a file holds, and whether it can be run.

mod class;
mod deep;
mod json;
mod report;
mod text;

use std::io::Write;

use crate::args::InspectArgs;
use crate::exit::{Outcome, output_error};
use crate::interrupt::Interrupt;
use crate::model_source::ModelSource;
use crate::terminal::{self, Stream};

use report::Report;

/// Columns of a text that is not shown on a terminal.
const PLAIN_WIDTH: usize = 80;

/// Looks into a file.
///
/// # Errors
/// The file is not a GGUF file, or the output cannot be written. That ds4 cannot run the file is part of the report.
pub fn execute(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let source = ModelSource::new(args.file.as_deref());
    let gguf = source.open()?;
    let mut report = Report::new(&gguf, args.card_memory.map(|size| size.0));
    if args.deep {
        let interrupt = Interrupt::install()?;
        report.deep = match deep::check(&gguf, &interrupt)? {
            Some(result) => Some(result),
            None => return Ok(Outcome::Interrupted),
        };
    }
    let text = match args.json {
        true => json::write(&report)?,
        false => {
            let width = Stream::Output.width().unwrap_or(PLAIN_WIDTH);
            text::write(&report, args.tensors, width, terminal::style(Stream::Output))
        }
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)?;
    Ok(if report.is_sound() { Outcome::Done } else { Outcome::Failed })
}
