//! The document against the code.

use std::collections::BTreeSet;

use ds4_chat::json::Json;
use serde_json::{Map, Value, json};

use super::property::Property;
use super::requests::{chat, completions, messages, responses};
use super::{DOCUMENT, PAGE};
use crate::chat::request::ChatRequest;
use crate::completions::request::CompletionRequest;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::fields::asked;
use crate::messages::request::MessagesRequest;
use crate::responses::request::{ResponsesRequest, with_context};

/// Fields that are read only to refuse them: they have no place in the document.
const REFUSED: [&str; 13] = [
    "functions",
    "function_call",
    "audio",
    "modalities",
    "conversation",
    "prompt",
    "background",
    "messages",
    "fallbacks",
    "previous_response_id",
    "input",
    "context",
    "thread",
];

/// Bodies that have every documented field between them: an example each, fields that exclude each other apart.
fn bodies(properties: &[Property]) -> Vec<Value> {
    let example = |property: &Property| property.schema["examples"].get(0).cloned().unwrap_or_else(|| json!("x"));
    let all: Map<String, Value> = properties
        .iter()
        .map(|property| (property.name.to_owned(), example(property)))
        .filter(|(_, value)| !value.is_null())
        .collect();
    let mut plain = all.clone();
    // The same thing by another name comes second.
    for name in ["thinking", "max_completion_tokens", "max_output_tokens", "reasoning", "output_config"] {
        plain.remove(name);
    }
    vec![Value::Object(all), Value::Object(plain)]
}

/// Reads bodies with all documented fields.
fn agree<T>(properties: &[Property], read: impl Fn(&Json) -> Result<T, ApiError>) {
    let documented: BTreeSet<String> = properties.iter().map(|property| property.name.to_owned()).collect();
    assert_eq!(documented.len(), properties.len(), "a field is documented twice");
    let (all, ()) = asked(|| {
        for body in bodies(properties) {
            read(&Json::from(&body)).unwrap_or_else(|error| panic!("{error}: {body}"));
        }
    });
    let undocumented: Vec<&String> =
        all.difference(&documented).filter(|name| !REFUSED.contains(&name.as_str())).collect();
    assert!(undocumented.is_empty(), "read, and not documented: {undocumented:?}");
    let unread: Vec<&String> = documented.difference(&all).collect();
    assert!(unread.is_empty(), "documented, and not read: {unread:?}");
}

#[test]
fn chat_requests_are_documented_as_they_are_read() {
    let config = ServerConfig::default();
    agree(&chat(), |body| ChatRequest::read(body, &config));
}

#[test]
fn completion_requests_are_documented_as_they_are_read() {
    let config = ServerConfig::default();
    let tokenizer = ds4_chat::tokenizer::Tokenizer::official().expect("the embedded vocabulary");
    agree(&completions(), |body| CompletionRequest::read(body, &config, &tokenizer));
}

#[test]
fn messages_requests_are_documented_as_they_are_read() {
    let config = ServerConfig::default();
    agree(&messages(), |body| MessagesRequest::read(body, &config));
}

#[test]
fn responses_requests_are_documented_as_they_are_read() {
    with_context(|context| {
        agree(&responses(), |body| ResponsesRequest::read(body, context));
    });
}

/// Routes in the sources of this crate, `{*id}` as the document writes it.
fn routes() -> BTreeSet<String> {
    fn scan(folder: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                scan(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).expect("text");
                let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(routes.filter(|route| route.starts_with('/')).map(|route| route.replace("{*", "{")));
            }
        }
    }
    let mut found = BTreeSet::new();
    scan(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

#[test]
fn every_route_is_documented_and_every_documented_path_is_one() {
    let documented: BTreeSet<String> =
        DOCUMENT["paths"].as_object().expect("paths").keys().map(|path| path.to_owned()).collect();
    assert_eq!(routes(), documented);
}

#[test]
fn references_lead_somewhere_and_the_page_shows_every_path() {
    let text = DOCUMENT.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a quoted name");
        assert!(DOCUMENT["components"]["schemas"][name].is_object(), "{name}");
    }
    for path in DOCUMENT["paths"].as_object().expect("paths").keys() {
        assert!(PAGE.contains(&format!("<code>{path}</code>")), "{path}");
    }
    assert!(PAGE.contains("<code>response_format</code>") && !PAGE.contains("http://") && !PAGE.contains("<script"));
}
