//! The answer as it comes: what is shown where.

use std::io::{self, Write};
use std::sync::Arc;

use ds4_chat::dsml::{End, Event, Options, TokenParser};
use ds4_chat::tokenizer::{StreamDecoder, Tokenizer};
use ds4_engine::StopMatcher;

use crate::exit::output_error;
use crate::terminal::{self, Stream, Style, printable};
use crate::word_wrap::WordWrap;

/// Shows tokens: the answer on standard output, the reasoning dimmed on standard error.
pub struct Answer {
    tokenizer: Arc<Tokenizer>,
    source: Source,
    stop: StopMatcher,
    screen: Screen,
    said: Said,
}

/// What the model said, whether it was shown or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The reasoning.
    pub reasoning: String,
    /// The answer, up to a stop sequence.
    pub content: String,
    /// The tokens of both, without the control token that ended the turn.
    pub tokens: Vec<u32>,
    /// Whether a stop sequence ended the answer: the tokens then go on beyond it.
    pub is_cut_by_stop: bool,
}

/// How tokens become text.
enum Source {
    /// Reasoning and answer, by the chat format.
    Chat(Box<TokenParser<Arc<Tokenizer>>>),
    /// Text and nothing else. Control tokens are not shown.
    Raw(StreamDecoder<Arc<Tokenizer>>),
}

impl Answer {
    /// An answer to be parsed by `parser`, or raw text. `stop` ends the answer; the reasoning may contain it.
    pub fn new(tokenizer: Arc<Tokenizer>, parser: Option<Options>, stop: StopMatcher, show_reasoning: bool) -> Answer {
        let source = match parser {
            Some(options) => Source::Chat(Box::new(TokenParser::new(Arc::clone(&tokenizer), options))),
            None => Source::Raw(StreamDecoder::new(Arc::clone(&tokenizer))),
        };
        Answer { tokenizer, source, stop, screen: Screen::new(show_reasoning), said: Said::default() }
    }

    /// Shows what the next token adds.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn push(&mut self, id: u32) -> anyhow::Result<()> {
        let is_control = self.tokenizer.is_control(id);
        let mut ends_turn = false;
        let events = match &mut self.source {
            Source::Chat(parser) => {
                let events = parser.push(id);
                ends_turn = is_control && parser.parser().should_stop();
                events
            }
            Source::Raw(decoder) => {
                let text = if is_control { decoder.finish() } else { decoder.push(id) };
                vec![Event::Content(text)]
            }
        };
        if !ends_turn {
            self.said.tokens.push(id);
        }
        self.show(events)
    }

    /// Whether nothing more will be shown: a stop sequence was found, or the turn is over.
    pub fn is_complete(&self) -> bool {
        let is_over = match &self.source {
            Source::Chat(parser) => parser.parser().should_stop(),
            Source::Raw(..) => false,
        };
        self.stop.matched().is_some() || is_over
    }

    /// Shows what was held back and ends the last line. `stopped`: the model ended the answer itself.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self, stopped: bool) -> anyhow::Result<()> {
        let events = match &mut self.source {
            Source::Chat(parser) => parser.finish(if stopped { End::Stop } else { End::Length }),
            Source::Raw(decoder) => vec![Event::Content(decoder.finish())],
        };
        self.show(events)?;
        self.said.is_cut_by_stop = self.stop.matched().is_some();
        let rest = self.stop.finish();
        self.said.content.push_str(&rest);
        self.screen.answer(&rest)?;
        self.screen.end()
    }

    /// What was said; complete after [`finish`](Self::finish).
    pub fn into_said(self) -> Said {
        self.said
    }

    fn show(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        for event in events {
            match event {
                Event::Reasoning(text) => {
                    self.said.reasoning.push_str(&text);
                    self.screen.reasoning(&text);
                }
                Event::Content(text) => {
                    let text = self.stop.push(&text);
                    self.said.content.push_str(&text);
                    self.screen.answer(&text)?;
                }
                // Without tools in the prompt, markup is content.
                Event::CallStart { .. } | Event::Arguments { .. } | Event::CallEnd { .. } | Event::Finished(_) => {}
            }
        }
        Ok(())
    }
}

/// The two streams, and where the cursor is.
struct Screen {
    show_reasoning: bool,
    /// Model text must not control a terminal. Into a file it goes as it is.
    is_terminal: bool,
    style: Style,
    /// Reasoning was shown and the answer has not begun.
    in_reasoning: bool,
    /// Something was written to standard output and it does not end with a line feed.
    in_line: bool,
    /// Of the reasoning, and of the answer.
    wraps: [WordWrap; 2],
}

impl Screen {
    fn new(show_reasoning: bool) -> Screen {
        Screen {
            show_reasoning,
            is_terminal: Stream::Output.is_terminal(),
            style: terminal::style(Stream::Error),
            in_reasoning: false,
            in_line: false,
            wraps: Default::default(),
        }
    }

    fn reasoning(&mut self, text: &str) {
        if text.is_empty() || !self.show_reasoning {
            return;
        }
        self.in_reasoning = true;
        // An answer is worth having even where its reasoning cannot be shown.
        let shown = match Stream::Error.is_terminal() {
            true => wrapped(&mut self.wraps[0], Stream::Error, &printable(text)),
            false => printable(text).into_owned(),
        };
        let _ = write!(io::stderr(), "{}", self.style.dim(&shown));
    }

    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.end_reasoning();
        let shown = match self.is_terminal {
            true => wrapped(&mut self.wraps[1], Stream::Output, &printable(text)),
            false => text.to_owned(),
        };
        let mut out = io::stdout().lock();
        out.write_all(shown.as_bytes()).and_then(|()| out.flush()).map_err(output_error)?;
        self.in_line = !shown.ends_with('\n');
        Ok(())
    }

    /// A blank line between reasoning and answer.
    fn end_reasoning(&mut self) {
        if std::mem::take(&mut self.in_reasoning) {
            let _ = write!(io::stderr(), "\n\n");
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.in_reasoning) {
            let _ = writeln!(io::stderr());
        }
        if std::mem::take(&mut self.in_line) {
            let mut out = io::stdout().lock();
            out.write_all(b"\n").and_then(|()| out.flush()).map_err(output_error)?;
        }
        Ok(())
    }
}

/// `text` broken at words for a terminal that knows its width and the sequences that take a word back.
fn wrapped(wrap: &mut WordWrap, stream: Stream, text: &str) -> String {
    match stream.width() {
        Some(width) if !terminal::is_dumb() => wrap.push(text, width),
        _ => text.to_owned(),
    }
}
