//! Chat completions.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use ds4_engine::EngineOptions;
use ds4_scripted::Answer;
use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Server, agent, options};

const CALLS: &str = "Need it.{{/think}}Checking.\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_weather\">\n\
                     <{{D}}parameter name=\"city\" string=\"true\">Oslo é</{{D}}parameter>\n\
                     <{{D}}parameter name=\"days\" string=\"false\">2.0</{{D}}parameter>\n</{{D}}invoke>\n\
                     <{{D}}invoke name=\"get_time\">\n</{{D}}invoke>\n</{{D}}tool_calls>";

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "get_weather", "parameters": { "type": "object" } } },
        { "type": "function", "function": { "name": "get_time" } },
    ])
}

fn ask(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }] })
}

/// What the chunks of a stream say, one line per kind of delta, deltas of one kind joined.
fn story(frames: &[Value]) -> Vec<String> {
    let mut story: Vec<(String, String)> = Vec::new();
    for frame in frames {
        if frame == "[DONE]" {
            story.push(("done".to_owned(), String::new()));
            continue;
        }
        let choice = &frame["choices"][0];
        let delta = &choice["delta"];
        let (kind, text) = if delta["role"].is_string() {
            ("role".to_owned(), format!("{} {}", delta["content"], delta["reasoning_content"]))
        } else if let Some(text) = delta["reasoning_content"].as_str() {
            ("reasoning".to_owned(), text.to_owned())
        } else if let Some(text) = delta["content"].as_str() {
            ("text".to_owned(), text.to_owned())
        } else if let Some(call) = delta["tool_calls"].get(0) {
            let (index, function) = (&call["index"], &call["function"]);
            match function["name"].as_str() {
                Some(name) => (format!("call {index}"), format!("{name} {} {}", call["type"], function["arguments"])),
                None => (format!("arguments {index}"), function["arguments"].as_str().expect("text").to_owned()),
            }
        } else if let Some(reason) = choice["finish_reason"].as_str() {
            ("finish".to_owned(), format!("{reason} usage {}", frame["usage"].is_object()))
        } else {
            ("usage".to_owned(), frame["usage"]["total_tokens"].to_string())
        };
        match story.last_mut() {
            Some((last, joined)) if *last == kind => joined.push_str(&text),
            _ => story.push((kind, text)),
        }
    }
    story.into_iter().map(|(kind, text)| format!("{kind}: {text}")).collect()
}

#[test]
fn a_stream_tells_reasoning_text_and_calls_in_order() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(CALLS);
    let mut body = ask("Weather?");
    body["tools"] = tools();
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let answer = server.post("/v1/chat/completions", &body);
    assert!(answer.is_whole);
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    let frames = answer.frames();
    let usage = frames.iter().find(|frame| frame["usage"].is_object()).expect("usage")["usage"].clone();
    let expected = [
        "role: null \"\"".to_owned(),
        "reasoning: Need it.".to_owned(),
        "text: Checking.".to_owned(),
        "call 0: get_weather \"function\" \"\"".to_owned(),
        "arguments 0: {\"city\": \"Oslo é\", \"days\": 2.0}".to_owned(),
        "call 1: get_time \"function\" \"\"".to_owned(),
        "arguments 1: {}".to_owned(),
        "finish: tool_calls usage false".to_owned(),
        format!("usage: {}", usage["total_tokens"]),
        "done: ".to_owned(),
    ];
    assert_eq!(story(&frames), expected);
    let ids: Vec<&str> =
        frames.iter().filter_map(|frame| frame["choices"][0]["delta"]["tool_calls"][0]["id"].as_str()).collect();
    assert!(ids.len() == 2 && ids[0].starts_with("call_00_") && ids[1].starts_with("call_01_"), "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == "call_00_".len() + 20));
    let first = |name: &str| frames[0][name].clone();
    for frame in &frames[..frames.len() - 1] {
        assert_eq!(
            (&frame["id"], &frame["created"], &frame["model"]),
            (&first("id"), &first("created"), &first("model"))
        );
    }
    let (prompt, completion) = (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64());
    assert_eq!(usage["total_tokens"].as_u64(), Some(prompt.expect("a count") + completion.expect("a count")));
    let reasoning = server.tokenizer.encode("Need it.").len();
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], reasoning);

    // Without the option the usage comes with the end.
    body["stream_options"] = Value::Null;
    let story = story(&server.post("/v1/chat/completions", &body).frames());
    assert_eq!(story[story.len() - 2..], ["finish: tool_calls usage true", "done: "]);
}

#[test]
fn a_turn_sent_back_costs_nothing_though_the_client_spells_it_anew() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(CALLS);
    let mut body = ask("Weather?");
    body["tools"] = tools();
    let first = server.post("/v1/chat/completions", &body).json();
    let message = &first["choices"][0]["message"];
    assert_eq!(first["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(message["reasoning_content"], "Need it.");
    let computed = first["usage"]["total_tokens"].as_u64().expect("a count");
    let id = |index: usize| message["tool_calls"][index]["id"].clone();

    // JavaScript's spelling, and the reasoning is lost.
    let told = |city: &str| {
        json!({ "role": "assistant", "content": "Checking.", "tool_calls": [
            { "id": id(0), "type": "function", "function": { "name": "get_weather", "arguments": format!("{{\"city\":\"{city}\",\"days\":2}}") } },
            { "id": id(1), "type": "function", "function": { "name": "get_time", "arguments": "{}" } },
        ] })
    };
    let result = |index: usize| json!({ "role": "tool", "tool_call_id": id(index), "content": "fine" });
    let go_on = |city: &str| {
        let mut body = body.clone();
        body["messages"] = json!([body["messages"][0], told(city), result(0), result(1)]);
        server.post("/v1/chat/completions", &body).json()["usage"]["prompt_cache_hit_tokens"].as_u64().expect("a count")
    };
    server.answers("{{/think}}Good.");
    assert!(go_on("Bergen") < computed, "an edited call is what the client wrote");
    // The last token of a turn is sampled and not computed.
    assert!(go_on("Oslo é") >= computed - 1);
}

#[test]
fn a_demanded_call_comes_whatever_the_model_would_say() {
    let server = Server::scripted(ServerConfig::default(), options());
    let call = |choice: Value, thinking: &str, answer: &str| {
        server.answers(answer);
        let mut body = ask("Hello");
        body["tools"] = tools();
        body["tool_choice"] = choice;
        body["thinking"] = json!({ "type": thinking });
        body["max_tokens"] = json!(200);
        let answer = server.post("/v1/chat/completions", &body).json();
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
        let message = answer["choices"][0]["message"].clone();
        (message["tool_calls"][0]["function"]["name"].as_str().expect("a name").to_owned(), message)
    };
    // Where the opening is forced, the script says something else of the same length.
    let noise = |text: &str| {
        let answer = Answer::spelled(&server.tokenizer, text);
        " x".repeat(answer.tokens(&server.tokenizer, true).len())
    };
    let close = "</{{D}}invoke>\n</{{D}}tool_calls>";
    let named = noise("\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_time\">\n");
    let choice = json!({ "type": "function", "function": { "name": "get_time" } });
    let (name, message) = call(choice.clone(), "disabled", &format!("{named}{close}"));
    assert_eq!((name.as_str(), &message["content"]), ("get_time", &Value::Null));
    let (name, message) = call(choice, "enabled", &format!("Hm.{{{{/think}}}}{named}{close}"));
    assert_eq!((name.as_str(), message["reasoning_content"].as_str()), ("get_time", Some("Hm.")));
    for thinking in ["disabled", "enabled"] {
        let before = if thinking == "enabled" { "Hm.{{/think}}" } else { "" };
        // Which tool it is, chance decides: the script's tokens are all impossible.
        let answer = format!("{before}{}{}", noise("\n\n<{{D}}tool_calls>\n"), " x".repeat(40));
        server.answers(&answer);
        let mut body = ask("Hello");
        body["tools"] = tools();
        body["tool_choice"] = json!("required");
        body["thinking"] = json!({ "type": thinking });
        body["max_tokens"] = json!(60);
        let answer = server.post("/v1/chat/completions", &body).json();
        let name = answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"].as_str();
        assert!(matches!(name, Some("get_weather" | "get_time")), "{answer}");
    }
}

#[test]
fn a_stop_sequence_counts_in_the_answer_only() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("Say END now.{{/think}}one two END three");
    let mut body = ask("Count");
    body["stop"] = json!(["END"]);
    let answer = server.post("/v1/chat/completions", &body).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["reasoning_content"], "Say END now.");
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("one two "), &json!("stop")));
}

#[test]
fn quoted_markup_in_the_reasoning_is_not_executed() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(
        "I could <{{D}}tool_calls>\n<{{D}}invoke name=\"get_time\">\n</{{D}}invoke>\n</{{D}}tool_calls>{{/think}}No.",
    );
    let mut body = ask("Time?");
    body["tools"] = tools();
    // The script wants the marker; the sampler must take something else.
    body["max_tokens"] = json!(30);
    let answer = server.post("/v1/chat/completions", &body).json();
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none(), "{answer}");
}

#[test]
fn a_long_prefill_is_not_silent_and_the_first_chunk_comes_at_once() {
    let config = ServerConfig { keepalive: Duration::from_millis(60), ..ServerConfig::default() };
    let server = Server::scripted(config, EngineOptions { prefill_chunk: Some(4), ..options() });
    server.answers("Hm.{{/think}}Yes.");
    server.script.set_step(Duration::from_millis(50));
    let mut body = ask("a b c d e f g h i j k l m n o p q r s t u v w x y z");
    body["stream"] = json!(true);
    let started = Instant::now();
    let response = agent().post(server.url("/v1/chat/completions")).send(body.to_string()).expect("an answer");
    let mut lines = BufReader::new(response.into_body().into_reader()).lines();
    let first = lines.next().expect("a line").expect("readable");
    assert!(first.contains("\"role\":\"assistant\""), "{first}");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    let rest: Vec<String> = lines.map(|line| line.expect("readable")).filter(|line| !line.is_empty()).collect();
    let silent = rest.iter().take_while(|line| !line.contains("reasoning_content")).count();
    assert!(silent >= 2, "{rest:#?}");
    assert!(rest[0].contains("\"choices\":[]"), "{}", rest[0]);
    assert_eq!(rest.last().map(String::as_str), Some("data: [DONE]"));
}

#[test]
fn who_goes_away_costs_nothing_more() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(&"again and ".repeat(500));
    server.script.set_step(Duration::from_millis(5));
    let mut body = ask("Go on");
    body["stream"] = json!(true);
    body["thinking"] = json!({ "type": "disabled" });
    let response = agent().post(server.url("/v1/chat/completions")).send(body.to_string()).expect("an answer");
    let mut reader = BufReader::new(response.into_body().into_reader());
    let mut line = String::new();
    while !line.contains("\"delta\":{\"content\":\"a") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("readable"), 0, "the stream ended");
    }
    assert_eq!(server.metric("ds4_requests_in_flight"), 1.0);
    drop(reader);
    server.wait_for("ds4_requests_in_flight", 0.0);
    assert_eq!(server.metric("ds4_requests_total{api=\"chat\",outcome=\"cancelled\"}"), 1.0);
    let told = server.metric("ds4_completion_tokens_total");
    assert!(told < 500.0, "{told} tokens were sampled for nobody");

    // Not streamed, too: here nothing was sent before the end.
    body["stream"] = json!(false);
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_millis(200))).build().new_agent();
    assert!(agent.post(server.url("/v1/chat/completions")).send(body.to_string()).is_err());
    server.wait_for("ds4_requests_total{api=\"chat\",outcome=\"cancelled\"}", 2.0);

    server.answers("Fine.");
    let answer = server.post("/v1/chat/completions", &body).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "Fine.");
}

#[test]
fn a_failure_in_a_stream_is_told_and_does_not_look_like_an_end() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("one two three four five");
    server.script.fail_at(3);
    let mut body = ask("Count");
    body["thinking"] = json!({ "type": "disabled" });
    body["stream"] = json!(true);
    let answer = server.post("/v1/chat/completions", &body);
    let last = answer.frames().pop().expect("a frame");
    assert_eq!(last["error"]["type"], "server_error");
    let message = last["error"]["message"].as_str().expect("a sentence");
    assert!(message.contains("server error") && message.contains("unplugged"), "{message}");
    assert!(!answer.is_whole, "the connection was closed as if all were well");
    assert!(!answer.text.contains("[DONE]"));
}

#[test]
fn log_probabilities_stand_beside_their_text() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("Hm.\n{{/think}}\n\nOne, two.");
    let mut body = ask("Count");
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(2);
    let answer = server.post("/v1/chat/completions", &body).json();
    let logprobs = &answer["choices"][0]["logprobs"];
    let joined = |name: &str| -> String {
        logprobs[name].as_array().expect(name).iter().filter_map(|entry| entry["token"].as_str()).collect()
    };
    assert_eq!((joined("content").as_str(), joined("reasoning_content").trim_end()), ("One, two.", "Hm."));
    let entry = &logprobs["content"][0];
    assert_eq!(entry["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(entry["top_logprobs"][0]["token"], entry["token"]);
    let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
    assert_eq!(String::from_utf8(bytes).expect("UTF-8"), entry["token"].as_str().expect("text"));
}

#[test]
fn the_demo_model_adds() {
    let config = ServerConfig { thinking: ds4_chat::render::Thinking::Off, ..ServerConfig::default() };
    let server = Server::nano(config);
    let mut body = ask("What is 12 + 30?");
    body["temperature"] = json!(0);
    let whole = server.post("/v1/chat/completions", &body).json();
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.contains("42"), "{text}");
    body["stream"] = json!(true);
    let told: String = server
        .post("/v1/chat/completions", &body)
        .frames()
        .iter()
        .filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(told, text);
}
