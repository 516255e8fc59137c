//! How the process ends: exit codes, and errors as sentences.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::terminal;

/// Exit code for wrong usage, also clap's.
pub const USAGE: u8 = 2;
/// Exit code after Ctrl-C: 128 + SIGINT, what a shell expects.
pub const INTERRUPTED: u8 = 130;

/// How a command ended that reported everything itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All went well.
    Done,
    /// Something failed, and that has been said.
    Failed,
    /// Ctrl-C.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Failed => ExitCode::FAILURE,
            Outcome::Interrupted => ExitCode::from(INTERRUPTED),
        }
    }
}

/// Wrong usage that only shows once the arguments are looked at together with their meaning.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Whoever read our output has enough of it, like `head`. Nothing to report.
#[derive(Debug)]
pub struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output closed it")
    }
}

impl std::error::Error for OutputClosed {}

/// What a failed write to standard output means.
pub fn output_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    }
}

/// Says what went wrong, on standard error, and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    let message = format!("ds4: {}", terminal::printable(&sentence(error)));
    terminal::tell(&message, |style, line| match line.strip_prefix("ds4:") {
        Some(rest) => format!("{}{rest}", style.error("ds4:")),
        None => line.to_owned(),
    });
    match error.is::<UsageError>() {
        true => ExitCode::from(USAGE),
        false => ExitCode::FAILURE,
    }
}

/// The error and those of its causes that it does not quote already.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = io::Error::other("the disk is full");
        let quoting = anyhow::Error::new(cause).context("cannot write a.npy: the disk is full");
        assert_eq!(sentence(&quoting), "cannot write a.npy: the disk is full");
        let plain = anyhow::Error::new(io::Error::other("the disk is full")).context("cannot write a.npy");
        assert_eq!(sentence(&plain), "cannot write a.npy: the disk is full");
    }

    #[test]
    fn a_closed_output_is_recognized_below_any_context() {
        let error = output_error(io::ErrorKind::BrokenPipe.into()).context("while answering");
        assert!(error.is::<OutputClosed>());
    }
}
