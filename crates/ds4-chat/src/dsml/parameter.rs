//! The opening tag of a parameter, and values that are not plain strings.

use crate::json::{Json, quote};

/// What an opening tag says; of a call's tag, the key is the tool's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParameterTag {
    pub(super) key: String,
    pub(super) flag: Flag,
    /// The tag closes itself (`/>`).
    pub(super) self_closing: bool,
}

/// The `string` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// `"true"`: the value is the text.
    String,
    /// Any other value: the value is JSON, or should be.
    Json,
    /// No such attribute.
    Missing,
}

/// Reads the text between a tag's name and a `>`. `None` if that `>` belongs to the name, which is not closed yet.
///
/// Names are not escaped, so a quote inside one is possible: a name ends at the first quote that an attribute, or the
/// end of the tag, follows.
pub(super) fn parse_tag(text: &str) -> Option<ParameterTag> {
    let text = text.trim();
    let (text, self_closing) = match text.strip_suffix('/') {
        Some(rest) => (rest.trim_end(), true),
        None => (text, false),
    };
    let Some(at) = attribute(text, "name") else {
        return Some(ParameterTag { key: String::new(), flag: flag(text), self_closing });
    };
    let (before, value) = (&text[..at], &text[at + "name=".len()..]);
    let (key, after) = match value.strip_prefix('"') {
        Some(quoted) => {
            let ends = quoted.match_indices('"').map(|(end, _)| end);
            let end = ends.into_iter().find(|end| is_attributes(&quoted[end + 1..]))?;
            (&quoted[..end], &quoted[end + 1..])
        }
        None => match value.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'')?,
            None => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        },
    };
    let flag = match flag(after) {
        Flag::Missing => flag(before),
        flag => flag,
    };
    Some(ParameterTag { key: key.to_owned(), flag, self_closing })
}

/// Where the attribute `name=` starts, at the beginning of `text` or after a blank.
fn attribute(text: &str, name: &str) -> Option<usize> {
    let starts = text.match_indices(name).map(|(at, _)| at);
    starts.into_iter().find(|at| {
        text[at + name.len()..].starts_with('=') && text[..*at].chars().next_back().is_none_or(char::is_whitespace)
    })
}

/// Whether `text` is the end of a tag: nothing, or further attributes with closed quotes.
fn is_attributes(text: &str) -> bool {
    if text.trim().is_empty() {
        return true;
    }
    let Some(rest) = text.strip_prefix(char::is_whitespace).map(str::trim_start) else { return false };
    let name_len = rest.find(|character: char| !(character.is_ascii_alphanumeric() || "_-".contains(character)));
    name_len.is_some_and(|len| len > 0 && rest[len..].starts_with('=')) && rest.matches('"').count() % 2 == 0
}

fn flag(attributes: &str) -> Flag {
    let Some(at) = attribute(attributes, "string") else { return Flag::Missing };
    let value = &attributes[at + "string=".len()..];
    let value = match value.chars().next() {
        Some(mark @ ('"' | '\'')) => value[1..].split(mark).next(),
        _ => value.split_whitespace().next(),
    };
    if value == Some("true") { Flag::String } else { Flag::Json }
}

/// JSON text of a value that was announced as JSON: a copy if it is JSON, Python's constants as JSON's, and anything
/// else as a string.
pub(super) fn json_value(text: &str) -> String {
    let text = text.trim();
    match text {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ if Json::parse(text).is_ok() => text.to_owned(),
        _ => quote(text),
    }
}

#[cfg(test)]
mod tests {
    use super::{Flag, ParameterTag, json_value, parse_tag};

    fn tag(key: &str, flag: Flag) -> Option<ParameterTag> {
        Some(ParameterTag { key: key.to_owned(), flag, self_closing: false })
    }

    #[test]
    fn tags_are_read_leniently() {
        assert_eq!(parse_tag(r#" name="a" string="true""#), tag("a", Flag::String));
        assert_eq!(parse_tag(r#" name="a" string="false" "#), tag("a", Flag::Json));
        assert_eq!(parse_tag(r#" name="a" string=false"#), tag("a", Flag::Json));
        assert_eq!(parse_tag(r#" name="a" string=true"#), tag("a", Flag::String));
        assert_eq!(parse_tag(r#" name="a""#), tag("a", Flag::Missing));
        assert_eq!(parse_tag(r#" name=a string="true""#), tag("a", Flag::String));
        assert_eq!(parse_tag(r#" string="true" name="a""#), tag("a", Flag::String));
        assert_eq!(parse_tag(" name='a b' string='true'"), tag("a b", Flag::String));
        assert_eq!(parse_tag(r#" name="a" type="int" string="false""#), tag("a", Flag::Json));
        assert_eq!(parse_tag(r#" name="we"ird" string="true""#), tag("we\"ird", Flag::String));
        assert_eq!(parse_tag(r#" name="" string="true""#), tag("", Flag::String));
        assert_eq!(parse_tag(r#" name="a string=b" string="false""#), tag("a string=b", Flag::Json));
        assert_eq!(parse_tag(r#" filename="x" name="a" string="true""#), tag("a", Flag::String));
        let closed = ParameterTag { key: "a".to_owned(), flag: Flag::String, self_closing: true };
        assert_eq!(parse_tag(r#" name="a" string="true"/"#), Some(closed));
    }

    #[test]
    fn a_bracket_inside_a_name_does_not_end_the_tag() {
        assert_eq!(parse_tag(r#" name="a"#), None);
        assert_eq!(parse_tag(r#" name="a>b" string="true""#), tag("a>b", Flag::String));
        assert_eq!(parse_tag(r#" name="a" string="tr"#), None);
    }

    #[test]
    fn values_that_are_not_json_become_strings() {
        assert_eq!(json_value(" [1, 2] "), "[1, 2]");
        assert_eq!(json_value("None"), "null");
        assert_eq!(json_value("NaN"), r#""NaN""#);
        assert_eq!(json_value("{'k': 1}"), r#""{'k': 1}""#);
        assert_eq!(json_value(" two words "), r#""two words""#);
        assert_eq!(json_value(""), r#""""#);
    }
}
