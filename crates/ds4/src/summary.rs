//! The closing line.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use ds4_engine::Started;

use crate::terminal::{self, Stream, join_parts};
use crate::units::{counted, grouped, rate};

/// Columns where standard error is not a terminal: one line.
const UNLIMITED: usize = usize::MAX;

/// Why the answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model, or a stop sequence, ended it.
    Complete,
    /// The limit of tokens or the context.
    Length,
    /// Ctrl-C.
    Interrupted,
}

/// Token counts and times of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many of them were not computed again.
    pub reused: usize,
    /// Tokens sampled.
    pub answer: usize,
    /// From the start to the end of the prompt.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Counts and times of a run, measured here so that they are there after Ctrl-C as well.
pub struct Summary {
    asked: Instant,
    context: usize,
    started: Option<(Started, Instant)>,
    prefilled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    tokens: usize,
}

impl Summary {
    /// An answer that has been waited for since `asked`. `context` in tokens.
    pub fn new(asked: Instant, context: usize) -> Summary {
        Summary { asked, context, started: None, prefilled: None, first_token: None, last_token: None, tokens: 0 }
    }

    /// The engine began to compute. `at`, here and below: when it said so, which may be long before anybody heard it.
    pub fn started(&mut self, event: &Started, at: Instant) {
        self.started = Some((event.clone(), at));
    }

    /// The prompt is computed.
    pub fn prefilled(&mut self, at: Instant) {
        self.prefilled = Some(at);
    }

    /// A token came. Whether it is the first.
    pub fn token(&mut self, at: Instant) -> bool {
        let is_first = self.first_token.is_none();
        self.first_token.get_or_insert(at);
        self.last_token = Some(at);
        self.tokens += 1;
        is_first
    }

    /// The seed of the random choices.
    pub fn seed(&self) -> u64 {
        self.started.as_ref().map_or(0, |(started, _)| started.seed)
    }

    /// Counts and times so far.
    pub fn counts(&self) -> Counts {
        let (prompt, reused, at) = match &self.started {
            Some((started, at)) => (started.prompt_tokens, started.reused_tokens, Some(*at)),
            None => (0, 0, None),
        };
        let between = |from: Option<Instant>, to: Option<Instant>| from.zip(to).map_or(Duration::ZERO, |(a, b)| b - a);
        Counts {
            prompt,
            reused,
            answer: self.tokens,
            prefill: between(at, self.prefilled.or(self.first_token)),
            decode: between(self.first_token, self.last_token),
        }
    }

    /// Prints the closing line to standard error, with `more` at its end.
    pub fn print(&self, ending: Ending, more: Option<String>) {
        let width = Stream::Error.width().unwrap_or(UNLIMITED);
        let mut parts = self.parts(ending);
        parts.extend(more);
        let text = join_parts(&parts, width);
        let style = terminal::style(Stream::Error);
        for line in text.lines() {
            // Without standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "{}", style.dim(line));
        }
    }

    fn parts(&self, ending: Ending) -> Vec<String> {
        let mut parts = Vec::new();
        match ending {
            Ending::Complete => {}
            Ending::Interrupted => parts.push("interrupted".to_owned()),
            Ending::Length => parts.push(self.limit()),
        }
        if let Some((started, at)) = &self.started {
            let computed = started.prompt_tokens - started.reused_tokens;
            let speed = self.prefilled.or(self.first_token).map(|end| speed(computed, end - *at));
            parts.push(format!(
                "prompt {}{} ({} reused)",
                counted(started.prompt_tokens as u64, "token"),
                speed.unwrap_or_default(),
                grouped(started.reused_tokens as u64)
            ));
        }
        // The first token comes out of the prompt's computation; the others take a step each.
        let steps = self.tokens.saturating_sub(1);
        let decode = match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => speed(steps, last - first),
            _ => String::new(),
        };
        parts.push(format!("answer {}{decode}", counted(self.tokens as u64, "token")));
        if let Some(first) = self.first_token {
            let elapsed = first - self.asked;
            parts.push(match elapsed.as_millis() {
                ms if ms < 1000 => format!("first token after {ms} ms"),
                _ => format!("first token after {:.1} s", elapsed.as_secs_f64()),
            });
        }
        parts
    }

    /// Which limit ended the answer.
    fn limit(&self) -> String {
        let prompt = self.started.as_ref().map_or(0, |(started, _)| started.prompt_tokens);
        match prompt + self.tokens >= self.context {
            true => format!("cut off: the context of {} is full", counted(self.context as u64, "token")),
            false => format!("cut off after {} (-n)", counted(self.tokens as u64, "token")),
        }
    }
}

/// `, 12.3 t/s`, or nothing where there is nothing to divide.
fn speed(tokens: usize, time: Duration) -> String {
    match tokens > 0 && time > Duration::ZERO {
        true => format!(", {} t/s", rate(tokens as f64 / time.as_secs_f64())),
        false => String::new(),
    }
}
