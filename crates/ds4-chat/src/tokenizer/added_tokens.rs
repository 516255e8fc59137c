//! Finds the spellings of control tokens in text.
//!
//! Only for text that is trusted to contain control tokens, such as a prompt that was rendered to one string.

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, MatchKind};

use super::vocabulary::Vocabulary;

/// Searches for all control token spellings at once, in time linear in the text.
pub(super) struct AddedTokens {
    search: AhoCorasick,
    /// Token id of each pattern.
    ids: Vec<u32>,
}

/// Part of a text: a control token's spelling, or what stands between two of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'t> {
    Added(u32),
    Text(&'t str),
}

impl AddedTokens {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, BuildError> {
        let (ids, spellings): (Vec<_>, Vec<_>) = vocabulary.added().unzip();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(spellings)?;
        Ok(Self { search, ids })
    }

    /// Cuts `text` at every control token spelling: the leftmost, and of several that begin there, the longest.
    pub(super) fn segments<'t>(&self, text: &'t str) -> impl Iterator<Item = Segment<'t>> {
        let mut matches = self.search.find_iter(text);
        let mut position = 0;
        let mut found = None;
        std::iter::from_fn(move || {
            if let Some(id) = found.take() {
                return Some(Segment::Added(id));
            }
            let start = position;
            match matches.next() {
                Some(matched) => {
                    position = matched.end();
                    let id = self.ids[matched.pattern().as_usize()];
                    if start == matched.start() {
                        return Some(Segment::Added(id));
                    }
                    found = Some(id);
                    Some(Segment::Text(&text[start..matched.start()]))
                }
                None if start < text.len() => {
                    position = text.len();
                    Some(Segment::Text(&text[start..]))
                }
                None => None,
            }
        })
    }
}
