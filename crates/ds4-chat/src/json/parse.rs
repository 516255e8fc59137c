//! Reading JSON.

use super::Json;
use super::number::python_spelling;
use std::collections::HashMap;

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid JSON: {problem} at byte {offset}")]
pub struct JsonError {
    problem: &'static str,
    offset: usize,
}

impl JsonError {
    /// What is wrong.
    pub fn problem(&self) -> &'static str {
        self.problem
    }

    /// Whether it is that arrays and objects are nested too deeply.
    pub fn is_depth(&self) -> bool {
        self.problem == TOO_DEEP
    }

    /// Where, in bytes from the beginning of the text.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

const TOO_DEEP: &str = "arrays and objects are nested too deeply";

pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
    python_constants: bool,
}

/// Objects with more keys than this look repeated keys up in a map instead of scanning.
const SCANNED_KEYS: usize = 16;

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, python_constants: bool) -> Self {
        Parser { text, at: 0, depth: 0, max_depth: Json::MAX_DEPTH, python_constants }
    }

    /// Lets arrays and objects be nested no deeper than this, nor than [`Json::MAX_DEPTH`].
    pub(super) fn within(mut self, max_depth: usize) -> Self {
        self.max_depth = max_depth.min(Json::MAX_DEPTH);
        self
    }

    pub(super) fn document(mut self) -> Result<Json, JsonError> {
        self.skip_blanks();
        let value = self.value()?;
        self.skip_blanks();
        if self.at < self.text.len() {
            return Err(self.error("something follows the value"));
        }
        Ok(value)
    }

    fn error(&self, problem: &'static str) -> JsonError {
        JsonError { problem, offset: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn value(&mut self) -> Result<Json, JsonError> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') if !(self.python_constants && self.text[self.at..].starts_with("-I")) => {
                self.number()
            }
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Json, JsonError> {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
            if self.eat_word(word) {
                return Ok(value);
            }
        }
        if self.python_constants {
            for word in ["NaN", "Infinity", "-Infinity"] {
                if self.eat_word(word) {
                    return Ok(Json::Number(word.to_owned()));
                }
            }
        }
        Err(self.error("a value is missing"))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Json, JsonError>) -> Result<Json, JsonError> {
        if self.depth >= self.max_depth {
            return Err(self.error(TOO_DEEP));
        }
        self.depth += 1;
        self.at += 1;
        self.skip_blanks();
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn array(&mut self) -> Result<Json, JsonError> {
        let mut items = Vec::new();
        if self.eat(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            self.skip_blanks();
            items.push(self.value()?);
            self.skip_blanks();
            if self.eat(b']') {
                return Ok(Json::Array(items));
            }
            if !self.eat(b',') {
                return Err(self.error("',' or ']' is missing"));
            }
        }
    }

    fn object(&mut self) -> Result<Json, JsonError> {
        let mut entries: Vec<(String, Json)> = Vec::new();
        let mut positions: HashMap<String, usize> = HashMap::new();
        if self.eat(b'}') {
            return Ok(Json::Object(entries));
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.error("a key in quotes is missing"));
            }
            let key = self.string()?;
            self.skip_blanks();
            if !self.eat(b':') {
                return Err(self.error("':' is missing"));
            }
            self.skip_blanks();
            let value = self.value()?;
            let known = if entries.len() < SCANNED_KEYS {
                entries.iter().position(|(name, _)| *name == key)
            } else {
                if positions.is_empty() {
                    positions.extend(entries.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)));
                }
                positions.get(&key).copied()
            };
            match known {
                Some(index) => entries[index].1 = value,
                None => {
                    if !positions.is_empty() {
                        positions.insert(key.clone(), entries.len());
                    }
                    entries.push((key, value));
                }
            }
            self.skip_blanks();
            if self.eat(b'}') {
                return Ok(Json::Object(entries));
            }
            if !self.eat(b',') {
                return Err(self.error("',' or '}' is missing"));
            }
        }
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') && self.digits() == 0 {
            return Err(self.error("a digit is missing"));
        }
        if self.eat(b'.') && self.digits() == 0 {
            return Err(self.error("a digit after the decimal point is missing"));
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            if self.digits() == 0 {
                return Err(self.error("a digit of the exponent is missing"));
            }
        }
        Ok(Json::Number(python_spelling(&self.text[start..self.at])))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let plain =
                self.text[self.at..].bytes().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count();
            out.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(&mut out)?,
                Some(_) => return Err(self.error("a control character stands in a string")),
                None => return Err(self.error("a string is not closed")),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), JsonError> {
        self.at += 1;
        let plain = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let unit = self.code_unit()?;
                out.push(self.finish_character(unit)?);
                return Ok(());
            }
            _ => return Err(self.error("an unknown escape stands in a string")),
        };
        self.at += 1;
        out.push(plain);
        Ok(())
    }

    /// Four hexadecimal digits.
    fn code_unit(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(self.error("\\u is not followed by four hexadecimal digits"));
        }
        let unit = digits.iter().fold(0, |unit, digit| unit * 16 + char::from(*digit).to_digit(16).unwrap_or(0));
        self.at += 4;
        Ok(unit)
    }

    /// The character that begins with `unit`, with the second half of a surrogate pair if one follows.
    fn finish_character(&mut self, unit: u32) -> Result<char, JsonError> {
        if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.code_unit()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((unit - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Json;

    #[test]
    fn repeated_keys_keep_the_first_position_and_the_last_value() {
        let value = Json::parse(r#"{"a": 1, "b": 2, "a": 3}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"a": 3, "b": 2}"#);
        let many: Vec<String> = (0..100).map(|n| format!("\"k{}\": {n}", n % 40)).collect();
        let value = Json::parse(&format!("{{{}}}", many.join(","))).unwrap();
        let entries = value.as_object().unwrap();
        assert_eq!(entries.len(), 40);
        assert_eq!(entries[0], ("k0".to_owned(), Json::Number("80".to_owned())));
        assert_eq!(entries[39], ("k39".to_owned(), Json::Number("79".to_owned())));
    }

    #[test]
    fn lone_surrogates_become_the_replacement_character() {
        let cases = [
            (r#""\ud83d\ude42""#, "🙂"),
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\ude42x""#, "\u{fffd}x"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ud83d\ud83d\ude42""#, "\u{fffd}🙂"),
        ];
        for (source, expected) in cases {
            assert_eq!(Json::parse(source).unwrap().as_str(), Some(expected), "{source}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        let cases = [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "- 1",
            "nul",
            "NaN",
            "Infinity",
            "-Infinity",
            "'a'",
            "\"a\nb\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12é\"",
            "\"open",
            "{\"a\" 1}",
            "{1: 2}",
            "[1 2]",
            "1 2",
            "\u{feff}1",
        ];
        for source in cases {
            assert!(Json::parse(source).is_err(), "{source:?} was accepted");
        }
        assert_eq!(Json::parse("[1, x]").unwrap_err().to_string(), "not valid JSON: a value is missing at byte 4");
        assert_eq!(Json::parse_python("[NaN, -Infinity, -1]").unwrap().to_string(), "[NaN, -Infinity, -1]");
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(&nested(Json::MAX_DEPTH)).is_ok());
        assert!(Json::parse(&nested(Json::MAX_DEPTH + 1)).is_err());
        assert!(Json::parse(&"[".repeat(1_000_000)).is_err());
    }
}
