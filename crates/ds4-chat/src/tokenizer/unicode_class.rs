//! The character classes that the pre-tokenizer distinguishes.
//!
//! Token ids depend on these classes, so they are frozen at the Unicode version of the official tokenizer (16)
//! in a table of our own, instead of following a library's next update.

use std::sync::LazyLock;

use super::unicode_class_table::RUNS;

/// `\p{L}`: a letter.
pub(super) const LETTER: u8 = 1;
/// `\p{M}`: a combining mark.
pub(super) const MARK: u8 = 2;
/// `\p{N}`: a number.
pub(super) const NUMBER: u8 = 4;
/// `\p{P}`: punctuation.
pub(super) const PUNCTUATION: u8 = 8;
/// `\p{S}`: a symbol.
pub(super) const SYMBOL: u8 = 16;
/// `\s`: white space.
pub(super) const SPACE: u8 = 32;
/// Set beside the class for the ranges that the pre-tokenizer cuts out as CJK: U+4E00–U+9FA5, U+3040–U+309F, U+30A0–U+30FF.
pub(super) const CJK: u8 = 64;

/// Code points below this are looked up directly; the few characters in use above it are searched in the runs.
const DIRECT: u32 = 0x2_0000;

/// Class bits of every code point. Controls, private use and unassigned code points have no class bit.
pub(super) struct ClassTable {
    direct: Box<[u8]>,
}

static TABLE: LazyLock<ClassTable> = LazyLock::new(ClassTable::new);

impl ClassTable {
    /// The table, expanded from its runs on first use.
    pub(super) fn get() -> &'static Self {
        &TABLE
    }

    fn new() -> Self {
        let mut direct = vec![0u8; DIRECT as usize];
        for (index, run) in RUNS.iter().enumerate() {
            let first = run >> 8;
            let end = RUNS.get(index + 1).map_or(DIRECT, |next| next >> 8).min(DIRECT);
            if first < end {
                direct[first as usize..end as usize].fill(*run as u8);
            }
        }
        for cjk in [0x4e00..=0x9fa5, 0x3040..=0x309f, 0x30a0..=0x30ff] {
            for bits in &mut direct[cjk] {
                *bits |= CJK;
            }
        }
        Self { direct: direct.into_boxed_slice() }
    }

    /// Class bits of a character: at most one class, and [`CJK`].
    #[inline]
    pub(super) fn of(&self, c: char) -> u8 {
        let code_point = u32::from(c);
        match self.direct.get(code_point as usize) {
            Some(&bits) => bits,
            None => {
                let after = RUNS.partition_point(|run| run >> 8 <= code_point);
                RUNS[after - 1] as u8
            }
        }
    }

    /// Class bits of an ASCII character.
    #[inline]
    pub(super) fn of_ascii(&self, byte: u8) -> u8 {
        debug_assert!(byte.is_ascii());
        self.direct[usize::from(byte)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_syntax::hir::{Class, HirKind};

    const CLASSES: [(&str, u8); 6] =
        [("L", LETTER), ("M", MARK), ("N", NUMBER), ("P", PUNCTUATION), ("S", SYMBOL), ("space", SPACE)];

    /// Asserts that the table gives exactly `bit` for exactly the characters in `ranges`.
    fn assert_class(name: &str, bit: u8, ranges: &[(u32, u32)]) {
        let table = ClassTable::get();
        for c in '\0'..=char::MAX {
            let code_point = u32::from(c);
            let position = ranges.partition_point(|range| range.0 <= code_point);
            let expected = position > 0 && code_point <= ranges[position - 1].1;
            assert_eq!(table.of(c) & !CJK == bit, expected, "class {name}, U+{code_point:04X}");
        }
    }

    #[test]
    fn every_code_point_has_the_class_that_regex_syntax_gives_it() {
        for (name, bit) in CLASSES {
            let pattern = if name == "space" { r"\s".to_owned() } else { format!(r"\p{{{name}}}") };
            let hir = regex_syntax::parse(&pattern).unwrap();
            let HirKind::Class(Class::Unicode(class)) = hir.kind() else { panic!("{pattern}") };
            let ranges: Vec<_> = class.ranges().iter().map(|r| (u32::from(r.start()), u32::from(r.end()))).collect();
            assert_class(name, bit, &ranges);
        }
    }

    #[test]
    fn every_code_point_has_the_class_that_the_reference_tokenizer_gives_it() {
        let classes = ds4_testdata::json("tokenizer/unicode_classes.json");
        for (name, bit) in CLASSES {
            let ranges = classes["classes"][name].as_array().unwrap_or_else(|| panic!("class {name} is listed"));
            let bound = |range: &serde_json::Value, end: usize| u32::try_from(range[end].as_u64().unwrap()).unwrap();
            let ranges: Vec<_> = ranges.iter().map(|range| (bound(range, 0), bound(range, 1))).collect();
            assert_class(name, bit, &ranges);
        }
    }

    #[test]
    fn cjk_ranges_are_those_of_the_pattern() {
        let table = ClassTable::get();
        for c in '\0'..=char::MAX {
            let expected = matches!(c, '一'..='龥' | '\u{3040}'..='ゟ' | '゠'..='ヿ');
            assert_eq!(table.of(c) & CJK != 0, expected, "U+{:04X}", u32::from(c));
        }
    }
}
