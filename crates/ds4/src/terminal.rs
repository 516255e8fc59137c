//! What a terminal may be shown: colour, width, progress.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use unicode_width::UnicodeWidthStr;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    /// Whether a person reads it.
    pub fn is_terminal(self) -> bool {
        match self {
            Stream::Output => io::stdout().is_terminal(),
            Stream::Error => io::stderr().is_terminal(),
        }
    }

    /// Columns, if it is a terminal that says so.
    pub fn width(self) -> Option<usize> {
        let size = match self {
            Stream::Output => terminal_size::terminal_size_of(io::stdout()),
            Stream::Error => terminal_size::terminal_size_of(io::stderr()),
        };
        size.map(|(terminal_size::Width(columns), _)| usize::from(columns)).filter(|&columns| columns > 0)
    }
}

/// Says a sentence on standard error without any mark.
pub fn note(sentence: &str) {
    tell(sentence, |_, line| line.to_owned());
}

/// Shows a sentence on standard error: broken at blanks on a terminal, one line elsewhere.
pub fn tell(sentence: &str, mark: impl Fn(Style, &str) -> String) {
    let style = style(Stream::Error);
    let lines = match Stream::Error.width() {
        Some(width) => wrap(sentence, width),
        None => vec![sentence.to_owned()],
    };
    for line in lines {
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "{}", mark(style, &line));
    }
}

/// How to mark text.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    enabled: bool,
}

/// The style of a stream: none unless it is a terminal with colours and `NO_COLOR` is unset.
pub fn style(stream: Stream) -> Style {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Style { enabled: stream.is_terminal() && !is_set("NO_COLOR") && !is_dumb() }
}

/// Whether the terminal understands no control sequences.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

impl Style {
    /// Whether text is marked at all.
    pub fn is_enabled(self) -> bool {
        self.enabled
    }

    /// Of less weight than the rest.
    pub fn dim(self, text: &str) -> Cow<'_, str> {
        self.wrap("2", text)
    }

    /// A heading.
    pub fn bold(self, text: &str) -> Cow<'_, str> {
        self.wrap("1", text)
    }

    /// Something is wrong.
    pub fn error(self, text: &str) -> Cow<'_, str> {
        self.wrap("1;31", text)
    }

    /// Something is right.
    pub fn good(self, text: &str) -> Cow<'_, str> {
        self.wrap("32", text)
    }

    /// Every piece is closed by itself: whatever ends the program, the terminal is left as it was.
    fn wrap<'a>(self, code: &str, text: &'a str) -> Cow<'a, str> {
        match self.enabled && !text.is_empty() {
            true => Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m")),
            false => Cow::Borrowed(text),
        }
    }
}

/// `text` without control characters other than tab and line feed: what a model or a file says must not move the
/// cursor, retitle the window or rewrite what is on the screen. They are shown as U+FFFD.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    match text.contains(is_unsafe) {
        true => Cow::Owned(text.replace(is_unsafe, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// Columns that `text` takes on a terminal: two for a CJK character, none for a combining one.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Joins `parts` with ` · `, in as many lines of `width` columns as that takes; a part is never broken.
pub fn join_parts(parts: &[String], width: usize) -> String {
    const SEPARATOR: &str = " · ";
    let mut text = String::new();
    let mut column = 0;
    for part in parts {
        let len = columns(part);
        if column > 0 && column + 3 + len > width {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push_str(SEPARATOR);
            column += 3;
        }
        text.push_str(part);
        column += len;
    }
    text
}

/// Breaks a sentence at blanks into lines of at most `width` columns, where words allow.
pub fn wrap(sentence: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.is_empty() || columns(line) + 1 + columns(word) <= width);
        match line {
            Some(line) => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A progress bar on standard error, if that is a terminal. It appears only when the work takes a moment, and it
/// disappears when dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
}

/// What a progress bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
}

/// Work that is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

impl Progress {
    /// A bar for `total` units of work.
    pub fn new(label: &str, total: u64, unit: Unit) -> Progress {
        let started = Instant::now();
        if !Stream::Error.is_terminal() || is_dumb() {
            return Progress { bar: None, started };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = match unit {
            Unit::Bytes => "{msg} {bar:20} {binary_bytes}/{binary_total_bytes} {eta}",
            Unit::Tokens => "{msg} {bar:20} {pos}/{len} tokens, {elapsed}",
        };
        let style = ProgressStyle::with_template(template).map(|style| style.progress_chars("━╸─"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(label.to_owned());
        Progress { bar: Some(bar), started }
    }

    /// `done` units are done.
    pub fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            self.refresh();
        }
    }

    /// Time has passed: shows the bar if it took long enough, with the present estimate.
    pub fn refresh(&self) {
        let Some(bar) = &self.bar else { return };
        if bar.is_hidden() && self.started.elapsed() >= PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A moving sign on standard error while something of unknown length happens: as [`Progress`], only after a moment, and
/// gone when dropped.
pub struct Waiting {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Waits for what `label` says.
    pub fn new(label: String) -> Waiting {
        if !Stream::Error.is_terminal() || is_dumb() {
            return Waiting { done: None, thread: None };
        }
        let (done, is_done) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
                bar.set_message(label);
                bar.enable_steady_tick(Duration::from_millis(100));
                // Nothing is ever sent: the channel closes.
                let _ = is_done.recv();
                bar.finish_and_clear();
            }
        });
        Waiting { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // The sign must be gone before anything else is written.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_meaning() {
        assert_eq!(printable("plain\n\ttext · 你好"), "plain\n\ttext · 你好");
        assert_eq!(printable("a\x1b[2Jb\r\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
    }

    #[test]
    fn sentences_break_at_blanks() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensibilities are long", 5), ["incomprehensibilities", "are", "long"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("你好 世界", 8), ["你好", "世界"]);
    }

    #[test]
    fn parts_fill_lines_without_exceeding_them() {
        let parts = ["aaaa", "bbbb", "cccc"].map(str::to_owned);
        assert_eq!(join_parts(&parts, 80), "aaaa · bbbb · cccc");
        assert_eq!(join_parts(&parts, 11), "aaaa · bbbb\ncccc");
        assert_eq!(join_parts(&parts, 10), "aaaa\nbbbb\ncccc");
        assert_eq!(join_parts(&parts, 1), "aaaa\nbbbb\ncccc");
    }
}
