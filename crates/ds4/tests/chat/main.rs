//! `ds4 chat`, through pipes and on a terminal.

#[allow(dead_code)]
#[path = "../cli/program.rs"]
mod program;

mod piped;
#[cfg(unix)]
mod terminal;
