//! Reading fields of a debug line, with errors that say where.

use crate::json::{Json, JsonError};
use crate::render::RenderError;
use crate::tokenizer::TokenizerError;

/// Why a debug line cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// The line is not JSON.
    #[error("the line is {0}")]
    Json(#[from] JsonError),
    /// A field is missing or has a value that means nothing.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The conversation cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The prompt cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

pub(super) fn wrong(field: impl Into<String>, problem: impl Into<String>) -> DebugError {
    DebugError::Field { field: field.into(), problem: problem.into() }
}

/// A field's value; absent and `null` are the same.
pub(super) fn field<'a>(object: &'a Json, name: &str) -> Option<&'a Json> {
    object.get(name).filter(|value| !value.is_null())
}

pub(super) fn text<'a>(object: &'a Json, path: &str, name: &str) -> Result<Option<&'a str>, DebugError> {
    match field(object, name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(format!("{path}.{name}"), "must be a string")),
    }
}

pub(super) fn flag(object: &Json, path: &str, name: &str) -> Result<Option<bool>, DebugError> {
    match field(object, name) {
        None => Ok(None),
        Some(Json::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(wrong(format!("{path}.{name}"), "must be true or false")),
    }
}

pub(super) fn list<'a>(object: &'a Json, path: &str, name: &str) -> Result<&'a [Json], DebugError> {
    match field(object, name) {
        None => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(_) => Err(wrong(format!("{path}.{name}"), "must be an array")),
    }
}
