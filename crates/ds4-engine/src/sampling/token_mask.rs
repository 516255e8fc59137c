//! A set of token ids, one bit each.

/// The tokens that may be sampled, as constrained decoding computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u64>,
    n_vocab: usize,
}

impl TokenMask {
    /// A mask over `n_vocab` tokens that allows none.
    pub fn none(n_vocab: usize) -> Self {
        Self { words: vec![0; n_vocab.div_ceil(64)], n_vocab }
    }

    /// A mask over `n_vocab` tokens that allows all.
    pub fn all(n_vocab: usize) -> Self {
        let mut mask = Self::none(n_vocab);
        mask.words.fill(u64::MAX);
        mask
    }

    /// A mask over `n_vocab` tokens from 32 of them per word, the lowest id in the lowest bit. Words that are missing allow none,
    /// bits beyond the vocabulary are ignored.
    pub fn from_words_32(words: &[u32], n_vocab: usize) -> Self {
        let mut mask = Self::none(n_vocab);
        for (word, pair) in mask.words.iter_mut().zip(words.chunks(2)) {
            let high = pair.get(1).copied().unwrap_or(0);
            *word = u64::from(pair[0]) | u64::from(high) << 32;
        }
        mask
    }

    /// Allows a token. One outside the vocabulary is ignored.
    pub fn allow(&mut self, token: u32) -> &mut Self {
        if let Some(word) = self.words.get_mut(token as usize / 64) {
            *word |= 1 << (token % 64);
        }
        self
    }

    /// Forbids a token. One outside the vocabulary is ignored.
    pub fn forbid(&mut self, token: u32) -> &mut Self {
        if let Some(word) = self.words.get_mut(token as usize / 64) {
            *word &= !(1 << (token % 64));
        }
        self
    }

    /// Whether a token is allowed; one outside the vocabulary is not.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.n_vocab && self.words[token as usize / 64] >> (token % 64) & 1 == 1
    }

    /// Number of tokens that it speaks about.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Makes the logits of the other tokens -∞. logits: [n_vocab]; beyond the mask's own size nothing is allowed.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        let known = self.n_vocab.min(logits.len());
        let (known, unknown) = logits.split_at_mut(known);
        unknown.fill(f32::NEG_INFINITY);
        for (logits, &word) in known.chunks_mut(64).zip(&self.words) {
            if word == u64::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_allowed_one_by_one_and_nothing_beyond_the_vocabulary() {
        for n_vocab in [0, 1, 63, 64, 65, 200] {
            let (mut none, all) = (TokenMask::none(n_vocab), TokenMask::all(n_vocab));
            for token in 0..300 {
                assert!(!none.allows(token));
                assert_eq!(all.allows(token), (token as usize) < n_vocab);
                none.allow(token);
                assert_eq!(none.allows(token), (token as usize) < n_vocab);
                none.forbid(token);
                assert!(!none.allows(token));
            }
        }
    }

    #[test]
    fn words_of_32_tokens_are_read_in_order() {
        let mask = TokenMask::from_words_32(&[0b101, 1 << 31, 1], 70);
        let allowed: Vec<u32> = (0..200).filter(|&token| mask.allows(token)).collect();
        assert_eq!(allowed, [0, 2, 63, 64]);
        assert_eq!(TokenMask::from_words_32(&[], 70), TokenMask::none(70));
        assert!(!TokenMask::from_words_32(&[u32::MAX; 9], 70).allows(70));
    }

    #[test]
    fn logits_survive_where_allowed_only() {
        let mut mask = TokenMask::all(130);
        mask.forbid(0).forbid(64).forbid(129);
        let mut logits = vec![1.0; 150];
        mask.apply(&mut logits);
        for (token, &logit) in logits.iter().enumerate() {
            let expected = if mask.allows(token as u32) { 1.0 } else { f32::NEG_INFINITY };
            assert_eq!(logit, expected, "token {token}");
        }
    }
}
