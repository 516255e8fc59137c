//! Cuts text into the pre-tokens within which byte pairs are merged.
//!
//! The official tokenizer applies three regular expressions one after the other, each to every piece that the
//! one before left over:
//!
//! 1. `\p{N}{1,3}`
//! 2. `[一-龥぀-ゟ゠-ヿ]+`
//! 3. `[!-/:-@\[-`{-~][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ |  ?[\p{P}\p{S}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+`
//!
//! Here the same pieces come out of one pass from left to right. Steps 1 and 2 only cut the text into *sections*: maximal
//! runs of numbers, of CJK characters, and of everything else. No pattern of step 3 sees past the end of its section,
//! and no section but the last kind contains white space or line breaks. Every character is looked at a bounded
//! number of times, so the time is linear in the length of the text, whatever the text.

use super::unicode_class::{CJK, ClassTable, LETTER, MARK, NUMBER, PUNCTUATION, SPACE, SYMBOL};

const WORD: u8 = LETTER | MARK;
const MARKING: u8 = PUNCTUATION | SYMBOL;

/// The bits that tell a section's characters from those of the next one.
const SECTION: u8 = NUMBER | CJK;

/// Iterator over the pre-tokens of a text, in order; together they are the text.
pub(super) struct PreTokens<'t> {
    text: &'t str,
    position: usize,
    classes: &'static ClassTable,
}

/// One character and what is known about it.
#[derive(Clone, Copy)]
struct Char {
    /// Class bits.
    class: u8,
    /// Position of the next character.
    next: usize,
}

impl<'t> PreTokens<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, position: 0, classes: ClassTable::get() }
    }

    /// The character at a byte position, or `None` at the end of the text.
    #[inline]
    fn char_at(&self, position: usize) -> Option<Char> {
        let first = *self.text.as_bytes().get(position)?;
        if first.is_ascii() {
            return Some(Char { class: self.classes.of_ascii(first), next: position + 1 });
        }
        let c = self.text[position..].chars().next()?;
        Some(Char { class: self.classes.of(c), next: position + c.len_utf8() })
    }

    /// The character at a byte position if it still belongs to `section`.
    #[inline]
    fn char_in(&self, section: u8, position: usize) -> Option<Char> {
        self.char_at(position).filter(|c| c.class & SECTION == section)
    }

    /// The end of the run of characters of one of `classes` in `section` that begins at `position`.
    #[inline]
    fn run_end(&self, section: u8, classes: u8, mut position: usize) -> usize {
        while let Some(c) = self.char_in(section, position)
            && c.class & classes != 0
        {
            position = c.next;
        }
        position
    }

    fn is_line_break(&self, position: usize) -> bool {
        matches!(self.text.as_bytes().get(position), Some(b'\r' | b'\n'))
    }

    fn is_ascii_letter(&self, position: usize) -> bool {
        self.text.as_bytes().get(position).is_some_and(u8::is_ascii_alphabetic)
    }

    /// Whether a letter or mark of `section` stands at `position`.
    #[inline]
    fn is_word(&self, section: u8, position: usize) -> bool {
        self.char_in(section, position).is_some_and(|c| c.class & WORD != 0)
    }

    /// The end of the pre-token that begins with `first` at `start`.
    fn end_of(&self, start: usize, first: Char) -> usize {
        let section = first.class & SECTION;
        if section == NUMBER {
            let second = self.char_in(NUMBER, first.next).map_or(first.next, |c| c.next);
            return self.char_in(NUMBER, second).map_or(second, |c| c.next);
        }
        if first.class & MARKING != 0 {
            // `[!-/:-@\[-`{-~][A-Za-z]+`
            if self.text.as_bytes()[start].is_ascii() && self.is_ascii_letter(first.next) {
                let mut end = first.next + 1;
                while self.is_ascii_letter(end) {
                    end += 1;
                }
                return end;
            }
            return self.marking_end(section, first.next);
        }
        // `[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`
        if first.class & WORD != 0 || (!self.is_line_break(start) && self.is_word(section, first.next)) {
            return self.run_end(section, WORD, first.next);
        }
        if first.class & SPACE != 0 {
            // ` ?[\p{P}\p{S}]+[\r\n]*` behind a space
            if self.text.as_bytes()[start] == b' '
                && let Some(c) = self.char_in(section, first.next)
                && c.class & MARKING != 0
            {
                return self.marking_end(section, c.next);
            }
            return self.space_end(section, start, first.next);
        }
        // No pattern matches: the gap up to where one does.
        let mut end = first.next;
        while let Some(c) = self.char_in(section, end)
            && c.class & !CJK == 0
            && !self.is_word(section, c.next)
        {
            end = c.next;
        }
        end
    }

    /// The end of `[\p{P}\p{S}]*[\r\n]*` at `position`.
    fn marking_end(&self, section: u8, position: usize) -> usize {
        let mut end = self.run_end(section, MARKING, position);
        // A CJK section ends before a line break.
        while section == 0 && self.is_line_break(end) {
            end += 1;
        }
        end
    }

    /// The end of `\s*[\r\n]+ | \s+(?!\S) | \s+` for white space that begins at `start` with a character ending at `next`.
    fn space_end(&self, section: u8, start: usize, next: usize) -> usize {
        let mut last_break = self.is_line_break(start).then_some(next);
        let mut last_start = start;
        let mut end = next;
        while let Some(c) = self.char_in(section, end)
            && c.class & SPACE != 0
        {
            last_start = end;
            if self.is_line_break(end) {
                last_break = Some(c.next);
            }
            end = c.next;
        }
        match last_break {
            Some(after_break) => after_break,
            None if self.char_in(section, end).is_none() || last_start == start => end,
            None => last_start,
        }
    }
}

impl<'t> Iterator for PreTokens<'t> {
    type Item = &'t str;

    #[inline]
    fn next(&mut self) -> Option<&'t str> {
        let start = self.position;
        let first = self.char_at(start)?;
        self.position = self.end_of(start, first);
        Some(&self.text[start..self.position])
    }
}

#[cfg(test)]
mod tests {
    use fancy_regex::Regex;
    use proptest::prelude::*;

    use super::super::unicode_class_table::RUNS;
    use super::*;

    const PATTERNS: [&str; 3] = [
        r"\p{N}{1,3}",
        "[一-龥\u{3040}-ゟ゠-ヿ]+",
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
    ];

    /// Cuts a text with the three regular expressions, as the official tokenizer does.
    fn cut_by_patterns<'t>(patterns: &[Regex], text: &'t str) -> Vec<&'t str> {
        let [pattern, rest @ ..] = patterns else { return vec![text] };
        let mut pieces = Vec::new();
        let mut end = 0;
        for found in pattern.find_iter(text) {
            let found = found.expect("no backtracking limit");
            pieces.extend([&text[end..found.start()], found.as_str()]);
            end = found.end();
        }
        pieces.push(&text[end..]);
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        pieces.flat_map(|piece| cut_by_patterns(rest, piece)).collect()
    }

    /// Characters around the borders of the classes, and those that the patterns name.
    fn character() -> impl Strategy<Value = char> {
        let border = (any::<prop::sample::Index>(), 0..2u32).prop_map(|(run, before)| {
            char::from_u32((run.get(&RUNS[..]) >> 8).saturating_sub(before)).unwrap_or('\u{e000}')
        });
        let named = " \t\r\n\u{b}\u{85}\u{a0}\u{2028}\u{3000}aZ_'./!1é\u{301}一龥\u{3040}゛ー゠・\u{200b}½中。«";
        prop_oneof![
            4 => prop::sample::select(named.chars().collect::<Vec<_>>()),
            2 => border,
            1 => any::<char>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn pieces_are_those_of_the_patterns(text in prop::collection::vec(character(), 0..16)) {
            static REGEXES: std::sync::LazyLock<[Regex; 3]> =
                std::sync::LazyLock::new(|| PATTERNS.map(|pattern| Regex::new(pattern).expect("a valid pattern")));
            let text: String = text.into_iter().collect();
            prop_assert_eq!(cut(&text), cut_by_patterns(&*REGEXES, &text));
        }
    }

    fn cut(text: &str) -> Vec<&str> {
        PreTokens::new(text).collect()
    }

    #[test]
    fn numbers_are_cut_in_threes() {
        assert_eq!(cut("1234567"), ["123", "456", "7"]);
        assert_eq!(cut("½²Ⅳ１"), ["½²Ⅳ", "１"]);
        assert_eq!(cut("a12b"), ["a", "12", "b"]);
    }

    #[test]
    fn words_take_one_character_before_them() {
        assert_eq!(cut(" the\tend"), [" the", "\tend"]);
        assert_eq!(cut("  the"), [" ", " the"]);
        assert_eq!(cut("\nthe"), ["\n", "the"]);
        assert_eq!(cut("e\u{301}t\u{e9}"), ["e\u{301}t\u{e9}"]);
        assert_eq!(cut("\u{200b}\u{200b}x"), ["\u{200b}", "\u{200b}x"]);
        assert_eq!(cut("\u{200b}\u{200c}"), ["\u{200b}\u{200c}"]);
    }

    #[test]
    fn ascii_marks_take_the_ascii_letters_behind_them() {
        assert_eq!(cut("a.txt_name's"), ["a", ".txt", "_name", "'s"]);
        assert_eq!(cut("(é"), ["(", "é"]);
        assert_eq!(cut("(aé"), ["(a", "é"]);
        assert_eq!(cut("\n\n<"), ["\n\n", "<"]);
        assert_eq!(cut(")<"), [")<"]);
        assert_eq!(cut(" ->\r\n\n x"), [" ->\r\n\n", " x"]);
    }

    #[test]
    fn white_space_leaves_one_character_to_what_follows() {
        assert_eq!(cut("a   b"), ["a", "  ", " b"]);
        assert_eq!(cut("a  \n  b"), ["a", "  \n", " ", " b"]);
        assert_eq!(cut("a   "), ["a", "   "]);
        assert_eq!(cut("a   1"), ["a", "   ", "1"]);
        assert_eq!(cut("a   中"), ["a", "   ", "中"]);
        assert_eq!(cut("\u{3000}\u{a0}."), ["\u{3000}", "\u{a0}", "."]);
    }

    #[test]
    fn cjk_is_cut_out_before_its_punctuation_is() {
        assert_eq!(cut("カ・カ"), ["カ", "・", "カ"]);
        assert_eq!(cut("・\n"), ["・", "\n"]);
        assert_eq!(cut("\u{3040}カ"), ["\u{3040}カ"]);
        assert_eq!(cut("a中b"), ["a", "中", "b"]);
        assert_eq!(cut("中。\n"), ["中", "。\n"]);
    }
}
