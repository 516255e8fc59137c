//! The text within the arguments of a free-form tool.

use ds4_chat::json::Json;

/// Takes the value of `input` out of the arguments `{"input": "…"}`, piece by piece as they come.
///
/// Arguments of another form are given as they are, at the end.
#[derive(Clone, Debug, Default)]
pub struct CustomInput {
    /// All arguments so far.
    arguments: String,
    /// How many bytes of them are read.
    read: usize,
    phase: Phase,
    told: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before the text: this many of [`OPENING`]'s marks are read.
    #[default]
    Opening,
    Within,
    After,
    /// It is not of the expected form.
    Other,
}

/// What stands before the text, blanks aside.
const OPENING: [&str; 4] = ["{", "\"input\"", ":", "\""];

impl CustomInput {
    /// The text that `delta`, the next piece of the arguments, adds.
    pub fn push(&mut self, delta: &str) -> String {
        self.arguments.push_str(delta);
        if self.phase == Phase::Opening {
            self.open();
        }
        if self.phase != Phase::Within {
            return String::new();
        }
        let text = self.characters();
        self.told.push_str(&text);
        text
    }

    /// The text that is left at the end.
    pub fn finish(&mut self) -> String {
        if matches!(self.phase, Phase::Within | Phase::After) {
            return String::new();
        }
        self.phase = Phase::After;
        let json = Json::parse(&self.arguments).ok();
        let input = json.as_ref().and_then(|json| json.get("input")).and_then(Json::as_str);
        let no_arguments = json.as_ref().is_some_and(|json| json.as_object().is_some_and(<[_]>::is_empty));
        self.told = match input {
            Some(input) => input.to_owned(),
            None if no_arguments => String::new(),
            None => std::mem::take(&mut self.arguments),
        };
        self.told.clone()
    }

    /// All of the text so far.
    pub fn text(&self) -> &str {
        &self.told
    }

    fn open(&mut self) {
        let mut rest = self.arguments.as_str();
        for (index, mark) in OPENING.iter().enumerate() {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix(mark) {
                rest = after;
                if index + 1 == OPENING.len() {
                    self.phase = Phase::Within;
                    self.read = self.arguments.len() - rest.len();
                }
            } else {
                if !mark.starts_with(rest) {
                    self.phase = Phase::Other;
                }
                return;
            }
        }
    }

    /// The characters that are complete. A surrogate pair counts as one.
    fn characters(&mut self) -> String {
        let mut out = String::new();
        let bytes = &self.arguments.as_bytes()[self.read..];
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    self.phase = Phase::After;
                    break;
                }
                b'\\' => {
                    let Some(length) = escape_length(&bytes[at..]) else { break };
                    let escape = String::from_utf8_lossy(&bytes[at..at + length]);
                    // What is no escape stays as it is.
                    match Json::parse(&format!("\"{escape}\"")) {
                        Ok(Json::String(text)) => out.push_str(&text),
                        _ => out.push_str(&escape),
                    }
                    at += length;
                }
                _ => {
                    let plain = bytes[at..].iter().position(|&byte| matches!(byte, b'"' | b'\\'));
                    let end = plain.map_or(bytes.len(), |length| at + length);
                    out.push_str(&String::from_utf8_lossy(&bytes[at..end]));
                    at = end;
                }
            }
        }
        self.read += at;
        out
    }
}

/// Bytes of the escape at the start of `bytes`; `None` while it may go on.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    const UNIT: usize = 6;
    if *bytes.get(1)? != b'u' {
        // One character, which may have several bytes.
        let rest = std::str::from_utf8(&bytes[1..]).unwrap_or("?");
        return Some(1 + rest.chars().next().map_or(1, char::len_utf8));
    }
    let digits = bytes.get(2..UNIT)?;
    let is_high = digits[0].eq_ignore_ascii_case(&b'd') && matches!(digits[1], b'8' | b'9' | b'a' | b'b' | b'A' | b'B');
    if !is_high {
        return Some(UNIT);
    }
    match (bytes.get(UNIT), bytes.get(UNIT + 1)) {
        (None, _) | (Some(b'\\'), None) => None,
        (Some(b'\\'), Some(b'u')) => (bytes.len() >= 2 * UNIT).then_some(2 * UNIT),
        _ => Some(UNIT),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(pieces: impl IntoIterator<Item = String>) -> String {
        let mut input = CustomInput::default();
        let mut text: String = pieces.into_iter().map(|piece| input.push(&piece)).collect();
        text.push_str(&input.finish());
        assert_eq!(text, input.text());
        text
    }

    #[test]
    fn other_forms_are_given_as_they_are() {
        for (arguments, expected) in [
            (r#"{"input": "a\nb"}"#, "a\nb"),
            (r#" { "input" :"a", "more": 1}"#, "a"),
            (r#"{"more": 1, "input": "a"}"#, "a"),
            (r#"{"patch": "a"}"#, r#"{"patch": "a"}"#),
            (r#"{"input": 5}"#, r#"{"input": 5}"#),
            ("{}", ""),
            (r#"{"input": "cut \u00"#, "cut "),
            (r#"{"inp"#, r#"{"inp"#),
        ] {
            assert_eq!(text_of([arguments.to_owned()]), expected, "{arguments}");
        }
    }

    proptest! {
        #[test]
        fn the_text_does_not_depend_on_the_pieces(text in any::<String>(), cuts in prop::collection::vec(0usize..400, 0..8)) {
            let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            for quoted in [ds4_chat::json::quote(&text), format!("\"{ascii}\"")] {
                let arguments = format!("{{\"input\": {quoted}}}");
                let mut ends: Vec<usize> =
                    cuts.iter().map(|cut| (0..=(*cut).min(arguments.len())).rev().find(|&at| arguments.is_char_boundary(at)).unwrap_or(0)).collect();
                ends.push(arguments.len());
                ends.sort_unstable();
                let mut start = 0;
                let mut pieces = Vec::new();
                for end in ends {
                    pieces.push(arguments[start..end].to_owned());
                    start = end;
                }
                prop_assert_eq!(text_of(pieces), text.clone());
            }
        }
    }
}
