//! What is refused, and how.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ds4_engine::EngineOptions;
use ds4_server::{Limits, ServerConfig};
use serde_json::{Value, json};

use crate::support::{Server, agent, options};

const CHAT: &str = "/v1/chat/completions";

fn ask(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }] })
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_in_known_words() {
    let server = Server::scripted(ServerConfig::default(), EngineOptions { ctx: Some(50), ..options() });
    let mut body = ask(&"many words ".repeat(100));
    body["max_tokens"] = json!(10);
    body["stream"] = json!(true);
    let answer = server.post(CHAT, &body);
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status, &error["code"]), (400, &json!("context_length_exceeded")));
    let message = error["message"].as_str().expect("a sentence");
    assert!(
        message.starts_with("This model's maximum context length is 50 tokens. However, you requested "),
        "{message}"
    );
    // What fits, but not with all of its answer, is answered.
    server.answers(&"word ".repeat(100));
    body["messages"][0]["content"] = json!("short");
    body["thinking"] = json!({ "type": "disabled" });
    body["stream"] = json!(false);
    body["max_tokens"] = json!(1000);
    let answer = server.post(CHAT, &body).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["total_tokens"], 50);
}

#[test]
fn a_full_queue_sends_away_with_a_time_to_come_back() {
    let server = Server::scripted(ServerConfig::default(), EngineOptions { parallel: 1, queue: 0, ..options() });
    server.answers(&"on and ".repeat(500));
    server.script.set_step(Duration::from_millis(10));
    let mut body = ask("Go on");
    body["stream"] = json!(true);
    let running = agent().post(server.url(CHAT)).send(body.to_string()).expect("an answer");
    let answer = server.post(CHAT, &body);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert!(answer.headers.contains_key("retry-after"));
    drop(running);
    server.wait_for("ds4_requests_in_flight", 0.0);
}

#[test]
fn bodies_that_are_no_requests_are_refused_and_the_connection_goes_on() {
    let limits = Limits { body_bytes: 1000, ..Limits::default() };
    let server = Server::scripted(ServerConfig { limits, ..ServerConfig::default() }, options());
    let kinds = |status: u16| if status == 400 { Value::Null } else { json!("request_too_large") };
    for (body, status) in [
        ("", 400),
        ("null", 400),
        ("[]", 400),
        ("\"x\"", 400),
        ("{\"messages\": [", 400),
        ("{\"messages\": []} x", 400),
        (r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e999}"#, 400),
        (&"x".repeat(1001), 413),
    ] {
        let answer = server.send(CHAT, body, &[]);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &kinds(status)), "{body}");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    let answer = server.send(CHAT, "{}", &[("content-encoding", "gzip")]);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (415, &json!("unsupported_media_type")));

    // One connection: a refusal, then a question.
    server.answers("{{/think}}Yes.");
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    let good = ask("\u{0}?").to_string();
    for (body, expected) in [("{", "400 Bad Request"), (good.as_str(), "200 OK")] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("written");
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).expect("readable");
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
    }
}

#[test]
fn errors_have_the_shape_of_the_family() {
    let server = Server::scripted(ServerConfig { strict_models: true, ..ServerConfig::default() }, options());
    let mut body = ask("x");
    body["model"] = json!("gpt-9");
    let answer = server.post(CHAT, &body);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("model_not_found")));
    let answer = server.get("/v1/nothing");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("not_found")));
    let answer = server.get(CHAT);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(answer.headers["allow"], "POST");
    let answer = server.send("/v1/nothing", "{}", &[("anthropic-version", "2023-06-01")]);
    assert_eq!(answer.json()["type"], "error");
    assert_eq!(answer.json()["error"]["type"], "not_found_error");
    assert_eq!(answer.json()["request_id"], answer.headers["request-id"].to_str().expect("text"));
}

#[test]
fn keys_and_web_pages_are_checked() {
    let config = ServerConfig {
        api_keys: vec!["secret".to_owned()],
        cors: vec!["http://good.example".to_owned()],
        ..ServerConfig::default()
    };
    let server = Server::scripted(config, options());
    server.answers("{{/think}}Yes.");
    let body = ask("x").to_string();
    assert_eq!(server.send(CHAT, &body, &[]).status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/health").json(), json!({ "status": "ok" }));
    assert_eq!(server.send(CHAT, &body, &[("x-api-key", "secret")]).status, 200);
    let key = ("authorization", "Bearer secret");
    assert_eq!(server.send(CHAT, &body, &[key]).status, 200);
    let answer = server.send(CHAT, &body, &[key, ("origin", "http://evil.example")]);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &json!("origin_not_allowed")));
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    assert_eq!(server.send(CHAT, &body, &[key, ("host", "evil.example")]).status, 403);
    let answer = server.send(CHAT, &body, &[key, ("origin", "http://good.example")]);
    assert_eq!(
        (answer.status, &answer.headers["access-control-allow-origin"]),
        (200, &"http://good.example".parse().expect("valid"))
    );
}

#[test]
fn models_are_listed_in_both_shapes() {
    let config = ServerConfig { aliases: vec!["other".to_owned()], ..ServerConfig::default() };
    let server = Server::scripted(config, options());
    let list = server.get("/v1/models?limit=1000").json();
    let ids: Vec<&Value> = list["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["deepseek-v4-flash", "other"]);
    assert_eq!(list["data"][0]["context_length"], 4096);
    assert_eq!(server.get("/models/some/model").json()["id"], "some/model");
    let request = agent().get(server.url("/v1/models")).header("anthropic-version", "2023-06-01");
    let list: Value =
        serde_json::from_str(&request.call().expect("an answer").body_mut().read_to_string().expect("text"))
            .expect("JSON");
    assert_eq!((&list["data"][0]["type"], &list["last_id"]), (&json!("model"), &json!("other")));
}
