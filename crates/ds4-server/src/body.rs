//! Reading a request's body.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use ds4_chat::json::Json;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::config::Limits;
use crate::error::{ApiError, ErrorKind};
use crate::router::RequestId;
use crate::state::{AppState, defect};

/// A request's body, read as JSON. Integers in it keep all their digits, lone surrogates become U+FFFD, and of a
/// repeated key the last value counts.
#[derive(Debug)]
pub struct JsonBody(pub Json);

/// Bodies larger than this are parsed on a thread where that may take its time, in bytes.
const LARGE: usize = 64 << 10;

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let media = media_of(&parts.headers)?;
        let bytes = read(body, &parts.headers, &state.config().limits).await?;
        if media == Media::Form && first_character(&bytes) != Some(b'{') {
            return Err(media_type("application/x-www-form-urlencoded"));
        }
        let nesting = state.config().limits.json_nesting;
        let parsed = if bytes.len() > LARGE {
            tokio::task::spawn_blocking(move || parse(&bytes, nesting)).await.map_err(|error| defect(&error))?
        } else {
            parse(&bytes, nesting)
        };
        let json = parsed?;
        if let Some(trace) = state.trace() {
            let id = parts.extensions.get::<RequestId>().map(|id| id.0.as_str());
            let fields = serde_json::json!({ "request_id": id, "path": parts.uri.path(), "body": json.to_string() });
            trace.line("request", fields);
        }
        Ok(Self(json))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    /// What some clients declare when nobody told them what they send.
    Form,
}

fn media_of(headers: &HeaderMap) -> Result<Media, ApiError> {
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .find(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if let Some(encoding) = encoded {
        let message = format!("the content encoding {encoding:?} is not supported; send the body as it is");
        return Err(ApiError::new(ErrorKind::MediaType, message));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Media::Json) };
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let media = value.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" | "text/json" | "text/plain" => Ok(Media::Json),
        _ if media.ends_with("+json") => Ok(Media::Json),
        "application/x-www-form-urlencoded" => Ok(Media::Form),
        _ => Err(media_type(media)),
    }
}

fn media_type(media: &str) -> ApiError {
    let message =
        format!("the content type {media:?} is not supported; send JSON with the content type application/json");
    ApiError::new(ErrorKind::MediaType, message)
}

async fn read(mut body: axum::body::Body, headers: &HeaderMap, limits: &Limits) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the request body is larger than {} bytes, the most that is accepted", limits.body_bytes);
        ApiError::new(ErrorKind::TooLarge, message)
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let frame = timeout(limits.body_idle, body.frame()).await.map_err(|_| {
            let message = format!("nothing came of the request body for {} seconds", limits.body_idle.as_secs());
            ApiError::new(ErrorKind::RequestTimeout, message)
        })?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| {
            ApiError::new(ErrorKind::Invalid, format!("the request body could not be read: {error}"))
        })?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > limits.body_bytes {
                return Err(too_large());
            }
            bytes.extend_from_slice(data);
        }
    }
}

fn first_character(bytes: &[u8]) -> Option<u8> {
    bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

fn parse(bytes: &[u8], nesting: usize) -> Result<Json, ApiError> {
    let invalid = |what: String| ApiError::new(ErrorKind::Invalid, format!("the request body is {what}"));
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok());
        let place = place(valid.unwrap_or_default());
        invalid(format!("not UTF-8: the byte at {place} does not begin or continue a character"))
    })?;
    if text.trim().is_empty() {
        return Err(invalid("empty; send a JSON object".to_owned()));
    }
    Json::parse_within(text, nesting).map_err(|error| {
        let place = place(text.get(..error.offset()).unwrap_or_default());
        let limit = if error.is_depth() { format!(" (at most {nesting} levels)") } else { String::new() };
        invalid(format!("not valid JSON: {}{limit} at {place}", error.problem()))
    })
}

/// Line and column of what follows `before`, both from 1, columns in characters.
fn place(before: &str) -> String {
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn content_types_are_those_of_real_clients() {
        let media = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            media_of(&headers).map_err(|error| error.kind)
        };
        for json in ["application/json", "Application/JSON; charset=utf-8", "text/plain", "application/vnd.api+json"] {
            assert_eq!(media(json), Ok(Media::Json), "{json}");
        }
        assert_eq!(media("application/x-www-form-urlencoded"), Ok(Media::Form));
        for other in ["multipart/form-data; boundary=x", "application/octet-stream", "image/png"] {
            assert_eq!(media(other), Err(ErrorKind::MediaType), "{other}");
        }
        assert_eq!(media_of(&HeaderMap::new()).expect("no type is fine"), Media::Json);
    }

    #[test]
    fn what_is_not_json_is_refused_and_what_javascript_sends_is_not() {
        for (bytes, expected) in [
            (b"".as_slice(), "empty"),
            (b"  ", "empty"),
            (b"{", "not valid JSON"),
            (b"{} x", "not valid JSON"),
            (b"{\"a\": NaN}", "not valid JSON"),
            (b"{\"a\":\n \"\xff\"}", "not UTF-8: the byte at line 2, column 3"),
            (b"\xff\xfe{\x00}\x00", "not UTF-8: the byte at line 1, column 1"),
            ("{\n\"é\": [1,\n  2,,]}".as_bytes(), "a value is missing at line 3, column 5"),
        ] {
            let error = parse(bytes, 128).expect_err(expected);
            assert!(error.message.contains(expected), "{} should contain {expected}", error.message);
        }
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(128).as_bytes(), 128).is_ok());
        for depth in [129, 10_000] {
            let error = parse(nested(depth).as_bytes(), 128).expect_err("too deep");
            assert!(error.message.ends_with("nested too deeply (at most 128 levels) at line 1, column 129"), "{error}");
        }
        let json = parse(b"\xef\xbb\xbf{\"a\": \"\\ud83d\", \"a\": \"\\ud83d!\"}", 128).expect("legal");
        assert_eq!(json.get("a").and_then(Json::as_str), Some("\u{fffd}!"));
    }
}
