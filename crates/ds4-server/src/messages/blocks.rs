//! Content blocks that are read the same wherever they stand: text, and what a text model cannot read.

use ds4_chat::conversation::{Block, Content};

use crate::config::{ServerConfig, UnsupportedMedia};
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};

/// A string, or an array of text blocks.
///
/// # Errors
/// Another type of value or of block.
pub fn text_blocks(field: &Field<'_>) -> Result<Content, ApiError> {
    if let Some(text) = field.json().as_str() {
        return Ok(Content::text(text));
    }
    if field.json().as_array().is_none() {
        return Err(field.must_be("a string or an array of text blocks"));
    }
    let block = |field: &Field<'_>| {
        let object = field.object()?;
        let kind = object.required("type")?;
        match kind.str()? {
            "text" => text(&object),
            _ => Err(kind.must_be("\"text\"")),
        }
    };
    Ok(Content(field.array()?.iter().map(block).collect::<Result<_, _>>()?))
}

/// The text of a text block.
///
/// # Errors
/// There is none.
pub fn text(object: &Object<'_>) -> Result<Block, ApiError> {
    Ok(Block::Text(object.required("text")?.str()?.to_owned()))
}

/// What stands for something that a text model cannot read: `label`, or a refusal, as the server is told. `what` is its
/// name in the refusal.
///
/// # Errors
/// The refusal.
pub fn unsupported(field: &Field<'_>, what: &str, label: String, config: &ServerConfig) -> Result<Block, ApiError> {
    match config.unsupported_media {
        UnsupportedMedia::Placeholder => Ok(Block::Unsupported(label)),
        UnsupportedMedia::Error => Err(ApiError::unsupported(
            ErrorKind::UnsupportedValue,
            field.path(),
            format!("{what} input is not supported: this model reads text only"),
        )),
    }
}

/// A document: its text if it is one, with the title that the client gave it.
///
/// # Errors
/// A source that is malformed or refused.
pub fn document(field: &Field<'_>, object: &Object<'_>, config: &ServerConfig) -> Result<Block, ApiError> {
    let source = object.required("source")?.object()?;
    let kind = source.required("type")?;
    let content = match kind.str()? {
        "text" => Content::text(source.required("data")?.str()?),
        "content" => {
            let content = source.required("content")?;
            match content.json().as_str() {
                Some(text) => Content::text(text),
                None => plain_blocks(&content, config)?,
            }
        }
        other => {
            // A file or a URL says nothing about what is behind it, and nothing is fetched.
            let media = source.get("media_type").map(|field| field.str()).transpose()?.unwrap_or(other);
            return unsupported(field, "document", format!("document type: {media}"), config);
        }
    };
    with_heading(object, &["title", "context"], content)
}

/// A search result that the client found: its text under its title and source.
///
/// # Errors
/// It is malformed.
pub fn search_result(object: &Object<'_>) -> Result<Block, ApiError> {
    let content = text_blocks(&object.required("content")?)?;
    with_heading(object, &["title", "source"], content)
}

/// Text and images.
fn plain_blocks(field: &Field<'_>, config: &ServerConfig) -> Result<Content, ApiError> {
    let block = |field: &Field<'_>| {
        let object = field.object()?;
        let kind = object.required("type")?;
        match kind.str()? {
            "text" => text(&object),
            "image" => unsupported(field, "image", "Image".to_owned(), config),
            _ => Err(kind.must_be("\"text\" or \"image\"")),
        }
    };
    Ok(Content(field.array()?.iter().map(block).collect::<Result<_, _>>()?))
}

/// `content` as one text under those of the named strings that are there.
fn with_heading(object: &Object<'_>, names: &[&str], content: Content) -> Result<Block, ApiError> {
    let mut text = String::new();
    for name in names {
        if let Some(field) = object.get(name) {
            text.push_str(field.str()?);
            text.push('\n');
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&content.to_text());
    Ok(Block::Text(text))
}
