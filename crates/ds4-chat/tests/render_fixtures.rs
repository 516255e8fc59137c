//! The prompt format against recorded renderings of the reference encoder and of DeepSeek's protocol library.

use ds4_chat::debug::render_line;
use ds4_chat::json::Json;
use ds4_chat::tokenizer::Tokenizer;

/// The cases of a file, digits of numbers untouched.
fn cases(rel: &str) -> Vec<Json> {
    let text = String::from_utf8(ds4_testdata::bytes(rel)).expect("the file is UTF-8");
    let file = Json::parse(&text).expect("the file is JSON");
    file.get("cases").and_then(Json::as_array).expect("the file has cases").to_vec()
}

fn check(rel: &str, at_least: usize) {
    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    let cases = cases(rel);
    assert!(cases.len() >= at_least, "{rel} has only {} cases", cases.len());
    for case in &cases {
        let id = case.get("id").and_then(Json::as_str).expect("a case has an id");
        let got = render_line(&case.to_string(), &tokenizer).unwrap_or_else(|error| panic!("{id}: {error}"));
        let expected = |server: &str, plain: &str| case.get(server).or_else(|| case.get(plain)).cloned().expect("text");
        assert_eq!(Json::from(&got["text"]), expected("server_text", "text"), "{id}");
        assert_eq!(Json::from(&got["ids"]), expected("server_ids", "ids"), "{id}");
    }
}

#[test]
fn conversations_render_as_recorded() {
    check("encoding/encode.json", 300);
}

#[test]
fn server_features_render_as_recorded() {
    check("encoding/encode_server.json", 30);
}

#[test]
fn refused_conversations_are_refused_with_the_reason() {
    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    let cases = cases("encoding/encode_errors.json");
    assert!(cases.len() >= 7);
    for case in &cases {
        let id = case.get("id").and_then(Json::as_str).expect("a case has an id");
        let features = case.get("features").expect("a case has features").to_string();
        let error = render_line(&case.to_string(), &tokenizer).expect_err(id).to_string();
        let reason = match features.as_str() {
            r#"["unknown-role"]"# => "unknown role",
            r#"["invalid-task"]"# => "unknown task",
            r#"["developer-empty"]"# => "no text",
            r#"["effort-unknown"]"# | r#"["effort-low-in-preview"]"# => "unknown reasoning effort",
            r#"["thinking-mode-unknown"]"# => "unknown thinking mode",
            other => panic!("{id} has an unknown feature: {other}"),
        };
        assert!(error.contains(reason), "{id}: {error}");
    }
}
