//! The JSON in an answer that was to be JSON and nothing else.

/// Leaves of a text only its first JSON object or array. Models like to put JSON into a fence, or a sentence before it;
/// clients that asked for JSON parse the whole answer.
///
/// Text streams through once the value has begun. An answer without any is given as it is, at its end.
#[derive(Clone, Debug)]
pub(super) struct JsonAnswer {
    arrays: bool,
    phase: Phase,
    /// What came before the value.
    before: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    Within { depth: usize, in_string: bool, escaped: bool },
    After,
}

impl JsonAnswer {
    /// For an answer that is to be an object.
    pub(super) fn object() -> Self {
        Self { arrays: false, phase: Phase::Before, before: String::new() }
    }

    /// For an answer that may be an array, too.
    pub(super) fn value() -> Self {
        Self { arrays: true, ..Self::object() }
    }

    /// What is left of `text`, the next piece of the answer.
    pub(super) fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for character in text.chars() {
            self.phase = match self.phase {
                Phase::After => return out,
                Phase::Before if character == '{' || (self.arrays && character == '[') => {
                    out.push(character);
                    Phase::Within { depth: 1, in_string: false, escaped: false }
                }
                Phase::Before => {
                    self.before.push(character);
                    Phase::Before
                }
                Phase::Within { depth, in_string, escaped } => {
                    out.push(character);
                    within(depth, in_string, escaped, character)
                }
            };
        }
        out
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> String {
        if self.phase == Phase::Before { self.before } else { String::new() }
    }
}

fn within(depth: usize, in_string: bool, escaped: bool, character: char) -> Phase {
    match (in_string, character) {
        (true, _) if escaped => Phase::Within { depth, in_string, escaped: false },
        (true, '\\') => Phase::Within { depth, in_string, escaped: true },
        (_, '"') => Phase::Within { depth, in_string: !in_string, escaped: false },
        (false, '{' | '[') => Phase::Within { depth: depth + 1, in_string, escaped: false },
        (false, '}' | ']') if depth == 1 => Phase::After,
        (false, '}' | ']') => Phase::Within { depth: depth - 1, in_string, escaped: false },
        _ => Phase::Within { depth, in_string, escaped: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(mut answer: JsonAnswer, text: &str, piece: usize) -> String {
        let characters: Vec<char> = text.chars().collect();
        let mut out = String::new();
        for piece in characters.chunks(piece) {
            out += &answer.push(&piece.iter().collect::<String>());
        }
        out + &answer.finish()
    }

    #[test]
    fn prose_and_fences_around_the_value_go_however_it_is_cut() {
        for (text, object, value) in [
            (r#"{"a": 1}"#, r#"{"a": 1}"#, r#"{"a": 1}"#),
            ("Sure:\n```json\n{\"a\": [1]}\n```\nDone {}", r#"{"a": [1]}"#, r#"{"a": [1]}"#),
            (r#"{"a": "}\"{"} tail"#, r#"{"a": "}\"{"}"#, r#"{"a": "}\"{"}"#),
            (r#"[1] {"é": "\\"}"#, r#"{"é": "\\"}"#, "[1]"),
            ("no JSON", "no JSON", "no JSON"),
            (r#"{"cut": ["#, r#"{"cut": ["#, r#"{"cut": ["#),
            ("", "", ""),
        ] {
            for piece in [1, 3, 1000] {
                assert_eq!(left(JsonAnswer::object(), text, piece), object, "{text}");
                assert_eq!(left(JsonAnswer::value(), text, piece), value, "{text}");
            }
        }
    }
}
