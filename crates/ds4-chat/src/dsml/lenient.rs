//! Blocks of calls that are spelled in ordinary tokens, as heavily quantized checkpoints write them at times.
//!
//! Such text is a call only if it starts a line, is complete and ends the message: quoted markup is not.

use super::event::{End, Event, Events};
use super::opener::Atom;
use super::output::ParsedOutput;
use super::parser::{Options, Parser};
use crate::special::Special;

/// What may stand in the place of the DSML token.
const MARKERS: [&str; 4] = ["｜DSML｜", "DSML｜", "|DSML|", ""];
/// Tags, for markup without any marker.
const TAGS: [&str; 3] = ["tool_calls>", "invoke ", "parameter "];
const CLOSING_TAGS: [&str; 3] = ["tool_calls>", "invoke>", "parameter>"];

/// Passes an answer on, but holds back what may be a spelled block.
pub(super) struct SpelledBlock {
    /// Newlines before the candidate.
    newlines: usize,
    at_line_start: bool,
    /// The candidate, from its `<` on.
    held: String,
    /// The marker it uses, once its opening tag is complete.
    marker: Option<&'static str>,
    /// Whether the candidate has its closing tag.
    block_closed: bool,
    has_calls: bool,
    /// Nothing is held back any more.
    finished: bool,
}

impl SpelledBlock {
    pub(super) fn new() -> Self {
        SpelledBlock {
            newlines: 0,
            at_line_start: true,
            held: String::new(),
            marker: None,
            block_closed: false,
            has_calls: false,
            finished: false,
        }
    }

    pub(super) fn has_calls(&self) -> bool {
        self.has_calls
    }

    pub(super) fn push(&mut self, text: &str, events: &mut Events) {
        if self.finished {
            return events.content(text);
        }
        text.chars().for_each(|character| self.character(character, events));
    }

    fn character(&mut self, character: char, events: &mut Events) {
        if self.marker.is_some() || !self.held.is_empty() {
            self.held.push(character);
            if let Some(marker) = self.marker {
                if self.block_closed && !character.is_whitespace() {
                    // The block does not end the message.
                    self.release(events);
                } else if character == '>' {
                    self.block_closed = self.held.ends_with(&format!("</{marker}tool_calls>"));
                }
                return;
            }
            let mut possible = false;
            for marker in MARKERS {
                let opening = format!("<{marker}tool_calls>");
                possible |= opening.starts_with(&self.held);
                if opening == self.held {
                    self.marker = Some(marker);
                }
            }
            if !possible {
                self.held.pop();
                self.release(events);
                self.character(character, events);
            }
        } else if character == '\n' {
            self.newlines += 1;
            self.at_line_start = true;
        } else if character == '<' && self.at_line_start {
            self.held.push(character);
        } else {
            self.release(events);
            events.content(character.encode_utf8(&mut [0; 4]));
        }
    }

    fn release(&mut self, events: &mut Events) {
        events.content(&"\n".repeat(std::mem::take(&mut self.newlines)));
        events.content(&std::mem::take(&mut self.held));
        self.at_line_start = false;
        self.marker = None;
        self.block_closed = false;
    }

    /// The answer is over. With `accept`, a complete block at its end becomes calls; everything else is shown.
    pub(super) fn finish(&mut self, accept: bool, events: &mut Events) {
        if self.finished {
            return;
        }
        self.finished = true;
        let calls = self.marker.filter(|_| accept).and_then(|marker| parse(&self.held, marker));
        let Some(calls) = calls else { return self.release(events) };
        self.has_calls = true;
        for (index, call) in calls.tool_calls.into_iter().enumerate() {
            events.push(Event::CallStart { index, name: call.name });
            events.arguments(index, &call.arguments);
            events.push(Event::CallEnd { index, complete: true });
        }
    }
}

/// The calls of a spelled block that is complete and has nothing after it.
fn parse(text: &str, marker: &'static str) -> Option<ParsedOutput> {
    let mut parser = Parser::new(Options { tools: true, ..Options::default() });
    let mut output = ParsedOutput::default();
    let mut rest = text.trim_end();
    while !rest.is_empty() {
        if parser.should_stop() {
            return None;
        }
        let (atoms, len) = next(rest, marker);
        for atom in atoms.into_iter().flatten() {
            output.apply_all(&match atom {
                Atom::Char(character) => parser.push_text(character.encode_utf8(&mut [0; 4])),
                Atom::Dsml => parser.push_control(Special::Dsml),
            });
        }
        rest = &rest[len..];
    }
    let closed = parser.should_stop();
    output.apply_all(&parser.finish(End::Stop));
    let complete = closed && output.content.is_empty() && output.tool_calls.iter().all(|call| call.complete);
    (complete && !output.tool_calls.is_empty()).then_some(output)
}

/// The first character of `text`, or a tag's start with its marker replaced by the token; and the length it has in `text`.
fn next(text: &str, marker: &str) -> ([Option<Atom>; 3], usize) {
    for (start, tags) in [("</", CLOSING_TAGS), ("<", TAGS)] {
        let Some(rest) = text.strip_prefix(start).and_then(|rest| rest.strip_prefix(marker)) else { continue };
        if !marker.is_empty() || tags.iter().any(|tag| rest.starts_with(tag)) {
            let slash = (start == "</").then_some(Atom::Char('/'));
            return ([Some(Atom::Char('<')), slash, Some(Atom::Dsml)], start.len() + marker.len());
        }
    }
    let character = text.chars().next().unwrap_or_default();
    ([Some(Atom::Char(character)), None, None], character.len_utf8())
}
