//! The byte-level BPE tokenizer of DeepSeek V4.
//!
//! Text becomes token ids in three steps: it is cut into [pre-tokens](pre_token), each pre-token starts as one token
//! per byte, and adjacent tokens are [merged](merge) by rank. Nothing normalizes the text, and every string can be
//! encoded, so decoding gives back exactly what was encoded.
//!
//! A vocabulary also has control tokens ("added" tokens): turn markers, tool markup, and many that are unused. Plain text
//! never encodes to one, whatever it says; [`Tokenizer::encode_prompt`] writes them where a [`Prompt`] has them.

mod added_tokens;
mod arrays;
mod byte_symbol;
mod error;
mod hf_json;
mod merge;
mod official;
mod parts;
mod pre_token;
mod stream;
mod unicode_class;
mod unicode_class_table;
mod vocabulary;
mod workspace;

pub use arrays::TokenizerArrays;
pub use error::TokenizerError;
pub use parts::TokenizerParts;
pub use stream::StreamDecoder;

use crate::special::{Piece, Prompt, Special};
use added_tokens::{AddedTokens, Segment};
use merge::MergeTable;
use pre_token::PreTokens;
use vocabulary::Vocabulary;
use workspace::WorkspacePool;

/// A vocabulary, ready to encode and decode. Shared between threads by reference or `Arc`.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    merges: MergeTable,
    added: AddedTokens,
    workspaces: WorkspacePool,
}

impl Tokenizer {
    /// Encodes text. No control token comes out of it, even where the text spells one.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(capacity(text.len()));
        self.append(text, &mut ids);
        ids
    }

    /// Encodes text, turning every spelling of a control token into that token: the leftmost spelling, and
    /// of several that begin there, the longest.
    ///
    /// For text from trusted sources only: a spelling that came from a user or a file would become a control token, too.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(capacity(text.len()));
        for segment in self.added.segments(text) {
            match segment {
                Segment::Added(id) => ids.push(id),
                Segment::Text(text) => self.append(text, &mut ids),
            }
        }
        ids
    }

    /// Encodes a prompt: each control piece becomes its token, each text piece is encoded as plain text,
    /// and replayed ids stay as they are.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::ControlNotInVocabulary`] if the prompt has an optional control token (a quick task's or the
    /// reminder's) that this vocabulary lacks; [`TokenizerError::IdNotInVocabulary`] if a replayed id is out of range.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for piece in prompt.pieces() {
            match piece {
                &Piece::Control(special) => {
                    let id = self.special(special);
                    ids.push(id.ok_or(TokenizerError::ControlNotInVocabulary { special })?);
                }
                Piece::Text(text) => self.append(text, &mut ids),
                Piece::Tokens(replayed) => {
                    if let Some(&id) = replayed.iter().find(|&&id| id as usize >= self.vocab_size()) {
                        return Err(TokenizerError::IdNotInVocabulary { id, size: self.vocab_size() });
                    }
                    ids.extend_from_slice(replayed);
                }
            }
        }
        Ok(ids)
    }

    fn append(&self, text: &str, ids: &mut Vec<u32>) {
        self.workspaces.with(|workspace| {
            for word in PreTokens::new(text) {
                workspace.encode(&self.merges, word.as_bytes(), ids);
            }
        });
    }

    /// The bytes of some tokens, joined. Control tokens give their spelling; ids outside the vocabulary give nothing.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ids.len().saturating_mul(4));
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id));
        }
        bytes
    }

    /// [`decode`](Self::decode) as text, with U+FFFD in place of what is not UTF-8 (see [`String::from_utf8_lossy`]).
    pub fn decode_lossy(&self, ids: &[u32]) -> String {
        match String::from_utf8(self.decode(ids)) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The id of a control token, if this vocabulary has it. Every vocabulary has those that chats need: BOS, EOS, the turn
    /// markers, the reasoning markers and the tool markup marker.
    pub fn special(&self, special: Special) -> Option<u32> {
        self.vocabulary.special(special)
    }

    /// The control token of the chat format that an id stands for.
    pub fn special_of(&self, id: u32) -> Option<Special> {
        self.vocabulary.special_of(id)
    }

    /// Number of token ids; ids are `0..vocab_size()`.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether an id is a control token, one of the chat format's or any other.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.is_added(id)
    }

    /// The bytes of a token: not always UTF-8. Control tokens give their spelling; an id outside the vocabulary gives nothing.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.token_bytes(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// A first guess at the number of ids of a text: most text has more than three bytes per token.
fn capacity(bytes: usize) -> usize {
    bytes / 3
}
