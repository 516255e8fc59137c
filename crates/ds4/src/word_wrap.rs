//! Text that comes piece by piece, broken at blanks where a line of the terminal ends.

use unicode_width::UnicodeWidthChar;

/// Columns below which a terminal breaks lines itself: words hardly fit anyway.
const NARROWEST: usize = 20;
/// What a line of a fenced block of code begins and ends with.
const FENCE: &str = "```";

/// Where the cursor is, and which word it stands in or behind. A word that turns out too long for its line is taken back
/// and begun again on the next one, so nothing is held up. Lines of code are left to the terminal: a copy of them should be
/// what the model wrote.
#[derive(Debug, Default)]
pub struct WordWrap {
    column: usize,
    /// The word as far as it was shown; without a break before it, it is left to the terminal as well.
    word: String,
    /// Column where it begins.
    start: usize,
    /// The first characters of the line, without blanks before them.
    line: String,
    in_code: bool,
}

impl WordWrap {
    /// What to write for `text`, which has no control characters but tab and line feed, on a terminal of `width` columns.
    pub fn push(&mut self, text: &str, width: usize) -> String {
        let mut out = String::with_capacity(text.len());
        // Where the word begins in `out`, unless some of it is on the screen already.
        let mut word_at = self.word.is_empty().then_some(0);
        for c in text.chars() {
            if c == '\n' {
                self.in_code ^= self.line.starts_with(FENCE);
                out.push(c);
                *self = WordWrap { in_code: self.in_code, ..WordWrap::default() };
                word_at = Some(out.len());
                continue;
            }
            if self.line.len() < FENCE.len() && !(self.line.is_empty() && c.is_whitespace()) {
                self.line.push(c);
            }
            let columns = match c {
                '\t' => 8 - self.column % 8,
                c => c.width().unwrap_or(0),
            };
            let is_blank = matches!(c, ' ' | '\t');
            // A terminal does not say whether it has gone on after a character in the last column: none is put there.
            let is_full = self.column + columns >= width && width >= NARROWEST && !self.in_code;
            if is_full && is_blank {
                out.push('\n');
                (self.column, self.start) = (0, 0);
                self.word.clear();
                word_at = Some(out.len());
                continue;
            }
            if is_full && self.start > 0 {
                match word_at {
                    Some(at) => out.truncate(at),
                    None if self.column > self.start => {
                        out.push_str(&format!("\x1b[{}D\x1b[K", self.column - self.start));
                    }
                    None => {}
                }
                out.push('\n');
                word_at = Some(out.len());
                out.push_str(&self.word);
                (self.column, self.start) = (self.column - self.start, 0);
            }
            out.push(c);
            self.column += columns;
            if self.column > width {
                // The terminal went on by itself.
                self.column = columns;
            }
            // Characters of two columns belong to scripts that break lines anywhere.
            if is_blank || columns == 2 {
                self.word.clear();
                self.start = self.column;
                word_at = Some(out.len());
            } else {
                self.word.push(c);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a terminal of `width` columns after these pieces.
    fn screen(width: usize, pieces: &[&str]) -> Vec<String> {
        let mut wrap = WordWrap::default();
        let written: String = pieces.iter().map(|piece| wrap.push(piece, width)).collect();
        let mut lines = vec![Vec::new()];
        let mut rest = written.as_str();
        while let Some(c) = rest.chars().next() {
            let line = lines.last_mut().expect("a line");
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let (back, after) = sequence.split_once("D\x1b[K").expect("one sequence");
                let columns: usize = back.parse().expect("a number");
                assert!(line.len() < width, "the cursor waits at the edge");
                line.truncate(line.len().checked_sub(columns).expect("columns to go back"));
                rest = after;
                continue;
            }
            rest = &rest[c.len_utf8()..];
            if c == '\n' {
                lines.push(Vec::new());
                continue;
            }
            if line.len() + c.width().unwrap_or(0) > width {
                lines.push(Vec::new());
            }
            let line = lines.last_mut().expect("a line");
            line.push(c);
            // A second column of a wide character.
            line.extend(vec!['\0'; c.width().unwrap_or(0).saturating_sub(1)]);
        }
        let text = |line: Vec<char>| line.into_iter().filter(|&c| c != '\0').collect::<String>().trim_end().to_owned();
        lines.into_iter().map(text).collect()
    }

    /// The same text in one piece, by characters and by pieces of odd sizes gives the same screen.
    fn screens(width: usize, text: &str) -> Vec<String> {
        let whole = screen(width, &[text]);
        for size in [1, 2, 3, 7] {
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(size).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(screen(width, &pieces), whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn words_are_not_cut() {
        assert_eq!(
            screens(20, "A language model predicts what comes next."),
            ["A language model", "predicts what comes", "next."]
        );
        assert_eq!(screens(20, "exactly nineteen ok\nnext"), ["exactly nineteen ok", "next"]);
        assert_eq!(screens(20, "exactly nineteen ok next"), ["exactly nineteen ok", "next"]);
        assert_eq!(screens(20, "exactly twenty cols1"), ["exactly twenty", "cols1"]);
    }

    #[test]
    fn a_word_longer_than_a_line_is_left_to_the_terminal() {
        let link = "https://example.org/a/long/path/without/blanks";
        assert_eq!(
            screens(20, &format!("see {link} there")),
            ["see", "https://example.org/", "a/long/path/without/", "blanks there"]
        );
    }

    #[test]
    fn code_is_left_to_the_terminal() {
        let text = "Run:\n```\nfor i in range(10): print(i)\n```\nThat prints ten numbers.";
        assert_eq!(
            screens(20, text),
            ["Run:", "```", "for i in range(10):", "print(i)", "```", "That prints ten", "numbers."]
        );
        let mut wrap = WordWrap::default();
        assert_eq!(wrap.push("```\nfor i in range(10): print(i)", 20), "```\nfor i in range(10): print(i)");
    }

    #[test]
    fn wide_characters_break_anywhere() {
        assert_eq!(screens(20, "你好世界你好世界你好世界"), ["你好世界你好世界你", "好世界"]);
        assert_eq!(screens(20, "a 你好世界你好世界 你好"), ["a 你好世界你好世界", "你好"]);
    }

    #[test]
    fn a_narrow_terminal_is_left_alone() {
        assert_eq!(WordWrap::default().push("A language model predicts.", 10), "A language model predicts.");
    }
}
