//! Anthropic's messages.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::EngineOptions;
use ds4_scripted::Answer;
use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Server, agent, options};

const PATH: &str = "/v1/messages";

const CALLS: &str = "Need it.{{/think}}Checking.\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_weather\">\n\
                     <{{D}}parameter name=\"city\" string=\"true\">Oslo é</{{D}}parameter>\n\
                     <{{D}}parameter name=\"days\" string=\"false\">2.0</{{D}}parameter>\n</{{D}}invoke>\n\
                     <{{D}}invoke name=\"get_time\">\n</{{D}}invoke>\n</{{D}}tool_calls>";

fn server() -> Server {
    Server::scripted(ServerConfig::default(), options())
}

fn tools() -> Value {
    json!([{ "name": "get_weather", "input_schema": { "type": "object" } }, { "name": "get_time" }])
}

fn ask(text: &str) -> Value {
    json!({ "model": "any", "max_tokens": 500, "messages": [{ "role": "user", "content": text }] })
}

/// A body with other fields.
fn with(mut body: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// What the events of a stream say, deltas of one kind and block joined, ids and signatures as "ID", pings left out.
fn story(events: &[(String, Value)]) -> Vec<String> {
    let mut story: Vec<(String, String)> = Vec::new();
    for (name, event) in events {
        assert_eq!(event["type"], name.as_str());
        let index = &event["index"];
        let (key, text) = match name.as_str() {
            "ping" => continue,
            "message_start" => {
                let mut message = event["message"].clone();
                message["id"] = json!("ID");
                message["model"] = json!("MODEL");
                message["usage"] = usage_keys(&message["usage"]);
                (name.clone(), message.to_string())
            }
            "content_block_start" => {
                let mut block = event["content_block"].clone();
                if block["id"].is_string() {
                    block["id"] = json!("ID");
                }
                (format!("start {index}"), block.to_string())
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let kind = delta["type"].as_str().expect("a type");
                let text = match kind {
                    "text_delta" => &delta["text"],
                    "thinking_delta" => &delta["thinking"],
                    "input_json_delta" => &delta["partial_json"],
                    "signature_delta" => {
                        assert!(delta["signature"].as_str().is_some_and(|signature| !signature.is_empty()));
                        &json!("ID")
                    }
                    other => panic!("no delta {other}"),
                };
                (format!("{kind} {index}"), text.as_str().expect("text").to_owned())
            }
            "content_block_stop" => (format!("stop {index}"), String::new()),
            "message_delta" => (name.clone(), format!("{} {}", event["delta"], usage_keys(&event["usage"]))),
            "message_stop" => (name.clone(), String::new()),
            other => panic!("no event {other}"),
        };
        match story.last_mut() {
            Some((last, joined)) if *last == key => joined.push_str(&text),
            _ => story.push((key, text)),
        }
    }
    story.into_iter().map(|(key, text)| format!("{key}: {text}")).collect()
}

/// Counts differ with the vocabulary.
fn usage_keys(usage: &Value) -> Value {
    usage.as_object().expect("an object").keys().cloned().collect()
}

/// The hosted service's own library was given tokens and gave events; the same text as our model's tokens has to give the
/// same events.
#[test]
fn streams_and_messages_are_those_of_the_official_library() {
    let server = server();
    let official = Tokenizer::official().expect("valid");
    let mut compared = 0;
    for case in ds4_testdata::json("api/official_streams.json")["cases"].as_array().expect("cases") {
        let id = case["id"].as_str().expect("an id");
        if !id.starts_with("messages-") {
            continue;
        }
        let tokens: Vec<u32> = serde_json::from_value(case["output_ids"].clone()).expect("ids");
        let text = official.decode_lossy(&tokens).replace("</think>", "{{/think}}").replace("｜DSML｜", "{{D}}");
        server.answers(&text);
        let mut body = case["request"].clone();
        if case["finish"] == "length" {
            let answer = Answer::spelled(&server.tokenizer, &text);
            body["max_tokens"] = json!(answer.tokens(&server.tokenizer, false).len());
        }
        let answer = server.post(PATH, &body);
        assert_eq!(answer.status, 200, "{id}: {}", answer.text);
        if let Some(events) = case["events"].as_array() {
            let named = |event: &Value| (event["event"].as_str().expect("a name").to_owned(), event["data"].clone());
            let expected: Vec<_> = events.iter().map(named).collect();
            assert_eq!(story(&answer.events()), story(&expected), "{id}");
        } else {
            assert_eq!(without_ids(answer.json()), without_ids(case["response"].clone()), "{id}");
        }
        compared += 1;
    }
    assert_eq!(compared, 12);
}

fn without_ids(mut message: Value) -> Value {
    message["id"] = json!("ID");
    message["model"] = json!("MODEL");
    message["usage"] = usage_keys(&message["usage"]);
    for block in message["content"].as_array_mut().expect("blocks") {
        for key in ["id", "signature"] {
            if let Some(id) = block.get_mut(key) {
                assert!(id.as_str().is_some_and(|id| !id.is_empty()));
                *id = json!("ID");
            }
        }
    }
    message
}

#[test]
fn the_three_counts_of_input_add_up_and_the_first_event_has_them() {
    let server = server();
    server.answers("{{/think}}Good.");
    let counts = |usage: &Value| {
        let count = |name: &str| usage[name].as_u64().expect("a count");
        assert_eq!(count("cache_creation_input_tokens"), 0);
        (count("input_tokens"), count("cache_read_input_tokens"), count("output_tokens"))
    };
    let body = ask("How is the weather?");
    let (first, cached, output) = counts(&server.post(PATH, &body).json()["usage"]);
    assert_eq!((cached, output), (0, 1 + server.tokenizer.encode("Good.").len() as u64));
    let events = server.post(PATH, &with(body.clone(), json!({ "stream": true }))).events();
    let opened = counts(&events[0].1["message"]["usage"]);
    let (_, end) = events.iter().find(|(name, _)| name == "message_delta").expect("an end");
    let told = counts(&end["usage"]);
    assert!(told.1 > 0, "asked again, the prompt is cached");
    assert_eq!(told.0 + told.1, first);
    assert_eq!((opened.0, opened.1, opened.2), (told.0, told.1, 0));
    let counted = server.post("/v1/messages/count_tokens", &body).json();
    assert_eq!(counted, json!({ "input_tokens": first }));
}

#[test]
fn a_turn_sent_back_costs_nothing_though_the_client_spells_it_anew() {
    let server = server();
    server.answers(CALLS);
    let body = with(ask("Weather?"), json!({ "tools": tools() }));
    let first = server.post(PATH, &body).json();
    assert_eq!(first["stop_reason"], "tool_use");
    let content = first["content"].as_array().expect("blocks");
    assert_eq!(content[2]["input"], json!({ "city": "Oslo é", "days": 2.0 }));
    let id = |index: usize| content[index]["id"].clone();
    assert!(id(2).as_str().is_some_and(|id| id.starts_with("toolu_00_") && id.len() == "toolu_00_".len() + 20));
    let computed = first["usage"]["input_tokens"].as_u64().expect("a count")
        + first["usage"]["output_tokens"].as_u64().expect("a count");

    let go_on = |city: &str, reasoning: &str| {
        let mut told = vec![
            json!({ "type": "text", "text": "Checking." }),
            json!({ "type": "tool_use", "id": id(2), "name": "get_weather", "input": { "days": 2, "city": city } }),
            json!({ "type": "tool_use", "id": id(3), "name": "get_time", "input": {}, "cache_control": { "type": "ephemeral" } }),
        ];
        if !reasoning.is_empty() {
            told.insert(0, json!({ "type": "thinking", "thinking": reasoning, "signature": "of another service" }));
        }
        let result = |index: usize| json!({ "type": "tool_result", "tool_use_id": id(index), "content": "fine" });
        let messages = json!([
            body["messages"][0],
            { "role": "assistant", "content": told },
            { "role": "user", "content": [result(2), result(3)] },
        ]);
        let usage = server.post(PATH, &with(body.clone(), json!({ "messages": messages }))).json()["usage"].clone();
        usage["cache_read_input_tokens"].as_u64().expect("a count")
    };
    server.answers("{{/think}}Good.");
    assert!(go_on("Bergen", "") < computed, "an edited call is what the client wrote");
    assert!(go_on("Oslo é", "I need something else.") < computed, "and so is edited reasoning");
    // The last token of a turn is sampled and not computed.
    assert!(go_on("Oslo é", "") >= computed - 1);
    assert!(go_on("Oslo é", "Need it.") >= computed - 1);
}

#[test]
fn a_signature_brings_a_turn_without_calls_back() {
    let server = server();
    // The second mark is not told, so a rendering of what was told has other tokens.
    server.answers("Hm.{{/think}}So {{/think}}it is.");
    let body = ask("Is it?");
    let first = server.post(PATH, &body).json();
    let content = &first["content"];
    assert_eq!(content[1]["text"], "So it is.");
    let computed = first["usage"]["input_tokens"].as_u64().expect("a count")
        + first["usage"]["output_tokens"].as_u64().expect("a count");
    let cached = |signature: &Value| {
        let thinking = json!({ "type": "thinking", "thinking": "Hm.", "signature": signature });
        let messages = json!([
            body["messages"][0],
            { "role": "assistant", "content": [thinking, content[1]] },
            { "role": "user", "content": "Sure?" },
        ]);
        let answer = server.post(PATH, &with(body.clone(), json!({ "messages": messages }))).json();
        answer["usage"]["cache_read_input_tokens"].as_u64().expect("a count")
    };
    assert!(cached(&json!("turn_of_nobody")) < computed);
    assert!(cached(&content[0]["signature"]) >= computed - 1);
}

#[test]
fn counting_needs_no_engine_and_knows_no_limit() {
    let server = server();
    server.answers(&"again and ".repeat(300));
    server.script.set_step(Duration::from_millis(20));
    let busy = with(ask("Go on"), json!({ "stream": true, "thinking": { "type": "disabled" } }));
    let response = agent().post(server.url(PATH)).send(busy.to_string()).expect("an answer");
    let mut reader = BufReader::new(response.into_body().into_reader());
    let mut line = String::new();
    reader.read_line(&mut line).expect("readable");
    let long = with(ask(&"word ".repeat(5000)), json!({ "max_tokens": null, "tools": tools(), "system": "Be brief." }));
    let counted = server.post("/messages/count_tokens?beta=true", &long);
    let count = counted.json()["input_tokens"].as_u64().expect("a count");
    assert!(count > 4096, "{count}");
    assert_eq!(server.metric("ds4_requests_in_flight"), 1.0, "it was answered while the engine worked");
    drop(reader);

    let refused = server.post("/anthropic/v1/messages", &long);
    assert_eq!(refused.status, 400);
    let expected = json!({ "type": "invalid_request_error", "message": format!("prompt is too long: {count} tokens > 4096 maximum") });
    assert_eq!(refused.json()["error"], expected);
    assert_eq!(refused.json()["request_id"], refused.headers["request-id"].to_str().expect("text"));
}

#[test]
fn refusals_have_the_shape_that_the_clients_look_for() {
    let server = server();
    for (path, body, status, kind, about) in [
        (PATH, "{", 400, "invalid_request_error", "not valid JSON"),
        (
            PATH,
            r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}"#,
            400,
            "invalid_request_error",
            "max_tokens",
        ),
        (
            PATH,
            r#"{"messages": [{"role": "user", "content": []}]}"#,
            400,
            "invalid_request_error",
            "messages[0].content",
        ),
        (
            PATH,
            r#"{"messages": [{"role": "user", "content": "x"}], "stop_sequences": [""]}"#,
            400,
            "invalid_request_error",
            "stop_sequences[0]",
        ),
        (
            PATH,
            r#"{"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "any"}}"#,
            400,
            "invalid_request_error",
            "no tools",
        ),
        ("/v1/messages/batches", "{}", 404, "not_found_error", "/v1/messages/batches"),
    ] {
        let answer = server.send(path, body, &[]);
        assert_eq!(answer.status, status, "{body}");
        let json = answer.json();
        assert_eq!((&json["type"], &json["error"]["type"]), (&json!("error"), &json!(kind)), "{body}");
        let message = json["error"]["message"].as_str().expect("a sentence");
        assert!(message.contains(about), "{body}: {message}");
    }
    let answer = server.get(PATH);
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (405, &json!("invalid_request_error")));
}

/// The SDK's loop over tools asks the server to keep the conversation, and sends all of it only when it sees these details.
#[test]
fn a_thread_is_refused_in_words_on_which_clients_go_on_without() {
    let server = server();
    let refused = server.post(PATH, &with(ask("Hello"), json!({ "thread": { "type": "create" } })));
    assert_eq!(refused.status, 400);
    let details = json!({ "error_code": "thread_unsupported_request", "unsupported": ["thread"] });
    assert_eq!(refused.json()["error"]["details"], details);
}

#[test]
fn a_last_assistant_message_is_continued() {
    let server = server();
    // The script counts from the turn's beginning, which the client wrote.
    server.answers("The answer is 42.");
    let messages = json!([{ "role": "user", "content": "Well?" }, { "role": "assistant", "content": "The answer" }]);
    let body = with(ask(""), json!({ "messages": messages, "thinking": { "type": "disabled" }, "stream": true }));
    let events = server.post(PATH, &body).events();
    let story = story(&events);
    assert_eq!(story[1..4], ["start 0: {\"type\":\"text\",\"text\":\"\"}", "text_delta 0:  is 42.", "stop 0: "]);
    server.answers("{{/think}}The answer is 42.");
    let body = with(body, json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 }, "stream": false }));
    let content = &server.post(PATH, &body).json()["content"];
    assert_eq!(content, &json!([{ "type": "text", "text": " is 42." }]), "reasoning cannot come after text");
}

#[test]
fn choices_of_tools_are_enforced() {
    let server = server();
    let body = with(ask("Weather?"), json!({ "tools": tools(), "thinking": { "type": "disabled" } }));
    server.answers(CALLS.split_once("{{/think}}").expect("text").1);
    let choice = json!({ "type": "auto", "disable_parallel_tool_use": true });
    let content = server.post(PATH, &with(body.clone(), json!({ "tool_choice": choice }))).json()["content"].clone();
    let names: Vec<&Value> = content.as_array().expect("blocks").iter().map(|block| &block["name"]).collect();
    assert_eq!(names, [&Value::Null, &json!("get_weather")], "one call and no more");

    let answer = server.post(PATH, &with(body.clone(), json!({ "tool_choice": { "type": "none" } }))).json();
    assert_eq!(answer["stop_reason"], "end_turn");
    assert_eq!(answer["content"].as_array().map(Vec::len), Some(1), "what looks like a call is text");

    let noise =
        |text: &str| " x".repeat(Answer::spelled(&server.tokenizer, text).tokens(&server.tokenizer, false).len());
    let opening = noise("\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_time\">\n");
    server.answers(&format!("{opening}</{{{{D}}}}invoke>\n</{{{{D}}}}tool_calls>"));
    let answer =
        server.post(PATH, &with(body, json!({ "tool_choice": { "type": "tool", "name": "get_time" } }))).json();
    assert_eq!((&answer["content"][0]["name"], &answer["content"][0]["input"]), (&json!("get_time"), &json!({})));
    assert_eq!(answer["stop_reason"], "tool_use");
}

/// Calls are held to the tools that the model knows of, and one that it searched for is among them.
#[test]
fn a_tool_that_was_found_can_be_called() {
    let server = server();
    server.answers("\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"WebFetch\">\n</{{D}}invoke>\n</{{D}}tool_calls>");
    let messages = json!([
        { "role": "user", "content": "Fetch it" },
        { "role": "assistant", "content": [{ "type": "tool_use", "id": "a", "name": "ToolSearch", "input": {} }] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "a", "content": [
            { "type": "tool_reference", "tool_name": "WebFetch" },
        ] }] },
    ]);
    let fetch = json!({ "name": "WebFetch", "input_schema": { "type": "object" }, "defer_loading": true });
    let tools = json!([{ "name": "ToolSearch", "input_schema": { "type": "object" } }, fetch]);
    let fields = json!({ "messages": messages, "tools": tools, "thinking": { "type": "disabled" } });
    let answer = server.post(PATH, &with(ask(""), fields)).json();
    assert_eq!(answer["content"][0]["name"], "WebFetch", "{answer}");
}

#[test]
fn a_format_and_a_turn_to_continue_exclude_each_other() {
    let server = server();
    server.answers("{\"a\": 1}");
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"] });
    let format = json!({ "format": { "type": "json_schema", "schema": schema } });
    let body = with(ask("One"), json!({ "output_config": format, "thinking": { "type": "disabled" } }));
    assert_eq!(server.post(PATH, &body).json()["content"][0]["text"], "{\"a\": 1}");
    let messages = json!([{ "role": "user", "content": "One" }, { "role": "assistant", "content": "{" }]);
    let refused = server.post(PATH, &with(body, json!({ "messages": messages })));
    assert_eq!(refused.status, 400);
    let message = refused.json()["error"]["message"].as_str().expect("a sentence").to_owned();
    assert!(message.starts_with("output_config.format: "), "{message}");
}

#[test]
fn a_call_that_was_cut_off_is_not_executed() {
    let server = server();
    let text = CALLS.split_once("{{/think}}").expect("text").1;
    server.answers(text);
    let upto = text.split_once(" é").expect("text").0;
    let cut = Answer::spelled(&server.tokenizer, upto).tokens(&server.tokenizer, false).len();
    let fields = json!({ "tools": tools(), "thinking": { "type": "disabled" }, "max_tokens": cut });
    let body = with(ask("Weather?"), fields);
    let answer = server.post(PATH, &body).json();
    assert_eq!(answer["stop_reason"], "max_tokens");
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "Checking." }]));
    let events = server.post(PATH, &with(body, json!({ "stream": true }))).events();
    let story = story(&events);
    assert!(story.contains(&"input_json_delta 1: {\"city\": \"Oslo".to_owned()), "{story:#?}");
    assert!(story[story.len() - 2].contains("max_tokens"), "{story:#?}");
}

#[test]
fn large_integers_keep_their_digits() {
    let server = server();
    server.answers(
        "\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_time\">\n<{{D}}parameter name=\"at\" string=\"false\">\
         12345678901234567890123</{{D}}parameter>\n</{{D}}invoke>\n</{{D}}tool_calls>",
    );
    let body = with(ask("Time?"), json!({ "tools": tools(), "thinking": { "type": "disabled" } }));
    let answer = server.post(PATH, &body).text;
    assert!(answer.contains("12345678901234567890123"), "{answer}");
}

/// Events of a prompt whose computation takes 50 steps of 10 ms, with a keepalive after each.
fn slow(thinking: &str) -> Vec<(String, Value)> {
    let config = ServerConfig { keepalive: Duration::from_millis(4), ..ServerConfig::default() };
    let server = Server::scripted(config, EngineOptions { prefill_chunk: Some(4), ..options() });
    server.answers(if thinking == "enabled" { "Hm.{{/think}}Yes." } else { "Yes." });
    server.script.set_step(Duration::from_millis(10));
    let body = with(ask(&"a b c d e f ".repeat(20)), json!({ "stream": true, "thinking": { "type": thinking } }));
    server.post(PATH, &body).events()
}

#[test]
fn a_long_silence_is_filled_with_pings_and_then_with_content() {
    for thinking in ["enabled", "disabled"] {
        let events = slow(thinking);
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "message_start");
        let opened = usize::from(thinking == "enabled");
        assert_eq!(names[1..=opened], ["content_block_start"][..opened], "the block of reasoning is opened at once");
        assert!(names[1 + opened..=30 + opened].iter().all(|name| *name == "ping"), "{names:?}");
        let after: Vec<&Value> = events[31 + opened..].iter().map(|(_, event)| event).collect();
        let is_empty = |event: &&&Value| event["delta"]["thinking"] == "";
        let first = after.iter().position(|event| event["type"] == "content_block_delta").expect("content");
        assert!(is_empty(&&after[first]), "{after:?}");
        assert!(after.iter().filter(is_empty).count() > 3, "{after:?}");
        // Whatever came between, blocks open and close in order.
        let story = story(&events);
        let expected = if thinking == "enabled" { "thinking_delta 0: Hm." } else { "thinking_delta 0: " };
        assert!(story.contains(&expected.to_owned()), "{story:#?}");
        assert!(story.contains(&"signature_delta 0: ID".to_owned()), "{story:#?}");
        assert!(story.contains(&"text_delta 1: Yes.".to_owned()), "{story:#?}");
    }
}

#[test]
fn a_failure_in_a_stream_is_told_and_does_not_look_like_an_end() {
    let server = server();
    server.answers("one two three four five");
    server.script.fail_at(3);
    let body = with(ask("Count"), json!({ "stream": true, "thinking": { "type": "disabled" } }));
    let answer = server.post(PATH, &body);
    assert!(!answer.is_whole, "the connection was closed as if all were well");
    let (name, event) = answer.events().pop().expect("an event");
    assert_eq!((name.as_str(), &event["error"]["type"]), ("error", &json!("api_error")));
    assert!(event["error"]["message"].as_str().is_some_and(|message| message.contains("server error")), "{event}");
    assert!(!answer.text.contains("message_stop"));
}

#[test]
fn who_goes_away_costs_nothing_more() {
    let server = server();
    server.answers(&"again and ".repeat(500));
    server.script.set_step(Duration::from_millis(5));
    let body = with(ask("Go on"), json!({ "stream": true, "thinking": { "type": "disabled" } }));
    let response = agent().post(server.url(PATH)).send(body.to_string()).expect("an answer");
    let mut reader = BufReader::new(response.into_body().into_reader());
    let mut line = String::new();
    while !line.contains("text_delta") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("readable"), 0, "the stream ended");
    }
    drop(reader);
    server.wait_for("ds4_requests_total{api=\"messages\",outcome=\"cancelled\"}", 1.0);
    assert_eq!(server.metric("ds4_requests_in_flight"), 0.0);
}
