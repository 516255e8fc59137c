//! Grammars of free-form tools, as clients write them.
//!
//! They are compiled as they are, beside the grammar of calls and never within its text. What is refused here is what
//! the compiler's dialect has beyond Lark and a client has no use for: control tokens by their ids, other grammars
//! by their names, options of the compiler.

use llguidance::regex_to_lark;

use crate::parameter::anchored;
use crate::shape::{InputGrammar, Syntax};

/// Longest grammar, in bytes.
const LONGEST: usize = 64 << 10;

/// Directives that a client's grammar may have.
const DIRECTIVES: [&str; 2] = ["import", "ignore"];

impl InputGrammar {
    /// The grammar in the dialect of the compiler.
    ///
    /// # Errors
    /// A grammar that is too long, or says what it must not.
    pub(crate) fn to_lark(&self) -> Result<String, String> {
        if self.definition.len() > LONGEST {
            return Err(format!("it has {} bytes; at most {LONGEST} are possible", self.definition.len()));
        }
        match self.syntax {
            Syntax::Lark => check_lark(&self.definition).map(|()| self.definition.clone()),
            Syntax::Regex => match anchored(&self.definition).inner {
                "" => Ok("start: \"\"".to_owned()),
                inner => Ok(format!("start: TEXT\nTEXT: /(?:{})/", regex_to_lark(inner, ""))),
            },
        }
    }
}

/// Looks for what a client's grammar must not say, outside of strings, regular expressions and comments.
fn check_lark(definition: &str) -> Result<(), String> {
    let mut line = 1;
    let mut rest = definition.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\n' => line += 1,
            '/' if rest.peek() != Some(&'/') => line += skip_quoted(&mut rest, '/', line)?,
            '"' => line += skip_quoted(&mut rest, '"', line)?,
            '/' | '#' => while rest.next_if(|&next| next != '\n').is_some() {},
            '<' => return Err(format!("line {line}: tokens cannot be named with <…>")),
            '@' => return Err(format!("line {line}: other grammars cannot be named with @")),
            '%' => {
                let mut name = String::new();
                while let Some(letter) = rest.next_if(char::is_ascii_alphabetic) {
                    name.push(letter);
                }
                if !DIRECTIVES.contains(&name.as_str()) {
                    return Err(format!("line {line}: %{name} is not possible here"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Goes on to the end of a string or regular expression that began in `line`; how many lines that were.
fn skip_quoted(rest: &mut impl Iterator<Item = char>, end: char, line: usize) -> Result<usize, String> {
    let mut lines = 0;
    while let Some(character) = rest.next() {
        match character {
            '\\' => {
                rest.next();
            }
            '\n' => lines += 1,
            _ if character == end => return Ok(lines),
            _ => {}
        }
    }
    Err(format!("line {line}: what begins with {end} has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_outside_of_texts_counts() {
        for fine in [
            "start: \"<[5]>\" /<a>|@/ // <[5]> @x %json\nA: /\\/<x>/ # @x\n%import common.LF\n%ignore /[ \\t]/",
            "start: \"a\\\"<\" \"%json\"",
            "",
        ] {
            assert_eq!(check_lark(fine), Ok(()), "{fine}");
        }
        for (wrong, reason) in [
            ("start: \"a\"\n  <[5]>", "line 2: tokens"),
            ("start: @other", "line 1: other grammars"),
            ("start: %json {}", "line 1: %json"),
            ("%llguidance {}", "line 1: %llguidance"),
            ("start: /a\n\\/<x>", "line 1: what begins with /"),
            ("start: \"a\" /\n/ \"x\" <x>", "line 2: tokens"),
        ] {
            let error = check_lark(wrong).expect_err(wrong);
            assert!(error.starts_with(reason), "{wrong}: {error}");
        }
    }
}
