//! Names of stored prefixes: a chain of hashes.
//!
//! The key of a page is the SHA-256 of its parent's key and its tokens; the parent of the first page is the *root*, the
//! hash of everything that a state depends on beside tokens. So equal keys mean equal histories of the same
//! model, in the same format, and nothing else can be mistaken for them. The hash has to be a cryptographic one: prompts come from
//! strangers, and a collision made on purpose would hand one conversation's state to another.

use std::fmt;

use sha2::{Digest, Sha256};

/// Separates our hashes from everybody else's, and from those of another version of the chain.
const DOMAIN: &[u8] = b"ds4 kv chain 1\0";

/// The key of a root, a page or a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainKey([u8; 32]);

impl ChainKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of the page after this one that holds `tokens`.
    pub fn page(&self, tokens: &[u32]) -> Self {
        self.child(b'p', tokens)
    }

    /// The key of a snapshot `tail` tokens after this page.
    pub fn snapshot(&self, tail: &[u32]) -> Self {
        self.child(b's', tail)
    }

    fn child(&self, kind: u8, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new();
        hash.update([kind]);
        hash.update(self.0);
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
        hash.update(&bytes);
        Self(hash.finalize().into())
    }

    /// The key that 64 hexadecimal digits spell.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The first 12 of its hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainKey({})", self.short())
    }
}

/// What a state depends on beside tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A name of the model for people; not part of the root.
    pub label: String,
    /// Everything else that changes a state's bytes: weights, layout, precision, arithmetic.
    pub detail: String,
    /// Tokens of a page, at least 1.
    pub page_tokens: usize,
}

impl Identity {
    /// The root of this identity's chains.
    pub fn root(&self) -> ChainKey {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update((self.page_tokens as u64).to_le_bytes());
        hash.update(self.detail.as_bytes());
        ChainKey(hash.finalize().into())
    }
}

/// The keys of the full pages of a token sequence that grows.
#[derive(Clone, Debug)]
pub struct Chain {
    page_tokens: usize,
    root: ChainKey,
    keys: Vec<ChainKey>,
}

impl Chain {
    /// The chain of no tokens.
    pub fn new(root: ChainKey, page_tokens: usize) -> Self {
        Self { page_tokens: page_tokens.max(1), root, keys: Vec::new() }
    }

    /// Hashes the pages of `tokens` that were not hashed yet. The tokens known before are a beginning of `tokens`.
    pub fn extend(&mut self, tokens: &[u32]) {
        let known = self.keys.len() * self.page_tokens;
        for page in tokens.get(known..).unwrap_or_default().chunks_exact(self.page_tokens) {
            let parent = self.last();
            self.keys.push(parent.page(page));
        }
    }

    /// The keys of the full pages.
    pub fn keys(&self) -> &[ChainKey] {
        &self.keys
    }

    /// The key of the last full page, or the root.
    pub fn last(&self) -> ChainKey {
        self.keys.last().copied().unwrap_or(self.root)
    }

    /// The key of the page before number `page`, or the root.
    pub fn parent_of(&self, page: usize) -> ChainKey {
        page.checked_sub(1).and_then(|before| self.keys.get(before)).copied().unwrap_or(self.root)
    }

    /// Tokens of a page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// The root.
    pub fn root(&self) -> ChainKey {
        self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(detail: &str, page_tokens: usize) -> Identity {
        Identity { label: "m".to_owned(), detail: detail.to_owned(), page_tokens }
    }

    #[test]
    fn keys_tell_histories_models_and_kinds_apart() {
        let root = identity("a", 4).root();
        assert_ne!(root, identity("b", 4).root());
        assert_ne!(root, identity("a", 8).root());
        assert_eq!(root, Identity { label: "other".to_owned(), ..identity("a", 4) }.root());
        let first = root.page(&[1, 2, 3, 4]);
        assert_ne!(first, root.page(&[1, 2, 3, 5]));
        assert_ne!(first, root.snapshot(&[1, 2, 3, 4]));
        assert_ne!(first.page(&[1, 2, 3, 4]), first);
    }

    #[test]
    fn a_chain_grows_as_if_hashed_at_once() {
        let tokens: Vec<u32> = (0..23).collect();
        let root = identity("a", 4).root();
        let mut whole = Chain::new(root, 4);
        whole.extend(&tokens);
        let mut grown = Chain::new(root, 4);
        for len in 0..=tokens.len() {
            grown.extend(&tokens[..len]);
        }
        assert_eq!(whole.keys(), grown.keys());
        assert_eq!(whole.keys().len(), 5);
        assert_eq!((whole.parent_of(0), whole.parent_of(3)), (root, whole.keys()[2]));
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        let key = identity("a", 4).root();
        assert_eq!(ChainKey::from_hex(&key.to_string()), Some(key));
        for bad in ["", "0", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(ChainKey::from_hex(bad), None);
        }
    }
}
