//! States of ended generations, for prompts that begin with the same tokens.

use ds4_model::state::SequenceState;

/// A few sequences with the tokens that they have computed.
///
/// A state cannot be rolled back, so it serves only prompts that go on beyond its last token.
pub(crate) struct PrefixCache<S> {
    capacity: usize,
    /// Most recently used last.
    entries: Vec<Entry<S>>,
}

struct Entry<S> {
    tokens: Vec<u32>,
    sequence: S,
}

impl<S: SequenceState> PrefixCache<S> {
    /// An empty cache for `capacity` states.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Vec::new() }
    }

    /// A copy of the longest state whose tokens are the beginning of `prompt`, with at least one token of it to go.
    ///
    /// The state itself stays: pages are shared between copies, and a second prompt may branch off at the same place.
    pub(crate) fn find(&mut self, prompt: &[u32]) -> Option<S> {
        let usable = |entry: &&(usize, &Entry<S>)| {
            let tokens = &entry.1.tokens;
            tokens.len() < prompt.len() && prompt.starts_with(tokens)
        };
        let (index, _) = self
            .entries
            .iter()
            .enumerate()
            .filter(|entry| usable(&entry))
            .max_by_key(|(_, entry)| entry.tokens.len())?;
        let entry = self.entries.remove(index);
        let sequence = entry.sequence.fork();
        self.entries.push(entry);
        Some(sequence)
    }

    /// Keeps a state. tokens: [sequence.len()].
    ///
    /// Where there is no place left, a state that this one continues goes first: it is the earlier turn of the
    /// same conversation. Otherwise the one that was not used for longest.
    pub(crate) fn store(&mut self, tokens: Vec<u32>, sequence: S) {
        debug_assert_eq!(tokens.len(), sequence.len());
        if self.capacity == 0 || tokens.is_empty() {
            return;
        }
        self.entries.retain(|entry| entry.tokens != tokens);
        if self.entries.len() >= self.capacity {
            let continued = self.entries.iter().position(|entry| tokens.starts_with(&entry.tokens));
            self.entries.remove(continued.unwrap_or(0));
        }
        self.entries.push(Entry { tokens, sequence });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Length(usize);

    impl SequenceState for Length {
        fn len(&self) -> usize {
            self.0
        }

        fn advance(&mut self, tokens: usize) {
            self.0 += tokens;
        }

        fn fork(&self) -> Self {
            Self(self.0)
        }
    }

    fn store(cache: &mut PrefixCache<Length>, tokens: &[u32]) {
        cache.store(tokens.to_vec(), Length(tokens.len()));
    }

    fn found(cache: &mut PrefixCache<Length>, prompt: &[u32]) -> usize {
        cache.find(prompt).map_or(0, |sequence| sequence.0)
    }

    #[test]
    fn the_longest_proper_prefix_is_found() {
        let mut cache = PrefixCache::new(4);
        store(&mut cache, &[1, 2]);
        store(&mut cache, &[1, 2, 3, 4]);
        store(&mut cache, &[1, 9]);
        assert_eq!(found(&mut cache, &[1, 2, 3, 4, 5]), 4);
        assert_eq!(found(&mut cache, &[1, 2, 3, 4]), 2, "a state that is the whole prompt has no logits to give");
        assert_eq!(found(&mut cache, &[1, 2, 3]), 2);
        assert_eq!(found(&mut cache, &[1, 2, 7, 4, 5]), 2);
        assert_eq!(found(&mut cache, &[1, 2]), 0);
        assert_eq!(found(&mut cache, &[2, 2, 3]), 0);
        assert_eq!(found(&mut cache, &[]), 0);
    }

    #[test]
    fn a_full_cache_drops_what_is_continued_then_what_was_not_used() {
        let mut cache = PrefixCache::new(2);
        store(&mut cache, &[5]);
        store(&mut cache, &[1]);
        store(&mut cache, &[1, 2]);
        assert_eq!(found(&mut cache, &[5, 0]), 1, "the other conversation stays");
        assert_eq!(found(&mut cache, &[1, 0]), 0, "the earlier turn went");
        // [5] was used last, so [1, 2] goes.
        store(&mut cache, &[7]);
        assert_eq!(found(&mut cache, &[1, 2, 3]), 0);
        assert_eq!(found(&mut cache, &[5, 0]), 1);
        assert_eq!(found(&mut cache, &[7, 0]), 1);
    }

    #[test]
    fn the_same_tokens_take_one_place() {
        let mut cache = PrefixCache::new(2);
        store(&mut cache, &[5]);
        store(&mut cache, &[1]);
        store(&mut cache, &[1]);
        assert_eq!(found(&mut cache, &[5, 0]), 1);
        let mut none = PrefixCache::new(0);
        store(&mut none, &[5]);
        assert_eq!(found(&mut none, &[5, 0]), 0);
    }
}
