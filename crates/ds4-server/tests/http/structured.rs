//! Answers that follow schemas, and calls that are well-formed, whatever the model would rather say.

use std::thread;

use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Server, options};

fn ask(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 400 })
}

/// Small enough for any model: every answer of this form ends.
fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 120 },
            "role": { "enum": ["admin", "guest", null] },
            "tags": { "type": "array", "items": { "type": "string", "pattern": "^[a-z]{1,6}$" }, "maxItems": 3 },
        },
        "required": ["name", "age", "role", "tags"],
        "additionalProperties": false,
    })
}

fn check_person(value: &Value) {
    let entries = value.as_object().unwrap_or_else(|| panic!("{value} is no object"));
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["name", "age", "role", "tags"], "{value}");
    assert!(value["name"].as_str().is_some_and(|name| name.chars().count() <= 12), "{value}");
    assert!(value["age"].as_u64().is_some_and(|age| age <= 120), "{value}");
    assert!([json!("admin"), json!("guest"), Value::Null].contains(&value["role"]), "{value}");
    let tags = value["tags"].as_array().expect("an array");
    let is_tag = |tag: &str| (1..=6).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_lowercase());
    assert!(tags.len() <= 3 && tags.iter().all(|tag| tag.as_str().is_some_and(is_tag)), "{value}");
}

fn with_schema(mut body: Value, schema: Value) -> Value {
    body["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } });
    body
}

fn content(answer: &Value) -> Value {
    let content = answer["choices"][0]["message"]["content"].as_str().expect("text");
    serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {content}"))
}

#[test]
fn an_answer_follows_its_schema_whatever_the_model_would_rather_say() {
    let server = Server::scripted(ServerConfig::default(), options());
    let mut body = with_schema(ask("Hello"), person());
    for (thinking, script) in [
        ("disabled", "Sure:\n```json\n{\"name\": \"Ann\"}\n```\nAnything else?"),
        ("enabled", "Free {reasoning}.{{/think}}{\"name\": \"Ann\", \"age\": -1"),
        ("enabled", "No call: {{D}} is not to be sampled here.{{/think}}\n\n<{{D}}tool_calls>\n"),
    ] {
        server.answers(script);
        body["thinking"] = json!({ "type": thinking });
        for seed in 0..5 {
            body["seed"] = json!(seed);
            let answer = server.post("/v1/chat/completions", &body).json();
            assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
            check_person(&content(&answer));
        }
    }
}

#[test]
fn the_demo_model_follows_schemas_the_same_way_alone_and_beside_others() {
    let server = Server::nano(ServerConfig { client_sampling_in_thinking: true, ..ServerConfig::default() });
    let body = |seed: u64| {
        let mut body = with_schema(ask("Tell me about Mia and the river."), person());
        body["thinking"] = json!({ "type": "disabled" });
        body["seed"] = json!(seed);
        body
    };
    let ask = |seed| server.post("/v1/chat/completions", &body(seed)).json()["choices"][0]["message"].clone();
    let alone: Vec<Value> = (0..4).map(ask).collect();
    for message in &alone {
        check_person(&serde_json::from_str(message["content"].as_str().expect("text")).expect("JSON"));
    }
    let together: Vec<Value> = thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|seed| scope.spawn(move || ask(seed))).collect();
        running.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    assert_eq!(alone, together);

    // Streamed, it is the same text.
    let mut streamed = body(2);
    streamed["stream"] = json!(true);
    let frames = server.post("/v1/chat/completions", &streamed).frames();
    let text: String = frames.iter().filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(json!(text), alone[2]["content"]);
}

#[test]
fn any_object_is_asked_for_with_the_word_json() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("{\"a\": [1, 2]} and more");
    let mut body = ask("Some Json, please");
    body["thinking"] = json!({ "type": "disabled" });
    body["response_format"] = json!({ "type": "json_object" });
    let answer = server.post("/v1/chat/completions", &body).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "{\"a\": [1, 2]}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // The bracket ends the answer: no token is sampled to end it.
    assert_eq!(answer["usage"]["completion_tokens"], server.tokenizer.encode("{\"a\": [1, 2]}").len());

    body["messages"][0]["content"] = json!("An object, please");
    let refused = server.post("/v1/chat/completions", &body);
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("response_format")));
}

#[test]
fn a_limit_may_cut_it() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("{\"name\": \"Annabel\", \"age\": 5");
    let mut body = with_schema(ask("Hello"), person());
    body["thinking"] = json!({ "type": "disabled" });
    body["max_tokens"] = json!(5);
    let answer = server.post("/v1/chat/completions", &body).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let text = answer["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(text.starts_with("{\"name\": \"A"), "{text}");
}

#[test]
fn a_schema_that_cannot_be_enforced_is_refused_with_the_reason_before_any_work() {
    let server = Server::scripted(ServerConfig::default(), options());
    for (schema, reason) in [
        (json!({ "type": "string", "pattern": "(?=a)b" }), "look"),
        (json!({ "not": {} }), "not"),
        (json!({ "$ref": "https://example.com/a.json" }), "example.com"),
        (json!({ "type": "string", "format": "color" }), "color"),
    ] {
        let answer = server.post("/v1/chat/completions", &with_schema(ask("Hello"), schema.clone()));
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (400, &json!("unsupported_value")), "{schema}: {error}");
        assert_eq!(error["param"], "response_format");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(reason)), "{schema}: {error}");
    }
    let mut body = ask("Hello");
    body["tools"] = json!([{ "type": "function", "function": { "name": "f", "strict": true,
        "parameters": { "type": "object", "properties": { "a": { "oneOf": [{ "type": "string" }, { "minLength": 3 }] } } } } }]);
    let answer = server.post("/v1/chat/completions", &body);
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["param"]), (400, &json!("tools")), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains("\"f\"")), "{error}");
    assert_eq!(server.metric("ds4_requests_in_flight"), 0.0);
    assert_eq!(server.metric("ds4_completion_tokens_total"), 0.0);
}

const STRICT_TOOL: &str = r#"[{"type": "function", "function": {"name": "book_table", "strict": true, "parameters": {
    "type": "object", "properties": {
        "guests": {"type": "integer", "minimum": 1, "maximum": 9},
        "when": {"type": "string", "enum": ["lunch", "dinner"]},
        "note": {"type": ["string", "null"], "maxLength": 8}},
    "required": ["guests", "when", "note"], "additionalProperties": false}}}]"#;

fn check_booking(call: &Value) {
    assert_eq!(call["function"]["name"], "book_table");
    let arguments = call["function"]["arguments"].as_str().expect("text");
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error}: {arguments}"));
    assert_eq!(arguments.as_object().expect("an object").len(), 3, "{arguments}");
    assert!(arguments["guests"].as_u64().is_some_and(|guests| (1..=9).contains(&guests)), "{arguments}");
    assert!(["lunch", "dinner"].contains(&arguments["when"].as_str().expect("text")), "{arguments}");
    assert!(arguments["note"].is_null() || arguments["note"].as_str().is_some_and(|note| note.chars().count() <= 8));
}

#[test]
fn strict_calls_have_the_arguments_of_their_schema() {
    let server = Server::scripted(ServerConfig::default(), options());
    let tools: Value = serde_json::from_str(STRICT_TOOL).expect("JSON");
    for (thinking, choice, script) in [
        ("disabled", "required", "no call at all"),
        ("enabled", "required", "Hm.{{/think}}no call at all"),
        // Everything is wrong after the marker: names, types, tags.
        (
            "disabled",
            "auto",
            "Well.\n\n<{{D}}calls>\n<{{D}}invoke name=\"bok\">\n<{{D}}parameter name=\"x\" string=\"true\">many</{{D}}invoke>",
        ),
    ] {
        server.answers(script);
        let mut body = ask("A table, please");
        body["tools"] = tools.clone();
        body["tool_choice"] = json!(choice);
        body["parallel_tool_calls"] = json!(false);
        body["thinking"] = json!({ "type": thinking });
        for seed in 0..4 {
            body["seed"] = json!(seed);
            let answer = server.post("/v1/chat/completions", &body).json();
            assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
            let calls = answer["choices"][0]["message"]["tool_calls"].as_array().expect("calls");
            assert_eq!(calls.len(), 1);
            check_booking(&calls[0]);
        }
    }
}

#[test]
fn a_call_that_goes_wrong_is_put_right_as_it_is_written() {
    let server = Server::scripted(ServerConfig::default(), options());
    let mut body = ask("Weather?");
    body["tools"] = json!([{ "type": "function", "function": { "name": "get_weather" } }]);
    body["thinking"] = json!({ "type": "disabled" });
    let call = |script: &str| {
        server.answers(script);
        let answer = server.post("/v1/chat/completions", &body).json();
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
        answer["choices"][0]["message"]["tool_calls"][0]["function"].clone()
    };
    // A tag that is closed by the wrong name.
    let function = call(
        "\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_weather\">\n<{{D}}parameter name=\"city\" string=\"true\">Oslo\
         </{{D}}parameters>\n</{{D}}invoke>\n</{{D}}tool_calls>",
    );
    assert_eq!(function["name"], "get_weather");
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
    assert_eq!(arguments["city"], "Oslo");
    // Text that has closing tags of other languages, and the marker's spelling in ordinary tokens, is text.
    let html = "<b>Oslo</b> </｜DSML｜parameter>";
    let function = call(&format!(
        "\n\n<{{{{D}}}}tool_calls>\n<{{{{D}}}}invoke name=\"get_weather\">\n<{{{{D}}}}parameter name=\"city\" string=\"true\">{html}\
         </{{{{D}}}}parameter>\n</{{{{D}}}}invoke>\n</{{{{D}}}}tool_calls>"
    ));
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
    assert_eq!(arguments, json!({ "city": html }));
}

#[test]
fn a_format_and_tools_together_give_one_or_the_other() {
    let server = Server::scripted(ServerConfig::default(), options());
    let mut body = with_schema(ask("A table, please"), person());
    body["tools"] = serde_json::from_str(STRICT_TOOL).expect("JSON");
    body["thinking"] = json!({ "type": "disabled" });
    body["parallel_tool_calls"] = json!(false);
    server.answers("{\"name\": \"Ann\", ");
    let answer = server.post("/v1/chat/completions", &body).json();
    check_person(&content(&answer));
    server.answers("\n\n<{{D}}tool_calls>");
    let answer = server.post("/v1/chat/completions", &body).json();
    check_booking(&answer["choices"][0]["message"]["tool_calls"][0]);
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn responses_follow_schemas_and_strict_tools_too() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("Sure, here you are");
    let mut body = json!({
        "input": "Hello", "max_output_tokens": 400, "seed": 1, "store": false, "reasoning": { "effort": "none" },
        "text": { "format": { "type": "json_schema", "name": "x", "strict": true, "schema": person() } },
    });
    let answer = server.post("/v1/responses", &body).json();
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    check_person(&serde_json::from_str(text).expect("JSON"));

    body["text"]["format"]["schema"] = json!({ "not": {} });
    let refused = server.post("/v1/responses", &body);
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("text.format")));

    let tools: Value = serde_json::from_str(STRICT_TOOL).expect("JSON");
    let mut tool = tools[0]["function"].clone();
    tool["type"] = json!("function");
    body["text"] = Value::Null;
    body["tools"] = json!([tool]);
    body["tool_choice"] = json!("required");
    body["parallel_tool_calls"] = json!(false);
    let answer = server.post("/v1/responses", &body).json();
    let call = &answer["output"][0];
    check_booking(&json!({ "function": { "name": call["name"], "arguments": call["arguments"] } }));
}

#[test]
fn messages_follow_schemas_too() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("Free reasoning.{{/think}}Sure, here you are");
    let mut body = json!({
        "max_tokens": 400, "seed": 1, "thinking": { "type": "enabled" },
        "messages": [{ "role": "user", "content": "Hello" }],
        "output_config": { "format": { "type": "json_schema", "schema": person() } },
    });
    let answer = server.post("/v1/messages", &body).json();
    let blocks = answer["content"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let text = blocks.iter().find(|block| block["type"] == "text").expect("an answer")["text"].as_str().expect("text");
    check_person(&serde_json::from_str(text).expect("JSON"));
    assert_eq!(answer["stop_reason"], "end_turn");

    // An answer that is begun already cannot be held to a format from its start.
    body["messages"] = json!([{ "role": "user", "content": "Hello" }, { "role": "assistant", "content": "Well" }]);
    body["thinking"] = json!({ "type": "disabled" });
    let refused = server.post("/v1/messages", &body);
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("cannot continue a message"), "{}", refused.text);
}
