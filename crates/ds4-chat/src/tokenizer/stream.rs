//! Turns token ids into text as they arrive.

use std::borrow::Borrow;

use super::Tokenizer;

/// Decodes a stream of token ids, giving out only complete characters.
///
/// A token may end, or begin, in the middle of a character. What may still become a character is held back until the next
/// token decides; what cannot is replaced by U+FFFD as in [`String::from_utf8_lossy`]. All the text given out, with what
/// [`finish`](Self::finish) gives, is therefore the lossy decoding of all the ids.
///
/// `T` is a `&Tokenizer` or an `Arc<Tokenizer>`.
///
/// ```
/// # use ds4_chat::tokenizer::{StreamDecoder, Tokenizer};
/// let tokenizer = Tokenizer::official()?;
/// let mut decoder = StreamDecoder::new(&tokenizer);
/// let pieces: Vec<String> = tokenizer.encode("𝔘!").into_iter().map(|id| decoder.push(id)).collect();
/// assert_eq!(pieces, ["", "", "𝔘", "!"]);
/// assert_eq!(decoder.finish(), "");
/// # Ok::<(), ds4_chat::tokenizer::TokenizerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StreamDecoder<T> {
    tokenizer: T,
    /// The beginning of a character: at most three bytes between calls.
    held: Vec<u8>,
}

impl<T: Borrow<Tokenizer>> StreamDecoder<T> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: T) -> Self {
        Self { tokenizer, held: Vec::new() }
    }

    /// Takes the next token and returns the text that is complete now. Control tokens give their spelling; ids outside
    /// the vocabulary give nothing.
    pub fn push(&mut self, id: u32) -> String {
        let bytes = self.tokenizer.borrow().token_bytes(id);
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(length) = error.error_len() else {
                        rest = invalid;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &invalid[length..];
                }
            }
        }
        let complete = self.held.len() - rest.len();
        self.held.drain(..complete);
        text
    }

    /// Ends the text: a character that was begun and never completed becomes one U+FFFD.
    ///
    /// The decoder is then at the start of a new text.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}
