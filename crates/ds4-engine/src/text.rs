//! From sampled tokens to the text of an answer.

use std::sync::Arc;

use ds4_chat::tokenizer::{StreamDecoder, Tokenizer};

use crate::StopMatcher;

/// The text of one answer as it grows: complete characters only, ended by stop sequences.
pub(crate) struct TextStream {
    tokenizer: Arc<Tokenizer>,
    decoder: StreamDecoder<Arc<Tokenizer>>,
    stops: StopMatcher,
}

impl TextStream {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, stops: StopMatcher) -> Self {
        Self { decoder: StreamDecoder::new(Arc::clone(&tokenizer)), tokenizer, stops }
    }

    /// Takes a token and returns the text that is certain now. A control token has none of its own, but it ends a
    /// character that was begun before it.
    pub(crate) fn push(&mut self, token: u32) -> String {
        let text = if self.tokenizer.is_control(token) { self.decoder.finish() } else { self.decoder.push(token) };
        self.stops.push(&text)
    }

    /// The stop sequence that was found.
    pub(crate) fn stop(&self) -> Option<&str> {
        self.stops.matched()
    }

    /// The text that was held back.
    pub(crate) fn finish(&mut self) -> String {
        let tail = self.decoder.finish();
        let mut text = self.stops.push(&tail);
        text.push_str(&self.stops.finish());
        text
    }
}
