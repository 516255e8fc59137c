//! Parsing token ids.

use super::event::{End, Event};
use super::parser::{Options, Parser};
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// A [`Parser`] that is fed with token ids.
pub struct TokenParser<'a> {
    tokenizer: &'a Tokenizer,
    decoder: StreamDecoder<&'a Tokenizer>,
    parser: Parser,
}

impl<'a> TokenParser<'a> {
    /// A parser for one output.
    pub fn new(tokenizer: &'a Tokenizer, options: Options) -> Self {
        TokenParser { tokenizer, decoder: StreamDecoder::new(tokenizer), parser: Parser::new(options) }
    }

    /// Takes the next sampled token. Bytes of an unfinished character wait for the next token.
    pub fn push(&mut self, id: u32) -> Vec<Event> {
        if !self.tokenizer.is_control(id) {
            let text = self.decoder.push(id);
            return self.parser.push_text(&text);
        }
        let mut events = self.flush();
        events.extend(match self.tokenizer.special_of(id) {
            Some(special) => self.parser.push_control(special),
            None => self.parser.push_unused_control(&String::from_utf8_lossy(self.tokenizer.token_bytes(id))),
        });
        events
    }

    /// The output is over; see [`Parser::finish`].
    pub fn finish(&mut self, end: End) -> Vec<Event> {
        let mut events = self.flush();
        events.extend(self.parser.finish(end));
        events
    }

    /// The parser's state, for the sampler.
    pub fn parser(&self) -> &Parser {
        &self.parser
    }

    /// An unfinished character will not be finished.
    fn flush(&mut self) -> Vec<Event> {
        let rest = self.decoder.finish();
        self.parser.push_text(&rest)
    }
}
