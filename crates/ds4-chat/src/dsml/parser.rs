//! The streaming parser: reasoning, answer, and where a block of calls starts.

use super::block::Block;
use super::event::{End, Event, Events, FinishReason};
use super::lenient::SpelledBlock;
use super::opener::{Atom, Match, Opener};
use super::{Start, dsml};
use crate::special::Special;

/// What a parser depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the output starts.
    pub start: Start,
    /// Whether the prompt showed tools. Without tools, markup is text.
    pub tools: bool,
    /// Whether a call before `</think>` ends the reasoning and counts. By default it is text: a model that quotes or
    /// plans a call must not trigger it.
    pub calls_in_reasoning: bool,
    /// Whether a block that is spelled in ordinary tokens counts, if it starts a line, is complete, ends the message and
    /// no real call was made. For checkpoints whose quantization damaged the marker; the answer is then held back from
    /// the possible start of such a block.
    pub lenient: bool,
    /// Whether the turn ends with its first call.
    pub single_call: bool,
}

/// Parses a model's output as it arrives.
///
/// Text must be complete to a character; control tokens come apart from it. However the output is cut into pieces, the
/// concatenated result is the same. Held back are at most a run of newlines, a `<` or `</`, and the opening of a block
/// of calls until it is complete or impossible; a value that is not a plain string comes when it is complete.
///
/// ```
/// use ds4_chat::dsml::{End, Options, ParsedOutput, Parser, Start};
/// use ds4_chat::special::Special;
///
/// let mut parser = Parser::new(Options { start: Start::Reasoning, ..Options::default() });
/// let mut output = ParsedOutput::default();
/// output.apply_all(&parser.push_text("17 * 23 is 391."));
/// output.apply_all(&parser.push_control(Special::EndThink));
/// output.apply_all(&parser.push_text("\n\n391"));
/// output.apply_all(&parser.finish(End::Stop));
/// assert_eq!((output.reasoning.as_str(), output.content.as_str()), ("17 * 23 is 391.", "391"));
/// ```
pub struct Parser {
    options: Options,
    phase: Phase,
    /// Leading newlines are being dropped.
    at_start: bool,
    /// Nothing but blanks stands in the answer.
    is_blank: bool,
    /// Newlines held back.
    newlines: usize,
    /// A `<` held back, after those newlines.
    bracket: bool,
    /// A possible opening held back, after those newlines.
    opener: Option<Opener>,
    block: Block,
    spelled: Option<SpelledBlock>,
    finished: bool,
    events: Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reasoning,
    Content,
    Block,
    Done,
}

const BLOCK_NAME: &str = "tool_calls";

impl Parser {
    /// A parser for one output.
    pub fn new(options: Options) -> Self {
        let mut block = Block::new(BLOCK_NAME, options.single_call);
        let mut events = Events::default();
        let (phase, continued) = match &options.start {
            Start::Reasoning => (Phase::Reasoning, false),
            Start::ReasoningContinued => (Phase::Reasoning, true),
            Start::Content => (Phase::Content, false),
            Start::ContentContinued => (Phase::Content, true),
            Start::Block => (Phase::Block, false),
            Start::Invoke(name) => {
                block.start_call(name, &mut events);
                (Phase::Block, false)
            }
        };
        Parser {
            phase,
            at_start: !continued,
            is_blank: options.start != Start::ContentContinued,
            newlines: 0,
            bracket: false,
            opener: None,
            block,
            spelled: (options.lenient && options.tools).then(SpelledBlock::new),
            finished: false,
            events,
            options,
        }
    }

    /// Takes text made of ordinary tokens.
    pub fn push_text(&mut self, text: &str) -> Vec<Event> {
        for character in text.chars() {
            self.push(Atom::Char(character));
        }
        self.events.take()
    }

    /// Takes a control token of the chat format.
    pub fn push_control(&mut self, control: Special) -> Vec<Event> {
        match control {
            Special::Dsml => self.push(Atom::Dsml),
            // A turn ends there; one that the model invents is never shown.
            Special::Eos | Special::User | Special::Assistant | Special::Bos | Special::LatestReminder => {
                self.close_prose();
            }
            other => self.push_other(other, other.spelling()),
        }
        self.events.take()
    }

    /// Takes a control token that the chat format does not use: not shown, except inside a value.
    pub fn push_unused_control(&mut self, spelling: &str) -> Vec<Event> {
        match self.phase {
            Phase::Block => self.block.push_other(spelling, &mut self.events),
            Phase::Reasoning | Phase::Content => self.interrupt(),
            Phase::Done => {}
        }
        self.events.take()
    }

    /// The output is over. Reports what was held back and ends an unfinished call; call it once.
    pub fn finish(&mut self, end: End) -> Vec<Event> {
        if self.finished {
            return Vec::new();
        }
        self.finished = true;
        let block_closed = self.block.is_done();
        let stopped = end == End::Stop || block_closed || self.phase == Phase::Done;
        self.close_prose();
        if let Some(spelled) = &mut self.spelled {
            spelled.finish(stopped && self.block.calls() == 0, &mut self.events);
        }
        let has_calls = self.block.calls() > 0 || self.spelled.as_ref().is_some_and(SpelledBlock::has_calls);
        let reason = match (stopped, has_calls) {
            (false, _) => FinishReason::Length,
            (true, true) => FinishReason::ToolCalls,
            (true, false) => FinishReason::Stop,
        };
        self.events.push(Event::Finished(reason));
        self.events.take()
    }

    /// Whether generation should end now: the block of calls is closed, or the turn is over.
    pub fn should_stop(&self) -> bool {
        self.phase == Phase::Done || self.block.is_done()
    }

    /// How much damage of calls was repaired: values that were not JSON, tags that were missing or misspelled.
    pub fn recoveries(&self) -> usize {
        self.block.recoveries()
    }

    /// Whether the output is in its reasoning. A sampler masks the DSML token there, so that a forgotten `</think>`
    /// cannot become a call.
    pub fn in_reasoning(&self) -> bool {
        self.phase == Phase::Reasoning
    }

    /// Whether the output is in markup outside of values, where a sampler does well to take the likeliest token.
    pub fn in_block_structure(&self) -> bool {
        self.opener.is_some() || (self.phase == Phase::Block && !self.should_stop() && !self.block.in_value())
    }

    /// Whether the output is in a value of a call.
    pub fn in_value(&self) -> bool {
        self.phase == Phase::Block && self.block.in_value()
    }

    fn push(&mut self, atom: Atom) {
        match self.phase {
            Phase::Block => self.block.push(atom, &mut self.events),
            Phase::Reasoning | Phase::Content => match self.opener.take() {
                Some(opener) => self.push_to_opener(opener, atom),
                None => self.push_prose(atom),
            },
            Phase::Done => {}
        }
    }

    fn push_other(&mut self, control: Special, spelling: &str) {
        if self.phase == Phase::Block {
            return self.block.push_other(spelling, &mut self.events);
        }
        if self.phase == Phase::Done {
            return;
        }
        self.interrupt();
        match (control, self.phase) {
            (Special::EndThink, Phase::Reasoning) => {
                self.newlines = 0;
                self.enter(Phase::Content);
            }
            // A model that reasons although its prompt said not to.
            (Special::Think, Phase::Content) if self.is_blank => {
                self.newlines = 0;
                self.enter(Phase::Reasoning);
            }
            _ => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.at_start = true;
        self.is_blank = true;
    }

    /// Whether a block of calls may start here.
    fn may_open(&self) -> bool {
        self.options.tools && (self.phase == Phase::Content || self.options.calls_in_reasoning)
    }

    fn push_prose(&mut self, atom: Atom) {
        match atom {
            Atom::Char('\n') => {
                self.release_bracket();
                if !self.at_start {
                    self.newlines += 1;
                    if self.phase == Phase::Content && !self.may_open() {
                        self.release();
                    }
                }
            }
            Atom::Char('<') if self.may_open() => {
                self.release_bracket();
                self.bracket = true;
            }
            Atom::Char(character) => {
                self.release();
                self.emit(character.encode_utf8(&mut [0; 4]));
            }
            Atom::Dsml if self.bracket => {
                self.bracket = false;
                self.opener = Some(Opener::new());
            }
            Atom::Dsml => {
                self.release();
                self.emit(dsml());
            }
        }
    }

    fn push_to_opener(&mut self, mut opener: Opener, atom: Atom) {
        match opener.push(atom) {
            Match::Possible => self.opener = Some(opener),
            Match::Opened(name) => {
                self.newlines = 0;
                self.phase = Phase::Block;
                let block = Block::new(name.as_deref().unwrap_or(BLOCK_NAME), self.options.single_call);
                self.block = block.in_invoke_name();
                if let Some(spelled) = &mut self.spelled {
                    spelled.finish(false, &mut self.events);
                }
            }
            Match::Impossible => self.reject(opener),
        }
    }

    /// Shows what looked like an opening, and looks for another one within it.
    fn reject(&mut self, opener: Opener) {
        self.release();
        let mut atoms = opener.into_atoms().into_iter();
        for atom in atoms.by_ref().take(2) {
            match atom {
                Atom::Char(character) => self.emit(character.encode_utf8(&mut [0; 4])),
                Atom::Dsml => self.emit(dsml()),
            }
        }
        atoms.for_each(|atom| self.push(atom));
    }

    /// A control token that is no markup comes: no opening goes on across it.
    fn interrupt(&mut self) {
        while let Some(opener) = self.opener.take() {
            self.reject(opener);
        }
        self.release_bracket();
    }

    /// Shows held newlines and `<`, if there is a `<`.
    fn release_bracket(&mut self) {
        if self.bracket {
            self.release();
        }
    }

    /// Shows held newlines and `<`.
    fn release(&mut self) {
        if self.newlines > 0 {
            let newlines = "\n".repeat(std::mem::take(&mut self.newlines));
            self.emit(&newlines);
        }
        if std::mem::take(&mut self.bracket) {
            self.emit("<");
        }
    }

    fn emit(&mut self, text: &str) {
        self.at_start = false;
        if self.phase == Phase::Reasoning {
            return self.events.reasoning(text);
        }
        self.is_blank &= text.trim().is_empty();
        match &mut self.spelled {
            Some(spelled) => spelled.push(text, &mut self.events),
            None => self.events.content(text),
        }
    }

    /// Ends the turn here. What was cut inside a possible opening is dropped.
    fn close_prose(&mut self) {
        match self.phase {
            Phase::Reasoning | Phase::Content if self.opener.take().is_none() => self.release(),
            Phase::Block => self.block.finish(&mut self.events),
            _ => {}
        }
        self.phase = Phase::Done;
    }
}
