//! The tokens themselves: id → bytes, and which ids are control tokens.

use super::byte_symbol;
use crate::special::Special;

/// Tokens may not be longer than this (bytes): token lengths are kept in 16 bits while merging.
pub(super) const MAX_TOKEN_BYTES: usize = u16::MAX as usize;

/// Token ids stay below this, which also keeps every count far from wrapping.
pub(super) const MAX_TOKENS: usize = 1 << 24;

/// Token bytes of all ids, in one allocation.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// End of each token in `bytes`; a token begins where the one before it ends.
    ends: Vec<usize>,
    /// Whether an id is a control token (an "added" token, honoured only where the prompt says so).
    added: Vec<bool>,
    /// Ids of the chat format's control tokens, in the order of [`Special::ALL`].
    specials: [Option<u32>; Special::ALL.len()],
}

impl Vocabulary {
    pub(super) fn with_capacity(tokens: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(tokens),
            added: Vec::with_capacity(tokens),
            specials: [None; Special::ALL.len()],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Appends an ordinary token spelled in byte symbols, or returns the first character that is none.
    pub(super) fn push_spelled(&mut self, spelling: &str) -> Result<(), char> {
        let start = self.bytes.len();
        byte_symbol::append_bytes(spelling, &mut self.bytes).inspect_err(|_| self.bytes.truncate(start))?;
        self.end_token(false);
        Ok(())
    }

    /// Appends the token of a single byte.
    pub(super) fn push_byte(&mut self, byte: u8) {
        self.bytes.push(byte);
        self.end_token(false);
    }

    /// Appends an ordinary token that joins two earlier ones.
    pub(super) fn push_joined(&mut self, left: u32, right: u32) {
        for id in [left, right] {
            let range = self.range(id);
            self.bytes.extend_from_within(range);
        }
        self.end_token(false);
    }

    /// Appends a control token.
    pub(super) fn push_added(&mut self, spelling: &str) {
        let id = self.ends.len() as u32;
        if let Some(special) = Special::ALL.into_iter().find(|special| special.spelling() == spelling) {
            self.specials[special as usize] = Some(id);
        }
        self.bytes.extend_from_slice(spelling.as_bytes());
        self.end_token(true);
    }

    /// Makes a token of the bytes behind the last one.
    fn end_token(&mut self, added: bool) {
        self.ends.push(self.bytes.len());
        self.added.push(added);
    }

    fn range(&self, id: u32) -> std::ops::Range<usize> {
        let Some(&end) = self.ends.get(id as usize) else { return 0..0 };
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        start..end
    }

    /// Bytes of a token; empty for an id outside the vocabulary.
    #[inline]
    pub(super) fn token_bytes(&self, id: u32) -> &[u8] {
        &self.bytes[self.range(id)]
    }

    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added.get(id as usize).copied().unwrap_or(false)
    }

    /// Ids and spellings of all control tokens, ascending.
    pub(super) fn added(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).filter(|&id| self.is_added(id)).map(|id| (id, self.token_bytes(id)))
    }

    pub(super) fn special(&self, special: Special) -> Option<u32> {
        self.specials[special as usize]
    }

    pub(super) fn special_of(&self, id: u32) -> Option<Special> {
        Special::ALL.into_iter().find(|&special| self.special(special) == Some(id))
    }
}
