//! JSON values whose order and numbers survive, written the way the model saw them in training.
//!
//! Tool schemas and tool arguments become prompt text, so their text must be exact: keys in source order, integers of
//! any size digit for digit, floats as Python prints them. `serde_json` can do this only with `arbitrary_precision`,
//! which changes number handling for every crate of a program that enables it (and breaks untagged enums), and it
//! refuses the lone surrogate escapes that JavaScript clients legally send. Hence this small type of our own.

mod number;
mod parse;
mod write;

pub use parse::JsonError;
pub use write::{quote, quote_into};

/// A JSON value. Objects keep source order; a repeated key keeps its first position and its last value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, already in the spelling of Python's `json.dumps`: integers exact, anything with a fraction or an
    /// exponent as the shortest text that gives the same 64-bit float.
    Number(String),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Deepest nesting of arrays and objects that [`Json::parse`] accepts.
    pub const MAX_DEPTH: usize = 256;

    /// Reads one JSON text (RFC 8259), blanks around it allowed. Lone surrogate escapes become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`JsonError`] with the byte offset of the first thing that is not JSON.
    pub fn parse(text: &str) -> Result<Json, JsonError> {
        parse::Parser::new(text, false).document()
    }

    /// As [`Json::parse`], with arrays and objects nested no deeper than `max_depth`.
    ///
    /// # Errors
    ///
    /// As [`Json::parse`].
    pub fn parse_within(text: &str, max_depth: usize) -> Result<Json, JsonError> {
        parse::Parser::new(text, false).within(max_depth).document()
    }

    /// Reads JSON as Python's `json.loads` does: also `NaN`, `Infinity` and `-Infinity`. For tool arguments in a
    /// conversation's history, which the model's reference encoder reads that way.
    ///
    /// # Errors
    ///
    /// As [`Json::parse`].
    pub fn parse_python(text: &str) -> Result<Json, JsonError> {
        parse::Parser::new(text, true).document()
    }

    /// The value of an object's key; `None` for other values and missing keys.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Json::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of an object in order.
    pub fn as_object(&self) -> Option<&[(String, Json)]> {
        match self {
            Json::Object(entries) => Some(entries),
            _ => None,
        }
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }

    /// Equality of the data: as `==`, but the order of object keys does not matter.
    pub fn same_data(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Array(left), Json::Array(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.same_data(b))
            }
            (Json::Object(left), Json::Object(right)) => {
                let right_values: std::collections::HashMap<&str, &Json> =
                    right.iter().map(|(key, value)| (key.as_str(), value)).collect();
                left.len() == right.len()
                    && left
                        .iter()
                        .all(|(key, value)| right_values.get(key.as_str()).is_some_and(|other| value.same_data(other)))
            }
            _ => self == other,
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::String(text.to_owned())
    }
}

impl From<&serde_json::Value> for Json {
    /// Numbers that `serde_json` has already rounded stay rounded; parse the source text where digits matter.
    fn from(value: &serde_json::Value) -> Json {
        match value {
            serde_json::Value::Null => Json::Null,
            serde_json::Value::Bool(value) => Json::Bool(*value),
            serde_json::Value::Number(value) => Json::Number(number::python_spelling(&value.to_string())),
            serde_json::Value::String(text) => Json::String(text.clone()),
            serde_json::Value::Array(items) => Json::Array(items.iter().map(Json::from).collect()),
            serde_json::Value::Object(entries) => {
                Json::Object(entries.iter().map(|(key, value)| (key.clone(), value.into())).collect())
            }
        }
    }
}
