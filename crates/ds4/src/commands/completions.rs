//! `ds4 completions`.

use std::io::Write;

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::exit::{Outcome, output_error};

/// Writes the completions.
///
/// # Errors
/// Standard output cannot be written.
pub fn execute(args: &CompletionsArgs) -> anyhow::Result<Outcome> {
    // Generated into memory: the generator gives up on the process if its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ds4", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(output_error)?;
    Ok(Outcome::Done)
}
