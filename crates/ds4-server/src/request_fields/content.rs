//! Content of messages: a string, or parts of several types.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ds4_chat::conversation::{Block, Content};

use crate::config::{ServerConfig, UnsupportedMedia};
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};

/// The line that Claude Code puts in front of its system text. It differs from request to request, and would keep any
/// two conversations from sharing a cached beginning.
const BILLING_LINE: &str = "x-anthropic-billing-header";

/// Takes the billing line off the front of a system text.
pub fn drop_billing_line(content: &mut Content) {
    let Some(Block::Text(text)) = content.0.first_mut() else { return };
    if !text.starts_with(BILLING_LINE) {
        return;
    }
    *text = text.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_owned());
    if text.is_empty() {
        content.0.remove(0);
    }
}

/// Whose content it is; it decides what is left of what cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A message: the hosted service's words.
    Message,
    /// The result of a tool: the words of the model's reference encoder.
    ToolResult,
}

/// A string, or an array of parts of OpenAI's types.
///
/// # Errors
/// Another type; a part without what its type needs; content that is refused.
pub fn parts(field: &Field<'_>, owner: Owner, config: &ServerConfig) -> Result<Content, ApiError> {
    if let Some(text) = field.json().as_str() {
        return Ok(Content::text(text));
    }
    if field.json().as_array().is_none() {
        return Err(field.must_be("a string or an array of content parts"));
    }
    let parts = field.array()?;
    Ok(Content(parts.iter().map(|field| part(field, owner, config)).collect::<Result<_, _>>()?))
}

/// One part of OpenAI's types. Bare strings are accepted as text.
///
/// # Errors
/// As [`parts`].
fn part(field: &Field<'_>, owner: Owner, config: &ServerConfig) -> Result<Block, ApiError> {
    if let Some(text) = field.json().as_str() {
        return Ok(Block::Text(text.to_owned()));
    }
    let object = field.object()?;
    let kind = object.required("type")?;
    let kind_name = kind.str()?;
    let label = |official: &'static str| match owner {
        Owner::Message => official.to_owned(),
        Owner::ToolResult => kind_name.to_owned(),
    };
    match kind_name {
        "text" | "input_text" | "output_text" => text(&object, "text"),
        "refusal" => text(&object, "refusal"),
        "image_url" | "input_image" | "image" => unsupported(field, "image", label("Image"), config),
        "input_audio" | "audio" => Err(ApiError::unsupported(
            ErrorKind::UnsupportedValue,
            field.path(),
            "audio input is not supported: this model reads text only",
        )),
        "file" | "input_file" | "document" => match file_text(&object)? {
            Some(text) => Ok(Block::Text(text)),
            None => unsupported(field, "file", label("document type: file"), config),
        },
        "" => Err(kind.must_be("the type of the content part")),
        // Agents cannot take back what they have in their history; the model is told that something was there.
        other => unsupported(field, other, other.to_owned(), config),
    }
}

fn text(object: &Object<'_>, name: &str) -> Result<Block, ApiError> {
    Ok(Block::Text(object.required(name)?.str()?.to_owned()))
}

/// The text of a file that comes along as text: `file_data` is a data URL of a text type then.
fn file_text(object: &Object<'_>) -> Result<Option<String>, ApiError> {
    let nested = object.get("file").map(|file| file.object()).transpose()?;
    let Some(data) = nested.as_ref().unwrap_or(object).get("file_data") else { return Ok(None) };
    let Some((head, data)) = data.str()?.strip_prefix("data:").and_then(|rest| rest.split_once(',')) else {
        return Ok(None);
    };
    let media = head.split(';').next().unwrap_or_default();
    let is_text = media.starts_with("text/") || matches!(media, "application/json" | "application/xml");
    if !is_text || !head.ends_with(";base64") {
        return Ok(None);
    }
    let text = BASE64_STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text)
}

fn unsupported(field: &Field<'_>, what: &str, label: String, config: &ServerConfig) -> Result<Block, ApiError> {
    match config.unsupported_media {
        UnsupportedMedia::Placeholder => Ok(Block::Unsupported(label)),
        UnsupportedMedia::Error => Err(ApiError::unsupported(
            ErrorKind::UnsupportedValue,
            field.path(),
            format!("{what} input is not supported: this model reads text only"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use ds4_chat::json::Json;

    use super::*;

    fn read(json: &str, config: &ServerConfig) -> Result<String, (String, ErrorKind)> {
        let json = Json::parse(json).expect("valid");
        let object = Object::root(&json).expect("an object");
        parts(&object.get("content").expect("there"), Owner::Message, config)
            .map(|content| content.to_text())
            .map_err(|error| (error.param.unwrap_or_default(), error.kind))
    }

    #[test]
    fn what_cannot_be_read_leaves_a_mark() {
        let config = ServerConfig::default();
        for (json, expected) in [
            (r#"{"content": ""}"#, ""),
            (r#"{"content": []}"#, ""),
            (r#"{"content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]}"#, "a\n\nb"),
            (r#"{"content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}"#, "[Unsupported Image]"),
            (r#"{"content": [{"type": "input_file", "file_data": "data:text/plain;base64,aGk="}]}"#, "hi"),
            (r#"{"content": [{"type": "file", "file": {"file_data": "data:text/csv;base64,YSxi"}}]}"#, "a,b"),
            (
                r#"{"content": [{"type": "input_file", "file_data": "data:application/pdf;base64,aGk="}]}"#,
                "[Unsupported document type: file]",
            ),
            (
                r#"{"content": [{"type": "input_file", "file_data": "data:text/plain;base64,/w=="}]}"#,
                "[Unsupported document type: file]",
            ),
            (r#"{"content": [{"type": "input_file", "file_id": "x"}]}"#, "[Unsupported document type: file]"),
        ] {
            assert_eq!(read(json, &config).as_deref(), Ok(expected), "{json}");
        }
        let strict = ServerConfig { unsupported_media: UnsupportedMedia::Error, ..ServerConfig::default() };
        let image = r#"{"content": ["x", {"type": "image_url", "image_url": {"url": "http://x"}}]}"#;
        assert_eq!(read(image, &strict), Err(("content[1]".to_owned(), ErrorKind::UnsupportedValue)));
        for (json, path) in [
            (r#"{"content": 5}"#, "content"),
            (r#"{"content": [null]}"#, "content[0]"),
            (r#"{"content": [{"text": "a"}]}"#, "content[0].type"),
            (r#"{"content": [{"type": "text"}]}"#, "content[0].text"),
            (r#"{"content": [{"type": "text", "text": 5}]}"#, "content[0].text"),
        ] {
            assert_eq!(read(json, &config), Err((path.to_owned(), ErrorKind::Invalid)), "{json}");
        }
    }

    #[test]
    fn a_billing_line_is_dropped_from_the_front_only() {
        let line = "x-anthropic-billing-header: a=b;";
        let behind = format!("You are\n{line}");
        for (blocks, expected) in [
            (vec![format!("{line}\nYou are")], vec!["You are"]),
            (vec![line.to_owned()], vec![]),
            (vec![line.to_owned(), "You are".to_owned()], vec!["You are"]),
            (vec![behind.clone()], vec![behind.as_str()]),
            (vec!["You are".to_owned(), line.to_owned()], vec!["You are", line]),
        ] {
            let mut content = Content(blocks.into_iter().map(Block::Text).collect());
            drop_billing_line(&mut content);
            let expected = Content(expected.into_iter().map(|text| Block::Text(text.to_owned())).collect());
            assert_eq!(content, expected);
        }
    }
}
