//! The ds4 command line.

mod answer;
mod args;
mod backend;
mod card;
mod catalog;
mod commands;
mod exit;
mod fit;
mod follow;
mod interrupt;
mod kv_cache;
mod machine;
mod model_source;
mod npy;
mod summary;
mod terminal;
mod units;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;

use args::{Cli, Command};
use exit::Outcome;

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe behind `ds4 --help` is nothing to report.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match execute(&cli.command, started) {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error),
    }
}

fn execute(command: &Command, started: Instant) -> anyhow::Result<Outcome> {
    ds4_gguf::truncation_guard::install().context("cannot watch mapped files")?;
    match command {
        Command::Run(args) => commands::run::execute(args, started),
        Command::Chat(args) => commands::chat::execute(args),
        Command::Serve(args) => commands::serve::execute(args),
        Command::Inspect(args) => commands::inspect::execute(args),
        Command::Bench(args) => commands::bench::execute(args),
        Command::Synth(args) => commands::synth::execute(args),
        Command::Pull(args) => commands::pull::execute(args),
        Command::Doctor(args) => commands::doctor::execute(args),
        Command::Debug(args) => commands::debug::execute(args),
        Command::Completions(args) => commands::completions::execute(args),
        Command::Kv(args) => commands::kv::execute(args),
        Command::Man(args) => commands::man::execute(args),
    }
}
