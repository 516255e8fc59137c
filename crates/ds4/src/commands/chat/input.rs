//! Where lines come from: a line editor on a terminal, or standard input as it is.

use std::io::{self, BufRead};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::editor::Editor;
use crate::interrupt::Interrupt;

/// Longest line that is read from a pipe, in bytes. No context holds as much.
const LONGEST: u64 = 64 << 20;

/// How often to look for Ctrl-C while nothing comes.
const POLL: Duration = Duration::from_millis(50);

/// A source of lines.
pub enum Input {
    /// A person at a terminal.
    Editor(Box<Editor>),
    /// A pipe or a file, read on a thread of its own so that Ctrl-C is seen while nothing comes.
    Lines(Receiver<io::Result<Vec<u8>>>, Interrupt),
}

/// What was entered.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line; pasted text may have line feeds in it.
    Text(String),
    /// Ctrl-C: whatever was begun is to be forgotten.
    Interrupted {
        /// Whether the line was empty.
        was_empty: bool,
    },
    /// Nothing more comes.
    End,
}

impl Input {
    /// The lines of standard input.
    pub fn lines(interrupt: Interrupt) -> Input {
        let (sender, lines) = mpsc::sync_channel(1);
        thread::spawn(move || {
            loop {
                let line = next_line(io::stdin().lock());
                let is_last = line.as_ref().map_or(true, Vec::is_empty);
                if sender.send(line).is_err() || is_last {
                    return;
                }
            }
        });
        Input::Lines(lines, interrupt)
    }

    /// Whether a person types the lines.
    pub fn is_interactive(&self) -> bool {
        matches!(self, Input::Editor(_))
    }

    /// Reads a line. `goes_on`: it continues a message. `draft` is put into the editor to begin with.
    ///
    /// # Errors
    /// Standard input or the terminal fails; a line is too long or not UTF-8.
    pub fn read(&mut self, goes_on: bool, draft: &str) -> anyhow::Result<Line> {
        match self {
            Input::Editor(editor) => editor.read(goes_on, draft),
            Input::Lines(lines, interrupt) => loop {
                if interrupt.is_pressed() {
                    return Ok(Line::Interrupted { was_empty: true });
                }
                match lines.recv_timeout(POLL) {
                    Ok(line) => return text(line?),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(Line::End),
                }
            },
        }
    }

    /// Notes a message for the editor's history.
    pub fn remember(&mut self, entry: &str) {
        if let Input::Editor(editor) = self {
            editor.remember(entry);
        }
    }
}

/// A line with its line feed; empty at the end.
fn next_line(input: impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(LONGEST + 1).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn text(line: Vec<u8>) -> anyhow::Result<Line> {
    if line.is_empty() {
        return Ok(Line::End);
    }
    if line.len() as u64 > LONGEST {
        bail!("a line of standard input is longer than {LONGEST} bytes, which no context holds");
    }
    let mut text = String::from_utf8(line).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        anyhow!("a line of standard input is not UTF-8 text: its byte {offset} does not begin or continue a character")
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Line::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_a_line_feed_or_the_end() {
        let mut input: &[u8] = b"one\r\n\ntwo";
        let mut read = || text(next_line(&mut input).unwrap()).unwrap();
        assert_eq!(read(), Line::Text("one".to_owned()));
        assert_eq!(read(), Line::Text(String::new()));
        assert_eq!(read(), Line::Text("two".to_owned()));
        assert_eq!(read(), Line::End);
        assert!(text(vec![b'a', 0xff]).unwrap_err().to_string().contains("its byte 1"));
    }
}
