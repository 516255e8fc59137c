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
mod word_wrap;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;

use args::{Cli, Command};
use exit::Outcome;

fn main() -> ExitCode {
    let started = Instant::now();
    leave_wayland_alone();
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

/// Mesa's layer that chooses among cards asks the Wayland server for the user's, and where there can be none its library says so
/// on standard error, in the midst of our reports. There it is switched off, unless the user chose a card through it.
fn leave_wayland_alone() {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if cfg!(target_os = "linux") && !is_set("XDG_RUNTIME_DIR") && !is_set("MESA_VK_DEVICE_SELECT") {
        // SAFETY: the program has no other thread yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
