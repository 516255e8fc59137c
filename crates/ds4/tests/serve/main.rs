//! `ds4 serve` as a process: how it starts, what signals do to it, and what it says when it cannot start.
#![cfg(unix)]

mod process;

use std::io::{Read, Write};
use std::net::TcpStream;

use process::{Serve, refused};

const CHAT: &str = "/v1/chat/completions";

fn ask(text: &str) -> String {
    format!(r#"{{"messages": [{{"role": "user", "content": "{text}"}}], "max_tokens": 8}}"#)
}

/// A stream that goes on until the context is full.
const ENDLESS: &str = r#"{"messages": [{"role": "user", "content": "count"}], "stream": true, "max_tokens": 100000,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {
    "type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "minItems": 100000}}}}"#;

/// Sends the endless request and waits for the beginning of its answer.
fn begin_endless(serve: &Serve) -> TcpStream {
    let mut stream = serve.connect();
    stream.write_all(&serve.request("POST", CHAT, ENDLESS)).unwrap();
    let mut first = [0; 256];
    assert!(stream.read(&mut first).unwrap() > 0);
    stream
}

#[test]
fn it_says_when_it_is_ready_and_ends_with_the_systems_request() {
    let serve = Serve::start(&[]);
    assert!(serve.ready.contains(&format!("http://127.0.0.1:{}/v1", serve.port)), "{}", serve.ready);
    assert!(serve.get("/health").ends_with(r#"{"status":"ok"}"#));
    assert!(serve.post(CHAT, &ask("Hello")).starts_with("HTTP/1.1 200 OK"));
    serve.signal("TERM");
    assert_eq!(serve.end(), Some(0));
}

#[test]
fn a_running_answer_comes_to_its_end_within_the_grace() {
    let serve = Serve::start(&["--grace", "60"]);
    let mut stream = serve.connect();
    let body = ask("Tell me a story").replace("\"max_tokens\": 8", "\"max_tokens\": 200, \"stream\": true");
    stream.write_all(&serve.request("POST", CHAT, &body)).unwrap();
    let mut first = [0; 64];
    let read = stream.read(&mut first).unwrap();
    serve.signal("INT");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(read > 0 && rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(serve.end(), Some(0));
}

#[test]
fn without_grace_it_is_cut_and_does_not_look_complete() {
    let serve = Serve::start(&["--grace", "0"]);
    let mut stream = begin_endless(&serve);
    serve.signal("TERM");
    let mut rest = Vec::new();
    // The connection may be reset.
    let _ = stream.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("data: [DONE]") && !rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
    assert_eq!(serve.end(), Some(0));
}

#[test]
fn a_second_interruption_ends_it_at_once() {
    let serve = Serve::start(&["--grace", "600"]);
    let _running = begin_endless(&serve);
    serve.signal("INT");
    // The first one has been taken notice of when the port is free.
    serve.wait_until_closed();
    serve.signal("INT");
    assert_eq!(serve.end(), Some(130));
}

/// A client that had sent half a request's head was waited for as long as a head may take: 10 seconds.
#[test]
fn half_a_request_does_not_keep_it_from_ending() {
    let serve = Serve::start(&[]);
    let mut half = serve.connect();
    half.write_all(b"POST /v1/chat").unwrap();
    let idle = serve.connect();
    serve.get("/health");
    serve.signal("TERM");
    // Cut by the server, not by the time for a head.
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    drop(idle);
    assert_eq!(serve.end(), Some(0));
}

#[test]
fn killed_it_starts_again_at_the_same_port() {
    let serve = Serve::start(&[]);
    let _running = begin_endless(&serve);
    let port = serve.port.to_string();
    serve.signal("KILL");
    assert_eq!(serve.end(), None);
    let again = Serve::start(&["--port", &port]);
    assert!(again.post(CHAT, &ask("Hello")).starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let serve = Serve::start(&[]);
    let port = serve.port.to_string();
    let message = refused(&["--port", &port], 1);
    assert!(message.contains(&format!("cannot listen at 127.0.0.1:{port}")) && message.contains("--port"), "{message}");
}

#[test]
fn keys_come_from_a_file() {
    let path = std::env::temp_dir().join(format!("ds4-serve-keys-{}", std::process::id()));
    std::fs::write(&path, "\n first-key \nsecond-key\n\n").unwrap();
    let serve = Serve::start(&["--api-key-file", path.to_str().unwrap()]);
    assert!(serve.post(CHAT, &ask("Hello")).starts_with("HTTP/1.1 401"));
    let keyed = |key: &str| serve.post_with(CHAT, &format!("authorization: Bearer {key}\r\n"), &ask("Hello"));
    assert!(keyed("second-key").starts_with("HTTP/1.1 200"));
    assert!(keyed("first-key").starts_with("HTTP/1.1 200"));
    assert!(keyed("").starts_with("HTTP/1.1 401"));
    drop(serve);
    std::fs::write(&path, "\n\n").unwrap();
    let message = refused(&["--api-key-file", path.to_str().unwrap()], 1);
    assert!(message.contains("has no keys"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let message = refused(&["--api-key-file", path.to_str().unwrap()], 1);
    assert!(message.contains("cannot read the key file"), "{message}");
}

#[test]
fn limits_are_options() {
    let serve = Serve::start(&["--max-nesting", "8", "--max-body", "1"]);
    let deep = ask("Hello").replace("\"max_tokens\"", "\"x\": [[[[[[[[]]]]]]]], \"max_tokens\"");
    let answer = serve.post(CHAT, &deep);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("at most 8 levels"), "{answer}");
    let large = ask(&"x".repeat(1 << 20));
    assert!(serve.post(CHAT, &large).starts_with("HTTP/1.1 413"));
    refused(&["--max-nesting", "1000"], 2);
}
