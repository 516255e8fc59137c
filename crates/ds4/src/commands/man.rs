//! `ds4 man`.

use std::fs;
use std::io::Write;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::{Cli, ManArgs};
use crate::exit::{Outcome, output_error};

/// Writes the manual.
///
/// # Errors
/// The output cannot be written.
pub fn execute(args: &ManArgs) -> anyhow::Result<Outcome> {
    let command = Cli::command();
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("cannot make the manual page")?;
        let mut out = std::io::stdout().lock();
        out.write_all(&page).and_then(|()| out.flush()).map_err(output_error)?;
        return Ok(Outcome::Done);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(command, dir).with_context(|| format!("cannot write into {}", dir.display()))?;
    eprintln!("The manual pages are in {}", dir.display());
    Ok(Outcome::Done)
}
