//! Stop sequences: strings that end an answer, found while it streams.

/// Most stop sequences of one request.
pub const MAX_STOP_SEQUENCES: usize = 16;

/// Longest stop sequence, in bytes of UTF-8.
pub const MAX_STOP_BYTES: usize = 4096;

/// Finds the first of some stop sequences in a text that comes in pieces.
///
/// Text is held back only while it may still turn out to be the beginning of a stop sequence. The sequence that ends first
/// wins; of several that end at the same place, the longest. What comes before it is text, the sequence itself
/// and what follows is not.
///
/// ```
/// # use ds4_engine::StopMatcher;
/// let mut matcher = StopMatcher::new(&["\n\nUser:"])?;
/// assert_eq!(matcher.push("Hello.\n"), "Hello.");
/// assert_eq!(matcher.push("\nUs"), "");
/// assert_eq!(matcher.push("age: none.\n\nUser: Hi"), "\n\nUsage: none.");
/// assert_eq!(matcher.matched(), Some("\n\nUser:"));
/// # Ok::<(), ds4_engine::StopError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that is the beginning of a stop sequence so far.
    held: String,
    /// The sequence that was found.
    matched: Option<usize>,
}

/// Why stop sequences were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// Too many.
    #[error("{count} stop sequences were given; at most {MAX_STOP_SEQUENCES} are possible")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// An empty one would end every answer before it begins.
    #[error("stop sequence {index} (counted from 0) is empty; leave it out, or give it some text")]
    Empty {
        /// Which one.
        index: usize,
    },
    /// Too long.
    #[error("stop sequence {index} (counted from 0) has {bytes} bytes; at most {MAX_STOP_BYTES} are possible")]
    TooLong {
        /// Which one.
        index: usize,
        /// Its length.
        bytes: usize,
    },
}

impl StopMatcher {
    /// A matcher at the start of a text. Without any sequences it gives all text through at once.
    ///
    /// # Errors
    /// More than [`MAX_STOP_SEQUENCES`], an empty one, or one longer than [`MAX_STOP_BYTES`].
    pub fn new(stops: &[impl AsRef<str>]) -> Result<Self, StopError> {
        if stops.len() > MAX_STOP_SEQUENCES {
            return Err(StopError::TooMany { count: stops.len() });
        }
        let mut patterns = Vec::with_capacity(stops.len());
        for (index, stop) in stops.iter().enumerate() {
            let stop = stop.as_ref();
            if stop.is_empty() {
                return Err(StopError::Empty { index });
            }
            if stop.len() > MAX_STOP_BYTES {
                return Err(StopError::TooLong { index, bytes: stop.len() });
            }
            patterns.push(Pattern::new(stop));
        }
        Ok(Self { patterns, held: String::new(), matched: None })
    }

    /// Takes the next piece and returns the text that is now known to be text. After a match it returns nothing.
    pub fn push(&mut self, piece: &str) -> String {
        if self.matched.is_some() {
            return String::new();
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (offset, byte) in piece.bytes().enumerate() {
            let mut longest: Option<usize> = None;
            for (index, pattern) in self.patterns.iter_mut().enumerate() {
                let longer = longest.is_none_or(|best| best < pattern.text.len());
                if pattern.advance(byte) && longer {
                    longest = Some(pattern.text.len());
                    self.matched = Some(index);
                }
            }
            if let Some(length) = longest {
                // A whole sequence ends here, so the text begins and ends at character boundaries.
                self.held.truncate(before + offset + 1 - length);
                return std::mem::take(&mut self.held);
            }
        }
        // Pieces are whole characters, and what is held begins like a sequence does: no character is cut.
        let open = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - open);
        std::mem::replace(&mut self.held, held)
    }

    /// Ends the text without a match: returns what was held back. The matcher is then at the start of a new text.
    pub fn finish(&mut self) -> String {
        self.matched = None;
        self.patterns.iter_mut().for_each(|pattern| pattern.matched = 0);
        std::mem::take(&mut self.held)
    }

    /// The sequence that was found.
    pub fn matched(&self) -> Option<&str> {
        self.matched.map(|index| self.patterns[index].text.as_str())
    }
}

/// One sequence, searched for as by Knuth, Morris and Pratt.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// For each prefix length (from 1): length of the longest proper suffix of that prefix that is a prefix, too.
    fallback: Vec<usize>,
    /// How many bytes of the sequence the text ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut length = 0;
        for end in 1..bytes.len() {
            while length > 0 && bytes[length] != bytes[end] {
                length = fallback[length - 1];
            }
            length += usize::from(bytes[length] == bytes[end]);
            fallback[end] = length;
        }
        Self { text: text.to_owned(), fallback, matched: 0 }
    }

    /// Takes a byte of text; whether the sequence ends with it.
    fn advance(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && (self.matched == bytes.len() || bytes[self.matched] != byte) {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the text before the sequence that ends first, of those the longest, and that sequence.
    fn naive<'s>(text: &str, stops: &'s [String]) -> (String, Option<&'s str>) {
        for end in 0..=text.len() {
            let here = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            let mut best: Option<&'s String> = None;
            for stop in here {
                if best.is_none_or(|best| best.len() < stop.len()) {
                    best = Some(stop);
                }
            }
            if let Some(stop) = best {
                return (text[..end - stop.len()].to_owned(), Some(stop));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        /// Texts and sequences of few characters, so that they overlap in every way; the characters share bytes.
        #[test]
        fn any_cut_gives_what_a_search_of_the_whole_text_gives(
            pieces in prop::collection::vec("[abé€è𝔘]{0,4}", 0..12),
            stops in prop::collection::vec("[abé€è𝔘]{1,5}", 0..5),
        ) {
            let text = pieces.concat();
            let (expected, expected_stop) = naive(&text, &stops);
            let mut matcher = StopMatcher::new(&stops).expect("valid sequences");
            let mut seen = String::new();
            let mut got = String::new();
            for piece in &pieces {
                got += &matcher.push(piece);
                seen += piece;
                // Never half of a sequence shown, and nothing held back that cannot become one.
                prop_assert!(expected.starts_with(&got));
                if matcher.matched().is_none() {
                    let held = &seen[got.len()..];
                    prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)), "held {held:?}");
                }
            }
            prop_assert_eq!(matcher.matched(), expected_stop);
            got += &matcher.finish();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_sequence_inside_another_that_is_still_open_wins() {
        let mut matcher = StopMatcher::new(&["abcd", "bc"]).expect("valid");
        assert_eq!(matcher.push("xab"), "x");
        assert_eq!(matcher.push("cd"), "a");
        assert_eq!(matcher.matched(), Some("bc"));
        assert_eq!(matcher.push("more"), "");
    }

    #[test]
    fn of_two_that_end_together_nothing_of_the_longer_is_shown() {
        for stops in [["ab", "b"], ["b", "ab"]] {
            let mut matcher = StopMatcher::new(&stops).expect("valid");
            assert_eq!(matcher.push("xab"), "x");
            assert_eq!(matcher.matched(), Some("ab"));
        }
    }

    #[test]
    fn finishing_starts_over() {
        let mut matcher = StopMatcher::new(&["END"]).expect("valid");
        assert_eq!(matcher.push("xE"), "x");
        assert_eq!(matcher.finish(), "E");
        assert_eq!(matcher.push("ND"), "ND");
        assert_eq!(matcher.push("END"), "");
        assert_eq!(matcher.matched(), Some("END"));
        assert_eq!(matcher.finish(), "");
        assert_eq!(matcher.matched(), None);
    }

    #[test]
    fn what_cannot_be_a_sequence_is_refused() {
        let many = vec!["x"; MAX_STOP_SEQUENCES + 1];
        assert_eq!(StopMatcher::new(&many).unwrap_err(), StopError::TooMany { count: 17 });
        assert!(StopMatcher::new(&many[1..]).is_ok());
        assert_eq!(StopMatcher::new(&["a", ""]).unwrap_err(), StopError::Empty { index: 1 });
        let long = "é".repeat(MAX_STOP_BYTES / 2);
        assert!(StopMatcher::new(&[&long]).is_ok());
        let error = StopMatcher::new(&[long + "x"]).unwrap_err();
        assert_eq!(error.to_string(), "stop sequence 0 (counted from 0) has 4097 bytes; at most 4096 are possible");
    }
}
