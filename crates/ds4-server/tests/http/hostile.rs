//! Input that nobody sends who means well, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ds4_engine::EngineOptions;
use ds4_server::{Limits, ServerConfig};
use serde_json::{Value, json};

use crate::support::{Server, options};

/// Every endpoint that takes a conversation, with a body that it accepts.
const ENDPOINTS: [(&str, &str); 4] = [
    ("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}"#),
    ("/v1/completions", r#"{"prompt": "x", "max_tokens": 2}"#),
    ("/v1/responses", r#"{"input": "x", "max_output_tokens": 2}"#),
    ("/v1/messages", r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}"#),
];

fn server() -> Server {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("{{/think}}Yes.");
    server
}

/// Sends bytes and reads all that comes until the server closes the connection or falls silent.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    // The server may answer, and close, before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
        }
    }
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The statuses of the answers on a connection.
fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split("HTTP/1.").skip(1);
    lines.filter_map(|line| line.get(2..5)?.parse().ok()).collect()
}

#[track_caller]
fn still_answers(server: &Server) {
    for (path, body) in ENDPOINTS {
        assert_eq!(server.send(path, body, &[]).status, 200, "{path}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_by_every_endpoint_with_their_place() {
    let server = server();
    for (path, _) in ENDPOINTS {
        for (bytes, expected) in [
            (b"{\"a\": \"\xff\"}".as_slice(), "line 1, column 8"),
            (b"{\n\"a\": \"\xc0\xaf\"}", "line 2, column 7"),
            (b"{\"a\": \"\xed\xa0\xbd\"}", "line 1, column 8"),
            (b"\xff\xfe{\x00}\x00", "line 1, column 1"),
            (b"{\"a\": \n\n [1, 2,, 3]}", "line 3, column 8"),
            (b"{\"a\": \"\x01\"}", "line 1, column 8"),
            (b"{\"a\": 1} {}", "line 1, column 10"),
            (b"{\"a\": NaN}", "line 1, column 7"),
            (b"{\"a\": 01}", "line 1"),
            (b"{'a': 1}", "line 1, column 2"),
        ] {
            let answer = exchange(&server, &post(path, "connection: close\r\n", bytes));
            assert!(answer.starts_with("HTTP/1.1 400 "), "{path} {bytes:?}: {answer}");
            assert!(answer.contains(expected), "{path} {bytes:?}: {answer}");
        }
    }
    still_answers(&server);
}

#[test]
fn nesting_is_bounded_everywhere() {
    let server = server();
    for (path, good) in ENDPOINTS {
        for depth in [128, 10_000, 1_000_000] {
            let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let body = format!("{}, \"metadata\": {deep}}}", good.trim_end_matches('}'));
            let answer = server.send(path, &body, &[]);
            assert_eq!(answer.status, 400, "{path}");
            assert!(answer.text.contains("nested too deeply (at most 128 levels)"), "{}", answer.text);
        }
        let fine = format!("{}{}", "[".repeat(127), "]".repeat(127));
        let body = format!("{}, \"frobnicate\": {fine}}}", good.trim_end_matches('}'));
        assert_eq!(server.send(path, &body, &[]).status, 200, "{path}");
    }
    // In a call's arguments it is text that is no JSON.
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let body = json!({ "max_tokens": 2, "messages": [
        { "role": "user", "content": "x" },
        { "role": "assistant", "tool_calls": [{ "id": "a", "type": "function", "function": { "name": "f", "arguments": deep } }] },
        { "role": "tool", "tool_call_id": "a", "content": "y" },
    ] });
    let deep_context = Server::scripted(ServerConfig::default(), EngineOptions { ctx: Some(32_768), ..options() });
    deep_context.answers("{{/think}}Yes.");
    assert_eq!(deep_context.post("/v1/chat/completions", &body).status, 200);
}

#[test]
fn numbers_are_in_range_or_refused_by_name() {
    let server = server();
    let huge = "9".repeat(10_000);
    for (path, good) in ENDPOINTS {
        let limit = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
        let with = |field: &str, value: &str| {
            let mut body = good.trim_end_matches('}').to_owned();
            // A repeated key counts with its last value.
            body.push_str(&format!(", \"{field}\": {value}}}"));
            server.send(path, &body, &[])
        };
        for value in ["1.0", "1e0", "2"] {
            assert_eq!(with(limit, value).status, 200, "{path} {value}");
        }
        for value in ["1e999", "-1", "0", "1.5", "18446744073709551616", "-0", "true", "\"5\"", "[]", "{}", &huge] {
            let answer = with(limit, value);
            // Some clients of this API send 0 to warm a cache up.
            if path == "/v1/messages" && matches!(value, "0" | "-0" | "18446744073709551616") || value == huge {
                assert!(matches!(answer.status, 200 | 400), "{path} {value}");
                continue;
            }
            assert_eq!(answer.status, 400, "{path} {value}: {}", answer.text);
            assert!(answer.text.contains(limit), "{path} {value}: {}", answer.text);
        }
        for value in ["1e999", "-0.1", "2.0000001", "true", "\"1\""] {
            let answer = with("temperature", value);
            assert_eq!(answer.status, 400, "{path} {value}");
            assert!(answer.text.contains("temperature"), "{path} {value}: {}", answer.text);
        }
    }
    still_answers(&server);
}

#[test]
fn values_of_the_wrong_type_are_refused_with_their_path() {
    let server = server();
    let junk = [json!(5), json!(true), json!("x"), json!([[]]), json!([null]), json!({ "a": {} }), json!([5])];
    for (path, good) in ENDPOINTS {
        let good: Value = serde_json::from_str(good).expect("JSON");
        let fields = [
            "messages",
            "input",
            "prompt",
            "tools",
            "tool_choice",
            "stop",
            "stop_sequences",
            "stream",
            "thinking",
            "response_format",
            "text",
            "output_config",
            "stream_options",
            "logit_bias",
            "logprobs",
            "system",
            "instructions",
            "reasoning",
            "metadata",
            "temperature",
            "seed",
            "top_k",
            "model",
            "include",
            "echo",
            "suffix",
        ];
        for field in fields {
            for value in &junk {
                let mut body = good.clone();
                body[field] = value.clone();
                let answer = server.post(path, &body);
                assert!(
                    matches!(answer.status, 200 | 400 | 404),
                    "{path} {field} {value}: {} {}",
                    answer.status,
                    answer.text
                );
            }
        }
    }
    still_answers(&server);
}

#[test]
fn lone_surrogates_and_control_characters_are_text() {
    let server = server();
    for (path, good) in ENDPOINTS {
        for text in [r"\ud83d", r"\udc00\ud83d", r"a\u0000b\u001f", r"\u2028\uffff\ufdd0", r"\u202e\u0645\u0301"] {
            let body =
                good.replace("\"x\"", &format!("\"{text}\"")).replace("\"max", &format!("\"k{text}\": 1, \"max"));
            assert_eq!(server.send(path, &body, &[]).status, 200, "{path} {body}");
        }
        // A key that is repeated: the last value counts.
        let body = format!("{}, \"stream\": 5, \"stream\": false}}", good.trim_end_matches('}'));
        assert_eq!(server.send(path, &body, &[]).status, 200, "{path}");
    }
}

/// Twice as much takes about twice as long, or this would not end.
#[test]
fn much_of_everything_is_linear() {
    let limits = Limits { body_bytes: 64 << 20, ..Limits::default() };
    let server = Server::scripted(ServerConfig { limits, ..ServerConfig::default() }, options());
    let is_refused = |body: &Value| {
        let answer = server.post("/v1/chat/completions", body);
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains("context"), "{}", answer.text);
    };
    let calls: Vec<Value> = (0..4096)
        .map(|n| json!({ "id": format!("c{n}"), "type": "function", "function": { "name": "f", "arguments": "{}" } }))
        .collect();
    let results = (0..4096).rev().map(|n| json!({ "role": "tool", "tool_call_id": format!("c{n}"), "content": "ok" }));
    let mut messages =
        vec![json!({ "role": "user", "content": "x" }), json!({ "role": "assistant", "tool_calls": calls })];
    messages.extend(results);
    is_refused(&json!({ "messages": messages }));
    let many: Vec<Value> = (0..100_000).map(|_| json!({ "role": "user", "content": "x" })).collect();
    is_refused(&json!({ "messages": many }));
    for text in [
        "a".repeat(200_000),
        " ".repeat(1 << 20),
        "7".repeat(1 << 20),
        "語".repeat(300_000),
        "a\u{301}".repeat(300_000),
    ] {
        is_refused(&json!({ "messages": [{ "role": "user", "content": text }] }));
    }
    let parameters = json!({ "type": "object", "properties": { "x": { "type": "string" } } });
    let tools: Vec<Value> = (0..1000)
        .map(|n| json!({ "type": "function", "function": { "name": format!("f{n}"), "parameters": parameters } }))
        .collect();
    is_refused(&json!({ "messages": [{ "role": "user", "content": "x" }], "tools": tools }));
}

#[test]
fn requests_that_are_no_http_do_no_harm() {
    let server = server();
    let body = ENDPOINTS[0].1;
    let flood: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(1 << 20));
    for (bytes, expected) in [
        (post("/v1/chat/completions", &flood, body.as_bytes()), vec![431]),
        (post("/v1/chat/completions", &long, body.as_bytes()), vec![431]),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n".to_vec(), vec![400]),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999\r\n\r\n".to_vec(), vec![413]),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_vec(), vec![400]),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(), vec![400]),
        // Closed without a word: the client speaks another protocol.
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![]),
        (b"GET /%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), vec![404]),
        (b"GET /%2e%2e/v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), vec![404]),
        (b"GET //v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), vec![200]),
        (b"GET http://localhost/v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), vec![200]),
        (b"BREW /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), vec![405]),
        (b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n".to_vec(), vec![200]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), vec![400]),
        (b"\0\0\0\0\r\n\r\n".to_vec(), vec![400]),
    ] {
        let answer = exchange(&server, &bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert_eq!(statuses(&answer), expected, "{shown}: {answer}");
    }
    // Two lengths that contradict each other: whichever counts, nothing of the body is taken for a request.
    let smuggled = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                     0\r\n\r\nGET /props HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = exchange(&server, smuggled);
    assert!(!answer.contains("n_ctx"), "{answer}");
    // Requests that follow each other without waiting are answered in order.
    let both = [
        post("/v1/chat/completions", "", b"{"),
        post("/v1/chat/completions", "connection: close\r\n", body.as_bytes()),
    ]
    .concat();
    assert_eq!(statuses(&exchange(&server, &both)), [400, 200]);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\nconnection: close\r\n";
    let waiting = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let answer = exchange(&server, waiting.as_bytes());
    assert!(statuses(&answer).ends_with(&[200]), "{answer}");
    still_answers(&server);
}

#[test]
fn clients_that_are_slow_are_sent_away_and_others_are_not_kept_waiting() {
    let limits =
        Limits { head_time: Duration::from_millis(300), body_idle: Duration::from_millis(300), ..Limits::default() };
    let server = Server::scripted(ServerConfig { limits, ..ServerConfig::default() }, options());
    server.answers("{{/think}}Yes.");
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        stream.write_all(bytes).expect("written");
        stream
    };
    let slow_heads: Vec<TcpStream> = (0..50).map(|_| connect(b"POST /v1/chat/com")).collect();
    let mut slow_body =
        connect(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{\"mess");
    still_answers(&server);
    let mut answer = String::new();
    slow_body.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    slow_body.read_to_string(&mut answer).expect("an answer, and the end of the connection");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
    for mut stream in slow_heads {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the server closes it");
    }
    // Half a body, and then nothing ever: the client is gone.
    let gone = connect(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{\"mess");
    gone.shutdown(Shutdown::Write).expect("half closed");
    drop(gone);
    still_answers(&server);
    server.wait_for("ds4_requests_in_flight", 0.0);
}

#[test]
fn a_client_that_breaks_off_anywhere_leaves_nothing_behind() {
    let server = Server::scripted(ServerConfig::default(), EngineOptions { prefill_chunk: Some(8), ..options() });
    server.answers(&format!("{{{{/think}}}}{}", "word ".repeat(400)));
    server.script.set_step(Duration::from_millis(5));
    let body = json!({ "messages": [{ "role": "user", "content": "a b c d e f g h ".repeat(20) }], "stream": true })
        .to_string();
    let bytes = post("/v1/chat/completions", "", body.as_bytes());
    // Before the body ends, in the queue or the prompt, and between tokens.
    for (sent, wait) in [(bytes.len() / 2, 10), (bytes.len(), 0), (bytes.len(), 30), (bytes.len(), 400)] {
        for _ in 0..3 {
            let mut stream = TcpStream::connect(server.address).expect("a connection");
            stream.write_all(&bytes[..sent]).expect("written");
            std::thread::sleep(Duration::from_millis(wait));
        }
    }
    server.wait_for("ds4_requests_in_flight", 0.0);
    server.script.set_step(Duration::ZERO);
    server.answers("{{/think}}Yes.");
    still_answers(&server);
    let ended = ["cancelled", "completed"]
        .map(|outcome| server.metric(&format!("ds4_requests_total{{api=\"chat\",outcome=\"{outcome}\"}}")));
    assert!(ended[0] >= 6.0, "{ended:?}");
}

#[test]
fn ids_that_were_guessed_find_nothing() {
    let server = server();
    for path in ["/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/v1/responses/%00", "/v1/responses/.."] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    let body = json!({ "max_tokens": 2, "messages": [
        { "role": "user", "content": "x" },
        { "role": "assistant", "tool_calls": [{ "id": "call_00_aaaaaaaaaaaaaaaaaaaa", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
        { "role": "tool", "tool_call_id": "call_00_aaaaaaaaaaaaaaaaaaaa", "content": "y" },
        { "role": "tool", "tool_call_id": "another", "content": "y" },
    ] });
    assert_eq!(server.post("/v1/chat/completions", &body).status, 400, "a result of no call");
}

#[test]
fn refusals_are_counted_by_their_reason() {
    let server = server();
    server.send("/v1/chat/completions", "{", &[]);
    server.send("/v1/chat/completions", "{}", &[("content-encoding", "gzip")]);
    server.get("/v1/nothing");
    for (reason, count) in [("invalid_request", 1.0), ("unsupported_media_type", 1.0), ("not_found", 1.0)] {
        assert_eq!(server.metric(&format!("ds4_rejected_requests_total{{reason=\"{reason}\"}}")), count, "{reason}");
    }
    if cfg!(target_os = "linux") {
        assert!(server.metric("ds4_resident_memory_bytes") > 1e6);
    }
}
