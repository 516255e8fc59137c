//! Messages of several lines.

/// What encloses a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Joins lines to messages. A line that ends with a backslash goes on with the next one; between `"""` and `"""`
/// everything is one message. A pasted text comes as one line with line feeds inside and is left as it is.
#[derive(Debug, Default)]
pub struct Assembler {
    lines: Vec<String>,
    is_quoted: bool,
}

/// A message, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// Its text.
    pub text: String,
    /// Whether it stood between quotes: then it is a message, whatever it begins with.
    pub is_quoted: bool,
}

impl Assembler {
    /// Whether a message has begun and is not complete.
    pub fn is_open(&self) -> bool {
        self.is_quoted || !self.lines.is_empty()
    }

    /// Forgets a message that has begun.
    pub fn clear(&mut self) {
        *self = Assembler::default();
    }

    /// Takes the next line. The message, if it is complete with that.
    pub fn push(&mut self, line: &str) -> Option<Assembled> {
        let mut line = line;
        if !self.is_open()
            && let Some(rest) = line.trim_start().strip_prefix(QUOTES)
        {
            self.is_quoted = true;
            if rest.trim().is_empty() {
                return None;
            }
            line = rest;
        }
        if self.is_quoted {
            let Some(last) = line.trim_end().strip_suffix(QUOTES) else {
                self.lines.push(line.to_owned());
                return None;
            };
            if !last.is_empty() {
                self.lines.push(last.strip_suffix('\n').unwrap_or(last).to_owned());
            }
            return self.finish();
        }
        if let Some(begun) = line.strip_suffix('\\') {
            self.lines.push(begun.to_owned());
            return None;
        }
        self.lines.push(line.to_owned());
        self.finish()
    }

    /// Nothing more comes: the message as far as it got.
    pub fn finish(&mut self) -> Option<Assembled> {
        if !self.is_open() {
            return None;
        }
        let Assembler { lines, is_quoted } = std::mem::take(self);
        Some(Assembled { text: lines.join("\n"), is_quoted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a text read line by line, and whether the last one was still open.
    fn messages(text: &str) -> (Vec<String>, bool) {
        let mut assembler = Assembler::default();
        let mut messages: Vec<String> = text.lines().filter_map(|line| assembler.push(line)).map(|m| m.text).collect();
        let is_open = assembler.is_open();
        messages.extend(assembler.finish().map(|message| message.text));
        (messages, is_open)
    }

    #[test]
    fn a_line_is_a_message() {
        assert_eq!(messages("one\n\ntwo"), (vec!["one".to_owned(), String::new(), "two".to_owned()], false));
    }

    #[test]
    fn a_backslash_joins_lines() {
        assert_eq!(messages("one\\\ntwo\\\n\nthree"), (vec!["one\ntwo\n".to_owned(), "three".to_owned()], false));
        assert_eq!(messages("one\\"), (vec!["one".to_owned()], true));
        // Only at the end of what was entered: a pasted text keeps its own.
        let pasted = Assembler::default().push("a \\\nb").unwrap();
        assert_eq!(pasted.text, "a \\\nb");
    }

    #[test]
    fn quotes_enclose_lines() {
        for text in ["\"\"\"\n/one\\\n\n two\n\"\"\"", "\"\"\"/one\\\n\n two\"\"\"  "] {
            assert_eq!(messages(text), (vec!["/one\\\n\n two".to_owned()], false), "{text}");
        }
        let line = Assembler::default().push("  \"\"\"/one line\"\"\"").unwrap();
        assert_eq!(line, Assembled { text: "/one line".to_owned(), is_quoted: true });
        assert_eq!(messages("\"\"\"\nnever closed"), (vec!["never closed".to_owned()], true));
        assert_eq!(messages("\"\"\"\"\"\""), (vec![String::new()], false));
        let pasted = Assembler::default().push("\"\"\"\npasted\nat once\n\"\"\"").unwrap();
        assert_eq!(pasted.text, "\npasted\nat once");
        assert_eq!(messages("say \"\"\" twice"), (vec!["say \"\"\" twice".to_owned()], false));
    }

    #[test]
    fn clearing_starts_over() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push("\"\"\"half"), None);
        assembler.clear();
        assert_eq!(assembler.push("whole").map(|message| message.text).as_deref(), Some("whole"));
    }
}
