//! Parsing token ids.

use super::event::{End, Event};
use super::parser::{Options, Parser};
use crate::tokenizer::{StreamDecoder, Tokenizer};
use std::borrow::Borrow;

/// A [`Parser`] that is fed with token ids. `T` is a `&Tokenizer` or an `Arc<Tokenizer>`.
pub struct TokenParser<T> {
    tokenizer: T,
    decoder: StreamDecoder<T>,
    parser: Parser,
}

impl<T: Borrow<Tokenizer> + Clone> TokenParser<T> {
    /// A parser for one output.
    pub fn new(tokenizer: T, options: Options) -> Self {
        TokenParser { decoder: StreamDecoder::new(tokenizer.clone()), tokenizer, parser: Parser::new(options) }
    }

    /// Takes the next sampled token. Bytes of an unfinished character wait for the next token.
    pub fn push(&mut self, id: u32) -> Vec<Event> {
        let tokenizer = self.tokenizer.borrow();
        if !tokenizer.is_control(id) {
            let text = self.decoder.push(id);
            return self.parser.push_text(&text);
        }
        // An unfinished character will not be finished.
        let mut events = self.parser.push_text(&self.decoder.finish());
        events.extend(match tokenizer.special_of(id) {
            Some(special) => self.parser.push_control(special),
            None => self.parser.push_unused_control(&String::from_utf8_lossy(tokenizer.token_bytes(id))),
        });
        events
    }

    /// The output is over; see [`Parser::finish`].
    pub fn finish(&mut self, end: End) -> Vec<Event> {
        let mut events = self.parser.push_text(&self.decoder.finish());
        events.extend(self.parser.finish(end));
        events
    }

    /// The parser's state, for the sampler.
    pub fn parser(&self) -> &Parser {
        &self.parser
    }
}
