//! Raw text over the demo model.

use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::Server;

#[test]
fn streamed_and_not_the_same_seed_gives_the_same_text() {
    let server = Server::nano(ServerConfig::default());
    let mut body = json!({ "prompt": "The", "max_tokens": 12, "seed": 7, "logprobs": 2 });
    let whole = server.post("/v1/completions", &body).json();
    let text = whole["choices"][0]["text"].as_str().expect("text").to_owned();
    assert!(!text.is_empty());
    assert_eq!(whole["object"], "text_completion");
    let logprobs = &whole["choices"][0]["logprobs"];
    let joined: String = logprobs["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_str).collect();
    assert_eq!(joined, text);
    assert_eq!(logprobs["text_offset"][0], 0);

    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let frames = server.post("/v1/completions", &body).frames();
    let told: String = frames.iter().filter_map(|frame| frame["choices"][0]["text"].as_str()).collect();
    assert_eq!(told, text);
    assert_eq!(frames.last(), Some(&json!("[DONE]")));
    let usage: Vec<&Value> = frames.iter().filter(|frame| frame["usage"].is_object()).collect();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0]["choices"], json!([]));
    assert_eq!(usage[0]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
}

#[test]
fn a_stop_sequence_ends_the_text_before_it() {
    let server = Server::nano(ServerConfig::default());
    let body = json!({ "prompt": "One, two,", "max_tokens": 20, "temperature": 0 });
    let text = server.post("/v1/completions", &body).json()["choices"][0]["text"].as_str().expect("text").to_owned();
    let stop: String = text.chars().skip(2).take(2).collect();
    let mut body = body;
    body["stop"] = json!(stop);
    let stopped = server.post("/v1/completions", &body).json();
    let expected = text.split(&stop).next().expect("a part");
    assert_eq!(stopped["choices"][0]["text"], expected);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}
