//! From sampled tokens to reasoning, answer and calls, the answer ended by stop sequences.

use std::sync::Arc;

use ds4_chat::dsml::{End, Event, Options, TokenParser};
use ds4_chat::tokenizer::{StreamDecoder, Tokenizer};
use ds4_engine::StopMatcher;

/// Parses the tokens of one answer. Two run over every generation and agree: one on the engine thread, so that the
/// generation stops exactly where the answer ends; the other where the answer is sent from.
pub(super) struct TurnText {
    source: Source,
    stops: StopMatcher,
}

/// How tokens become text.
enum Source {
    /// By the chat format.
    Chat(Box<TokenParser<Arc<Tokenizer>>>),
    /// As they are. Control tokens are not shown.
    Raw(StreamDecoder<Arc<Tokenizer>>, Arc<Tokenizer>),
}

/// What a token does to the place in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Within the reasoning.
    Reasoning,
    /// Within the answer.
    Answer,
    /// Within markup of a call, outside of values.
    Markup,
    /// Within a value of a call.
    Value,
}

impl TurnText {
    /// A chat answer where `parser` is given, else raw text.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, parser: Option<Options>, stops: StopMatcher) -> Self {
        let source = match parser {
            Some(options) => Source::Chat(Box::new(TokenParser::new(tokenizer, options))),
            None => Source::Raw(StreamDecoder::new(Arc::clone(&tokenizer)), tokenizer),
        };
        Self { source, stops }
    }

    /// Takes the next token. After the answer [is complete](Self::is_complete) there are no more events.
    pub(super) fn push(&mut self, token: u32) -> Vec<Event> {
        if self.is_complete() {
            return Vec::new();
        }
        let events = match &mut self.source {
            Source::Chat(parser) => parser.push(token),
            Source::Raw(decoder, tokenizer) => {
                let text = if tokenizer.is_control(token) { decoder.finish() } else { decoder.push(token) };
                vec![Event::Content(text)]
            }
        };
        self.stop(events)
    }

    /// The output is over: what was held back, and [`Event::Finished`] as the last event of a chat answer.
    pub(super) fn finish(&mut self, end: End) -> Vec<Event> {
        let events = match &mut self.source {
            Source::Chat(parser) => parser.finish(end),
            Source::Raw(decoder, _) => vec![Event::Content(decoder.finish())],
        };
        let mut events = self.stop(events);
        if self.stops.matched().is_none() {
            let held = self.stops.finish();
            if !held.is_empty() {
                let place = events.iter().position(|event| matches!(event, Event::Finished(_))).unwrap_or(events.len());
                events.insert(place, Event::Content(held));
            }
        }
        events
    }

    /// Whether nothing more will come: a stop sequence was found, or the turn is over.
    pub(super) fn is_complete(&self) -> bool {
        let is_over = match &self.source {
            Source::Chat(parser) => parser.parser().should_stop(),
            Source::Raw(..) => false,
        };
        is_over || self.stops.matched().is_some()
    }

    /// The stop sequence that was found.
    pub(super) fn stop_sequence(&self) -> Option<&str> {
        self.stops.matched()
    }

    /// How much damage of calls was repaired.
    pub(super) fn recoveries(&self) -> usize {
        match &self.source {
            Source::Chat(parser) => parser.parser().recoveries(),
            Source::Raw(..) => 0,
        }
    }

    /// Where the next token goes.
    pub(super) fn place(&self) -> Place {
        match &self.source {
            Source::Chat(parser) if parser.parser().in_reasoning() => Place::Reasoning,
            Source::Chat(parser) if parser.parser().in_value() => Place::Value,
            Source::Chat(parser) if parser.parser().in_block_structure() => Place::Markup,
            _ => Place::Answer,
        }
    }

    /// Ends the answer at a stop sequence. Other things than text cannot contain one.
    fn stop(&mut self, events: Vec<Event>) -> Vec<Event> {
        let mut out = Vec::with_capacity(events.len());
        for event in events {
            let is_finish = matches!(event, Event::Finished(_));
            if self.stops.matched().is_some() && !is_finish {
                continue;
            }
            match event {
                Event::Content(text) => {
                    let text = self.stops.push(&text);
                    if !text.is_empty() {
                        out.push(Event::Content(text));
                    }
                }
                Event::CallStart { .. } => {
                    // The answer's text is over, so what was held back is text.
                    let held = self.stops.finish();
                    if !held.is_empty() {
                        out.push(Event::Content(held));
                    }
                    out.push(event);
                }
                event => out.push(event),
            }
        }
        out
    }
}
