//! Responses.

use std::time::Duration;

use ds4_engine::EngineOptions;
use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Answer, Server, agent, options};

const PATH: &str = "/v1/responses";

const CALLS: &str = "Need it.{{/think}}Checking.\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_weather\">\n\
                     <{{D}}parameter name=\"city\" string=\"true\">Oslo</{{D}}parameter>\n</{{D}}invoke>\n\
                     <{{D}}invoke name=\"agents__spawn\">\n</{{D}}invoke>\n\
                     <{{D}}invoke name=\"patch\">\n<{{D}}parameter name=\"input\" string=\"true\">*** \"Begin\"\n+é</{{D}}parameter>\n</{{D}}invoke>\n\
                     </{{D}}tool_calls>";

fn tools() -> Value {
    json!([
        { "type": "function", "name": "get_weather", "parameters": { "type": "object" }, "strict": false },
        { "type": "namespace", "name": "agents", "tools": [{ "type": "function", "name": "spawn" }] },
        { "type": "custom", "name": "patch" },
        { "type": "web_search" },
    ])
}

/// Events of a stream, each checked to be named by its type and numbered in order.
fn events(answer: &Answer) -> Vec<Value> {
    let mut events = Vec::new();
    for frame in answer.text.split("\n\n").filter(|frame| !frame.is_empty()) {
        let (name, data) = frame.strip_prefix("event: ").and_then(|rest| rest.split_once("\ndata: ")).expect("a frame");
        let event: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(event["type"], name);
        assert_eq!(event["sequence_number"], events.len());
        events.push(event);
    }
    events
}

/// What a stream says: a line per event, deltas of one kind joined.
fn story(events: &[Value]) -> Vec<String> {
    let mut story: Vec<(String, String)> = Vec::new();
    for event in events {
        let kind = event["type"].as_str().expect("a type").strip_prefix("response.").expect("a prefix");
        let place = event["output_index"].as_u64().map_or_else(String::new, |index| format!(" {index}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let item = &event["item"];
        let part = &event["part"];
        let told = match kind {
            "output_item.added" | "output_item.done" => format!("{} {}", text(&item["type"]), text(&item["status"])),
            "content_part.added" | "content_part.done" => format!("{} {}", text(&part["type"]), text(&part["text"])),
            _ => ["delta", "text", "arguments", "input"].map(|name| text(&event[name])).concat(),
        };
        let kind = format!("{kind}{place}");
        match story.last_mut() {
            Some((last, joined)) if *last == kind && kind.contains("delta") => joined.push_str(&told),
            _ => story.push((kind, told)),
        }
    }
    story.into_iter().map(|(kind, text)| format!("{kind}: {text}").trim_end().to_owned()).collect()
}

#[test]
fn a_stream_tells_every_item_from_its_beginning_to_its_end() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(CALLS);
    let body = json!({ "input": "Weather?", "tools": tools(), "stream": true, "metadata": { "a": "b" } });
    let answer = server.post(PATH, &body);
    assert!(answer.is_whole && !answer.text.contains("[DONE]"));
    let events = events(&answer);
    let expected = [
        "created:",
        "in_progress:",
        "output_item.added 0: reasoning in_progress",
        "content_part.added 0: reasoning_text",
        "reasoning_text.delta 0: Need it.",
        "reasoning_text.done 0: Need it.",
        "content_part.done 0: reasoning_text Need it.",
        "output_item.done 0: reasoning completed",
        "output_item.added 1: message in_progress",
        "content_part.added 1: output_text",
        "output_text.delta 1: Checking.",
        "output_text.done 1: Checking.",
        "content_part.done 1: output_text Checking.",
        "output_item.done 1: message completed",
        "output_item.added 2: function_call in_progress",
        "function_call_arguments.delta 2: {\"city\": \"Oslo\"}",
        "function_call_arguments.done 2: {\"city\": \"Oslo\"}",
        "output_item.done 2: function_call completed",
        "output_item.added 3: function_call in_progress",
        "function_call_arguments.delta 3: {}",
        "function_call_arguments.done 3: {}",
        "output_item.done 3: function_call completed",
        "output_item.added 4: custom_tool_call in_progress",
        "custom_tool_call_input.delta 4: *** \"Begin\"\n+é",
        "custom_tool_call_input.done 4: *** \"Begin\"\n+é",
        "output_item.done 4: custom_tool_call completed",
        "completed:",
    ];
    assert_eq!(story(&events), expected);
    let response = &events.last().expect("an event")["response"];
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(response["output"].as_array().expect("a list").iter().collect::<Vec<_>>(), done);
    let open = &events[0]["response"];
    assert_eq!((&open["id"], &open["status"], &open["usage"]), (&response["id"], &json!("in_progress"), &Value::Null));
    assert_eq!((&open["output"], &open["tools"], &open["metadata"]), (&json!([]), &tools(), &json!({ "a": "b" })));
    assert_eq!(done[1]["phase"], "commentary");
    assert_eq!((&done[3]["name"], &done[3]["namespace"]), (&json!("spawn"), &json!("agents")));
    assert!(done[2].get("namespace").is_none() && done[0].get("encrypted_content").is_none());
    for event in &events {
        // Each event of an item names it by the id that the item has at its end.
        if let Some(id) = event["item_id"].as_str() {
            let index = event["output_index"].as_u64().expect("a place") as usize;
            assert_eq!(done[index]["id"], id);
        }
    }
    let usage = &response["usage"];
    let count = |path: &str| usage.pointer(path).and_then(Value::as_u64).expect(path);
    assert_eq!(count("/total_tokens"), count("/input_tokens") + count("/output_tokens"));
    let written = count("/input_tokens_details/cache_write_tokens");
    assert_eq!(written, count("/input_tokens") - count("/input_tokens_details/cached_tokens"));
    let reasoning = server.tokenizer.encode("Need it.").len() as u64;
    assert_eq!(count("/output_tokens_details/reasoning_tokens"), reasoning);

    // Not streamed, it is the same object.
    let mut body = body;
    body["stream"] = json!(false);
    let whole = server.post(PATH, &body).json();
    let kinds = |response: &Value| {
        let items = response["output"].as_array().expect("a list").iter();
        items.map(|item| (item["type"].clone(), item["content"].clone(), item["input"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&whole), kinds(response));
    let keys = |response: &Value| response.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&whole), keys(response));
}

#[test]
fn a_summary_is_the_reasoning_again() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("Hm.{{/think}}Yes.");
    let body = json!({ "input": "x", "reasoning": { "summary": "auto" }, "stream": true });
    let events = events(&server.post(PATH, &body));
    let told: Vec<String> = story(&events).into_iter().filter(|line| line.contains("summary")).collect();
    let expected = [
        "reasoning_summary_part.added 0:",
        "reasoning_summary_text.delta 0: Hm.",
        "reasoning_summary_text.done 0: Hm.",
        "reasoning_summary_part.done 0:",
    ];
    let mut joined: Vec<String> = Vec::new();
    for line in told {
        match joined.last_mut() {
            Some(last) if last.starts_with("reasoning_summary_text.delta") && line.contains("delta") => {
                last.push_str(line.split_once(": ").map_or("", |(_, text)| text));
            }
            _ => joined.push(line),
        }
    }
    assert_eq!(joined, expected);
    let item = &events.last().expect("an event")["response"]["output"][0];
    assert_eq!(item["summary"], json!([{ "type": "summary_text", "text": "Hm." }]));
    assert_eq!(item["content"], json!([{ "type": "reasoning_text", "text": "Hm." }]));
}

#[test]
fn what_is_cut_says_so() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(&format!("{{{{/think}}}}{}", "word ".repeat(50)));
    let mut body = json!({ "input": "x", "max_output_tokens": 5, "stream": true });
    let events = events(&server.post(PATH, &body));
    let last = events.last().expect("an event");
    assert_eq!(last["type"], "response.incomplete");
    let response = &last["response"];
    assert_eq!(response["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    assert_eq!((&response["status"], &response["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")));
    assert_eq!(response["usage"]["output_tokens"], 5);

    // Half a call takes no part in the conversation.
    server.answers(CALLS);
    body["tools"] = tools();
    let (before, _) = CALLS.split_once("</{{D}}parameter>").expect("a value");
    body["max_output_tokens"] =
        json!(ds4_scripted::Answer::spelled(&server.tokenizer, before).tokens(&server.tokenizer, true).len());
    body["stream"] = json!(false);
    let cut = server.post(PATH, &body).json();
    let output = cut["output"].as_array().expect("a list");
    let half = output.iter().find(|item| item["status"] == "incomplete").expect("a cut item");
    assert_eq!(half["type"], "function_call", "{cut:#}");
    server.answers("{{/think}}Fine.");
    let answer = server.post(PATH, &json!({ "input": "Go on.", "previous_response_id": cut["id"] }));
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[test]
fn a_failure_is_the_last_event_and_does_not_look_like_an_end() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("one two three four five");
    server.script.fail_at(3);
    let body = json!({ "input": "Count", "reasoning": { "effort": "none" }, "stream": true });
    let answer = server.post(PATH, &body);
    let events = events(&answer);
    let last = events.last().expect("an event");
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "server_error");
    assert!(last["response"]["error"]["message"].as_str().expect("a sentence").contains("unplugged"));
    assert!(!answer.is_whole, "the connection was closed as if all were well");
    let id = last["response"]["id"].as_str().expect("an id");
    assert_eq!(server.get(&format!("{PATH}/{id}")).status, 404);
}

#[test]
fn a_long_prefill_repeats_in_progress_with_the_same_id() {
    let config = ServerConfig { keepalive: Duration::from_millis(60), ..ServerConfig::default() };
    let server = Server::scripted(config, EngineOptions { prefill_chunk: Some(4), ..options() });
    server.answers("Hm.{{/think}}Yes.");
    server.script.set_step(Duration::from_millis(50));
    let body = json!({ "input": "a b c d e f g h i j k l m n o p q r s t u v w x y z", "stream": true });
    let events = events(&server.post(PATH, &body));
    let alive: Vec<&Value> = events.iter().filter(|event| event["type"] == "response.in_progress").collect();
    assert!(alive.len() >= 3, "{} events", alive.len());
    assert!(alive.iter().all(|event| event["response"]["id"] == events[0]["response"]["id"]));
    assert!(alive.iter().all(|event| event["response"]["status"] == "in_progress"));
}

#[test]
fn a_conversation_goes_on_from_a_kept_response() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(CALLS);
    let first = server.post(PATH, &json!({ "input": "Weather?", "tools": tools(), "instructions": "Old." })).json();
    let computed = first["usage"]["total_tokens"].as_u64().expect("a count");
    let output = |index: usize, text: &str| {
        let kind = if index == 4 { "custom_tool_call_output" } else { "function_call_output" };
        json!({ "type": kind, "call_id": first["output"][index]["call_id"], "output": text })
    };
    server.answers("{{/think}}Good.");
    let mut body = json!({
        "input": [output(2, "fine"), output(3, "done"), output(4, "ok")],
        "previous_response_id": first["id"],
        "instructions": "Old.",
        "tools": tools(),
    });
    let second = server.post(PATH, &body).json();
    assert_eq!(second["previous_response_id"], first["id"]);
    // The last token of a turn is sampled and not computed.
    let cached = second["usage"]["input_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert!(cached >= computed - 1, "{cached} of {computed} tokens are cached");

    // The instructions are the new request's; a client that sends everything gets the same prompt.
    let whole: Vec<Value> = [json!({ "role": "user", "content": "Weather?" })]
        .into_iter()
        .chain(first["output"].as_array().expect("a list").iter().cloned())
        .chain(body["input"].as_array().expect("a list").iter().cloned())
        .collect();
    let tokens = |body: &Value| server.post("/v1/responses/input_tokens", body).json()["input_tokens"].clone();
    let replayed = json!({ "input": whole, "instructions": "Old.", "tools": tools() });
    assert_eq!(tokens(&replayed), second["usage"]["input_tokens"]);
    body["instructions"] = Value::Null;
    assert!(tokens(&body).as_u64() < second["usage"]["input_tokens"].as_u64());

    // Only references, as some clients send them.
    let references: Vec<Value> = first["output"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| json!({ "type": "item_reference", "id": item["id"] }))
        .collect();
    let mut referring = replayed.clone();
    referring["input"] = [json!({ "role": "user", "content": "Weather?" })]
        .into_iter()
        .chain(references)
        .chain(body["input"].as_array().expect("a list").iter().cloned())
        .collect();
    assert_eq!(tokens(&referring), second["usage"]["input_tokens"]);

    // The beginning may go.
    let path = |response: &Value| format!("{PATH}/{}", response["id"].as_str().expect("an id"));
    let deleted = agent().delete(server.url(&path(&first))).call().expect("an answer").body_mut().read_to_string();
    let deleted: Value = serde_json::from_str(&deleted.expect("text")).expect("JSON");
    assert_eq!(deleted, json!({ "id": first["id"], "object": "response", "deleted": true }));
    assert_eq!(server.get(&path(&first)).status, 404);
    assert_eq!(server.get(&path(&second)).json(), second);
    let items = server.get(&format!("{}/input_items?order=asc&limit=100", path(&second))).json();
    let kinds: Vec<&Value> = items["data"].as_array().expect("a list").iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    assert_eq!(items["data"][0]["content"], json!([{ "type": "input_text", "text": "Weather?" }]));
    assert_eq!((&items["has_more"], &items["last_id"]), (&json!(false), &items["data"][8]["id"]));
    let after = items["data"][2]["id"].as_str().expect("an id");
    let page = server.get(&format!("{}/input_items?limit=1&after={after}", path(&second))).json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&items["data"][1]["id"], &json!(true)));
    let gone = server.post(PATH, &json!({ "input": "x", "previous_response_id": first["id"] }));
    assert_eq!((gone.status, &gone.json()["error"]["code"]), (400, &json!("previous_response_not_found")));
    let more = server.post(PATH, &json!({ "input": "x", "previous_response_id": second["id"] }));
    assert_eq!(more.status, 200, "{}", more.text);
    assert_eq!(server.send(&format!("{}/cancel", path(&second)), "{}", &[]).status, 400);
    assert_eq!(server.get(&format!("{}?stream=true", path(&second))).status, 400);

    // What is not to be kept is not.
    let unkept = server.post(PATH, &json!({ "input": "x", "store": false })).json();
    assert_eq!((&unkept["store"], server.get(&path(&unkept)).status), (&json!(false), 404));
}

#[test]
fn a_turn_without_calls_is_recognized_by_its_items() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("Let me see.\n\n{{/think}}\n\nYes.");
    let ask = json!({ "role": "user", "content": "Well?" });
    let again = json!({ "role": "user", "content": "Really?" });
    let include = json!(["reasoning.encrypted_content"]);
    let first = server.post(PATH, &json!({ "input": [ask], "include": include, "store": false })).json();
    let computed = first["usage"]["total_tokens"].as_u64().expect("a count");
    let (reasoning, message) = (&first["output"][0], &first["output"][1]);
    assert_eq!(reasoning["content"][0]["text"], "Let me see.");
    let sealed = json!({ "type": "reasoning", "summary": [], "encrypted_content": reasoning["encrypted_content"] });
    let cached = |items: Value| {
        let answer = server.post(PATH, &json!({ "input": items, "store": false })).json();
        answer["usage"]["input_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    // Blanks that the model wrote around its text are not told, and still in the prompt.
    assert!(cached(json!([ask, reasoning, message, again])) >= computed - 1, "by the items' ids");
    let no_id = json!({ "role": "assistant", "content": "Yes." });
    assert!(cached(json!([ask, sealed, no_id, again])) >= computed - 1, "by the sealed reasoning");
    assert!(cached(json!([ask, no_id, again])) < computed - 1, "rendered");
}

#[test]
fn only_allowed_tools_are_called_though_all_are_shown() {
    let server = Server::scripted(ServerConfig::default(), options());
    let function = |name: &str| json!({ "type": "function", "name": name });
    let mut body = json!({
        "input": "Weather?",
        "tools": [function("get_weather"), function("get_time"), function("get_date")],
        "reasoning": { "effort": "none" },
        "max_output_tokens": 100,
    });
    let all = server.post("/v1/responses/input_tokens", &body).json();
    let call = "\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get_weather\">\n</{{D}}invoke>\n</{{D}}tool_calls>";
    for (mode, script) in [("auto", call), ("required", "No."), ("required", call)] {
        server.answers(script);
        let allowed = json!([function("get_time"), function("get_date")]);
        body["tool_choice"] = json!({ "type": "allowed_tools", "mode": mode, "tools": allowed });
        let answer = server.post(PATH, &body).json();
        let names: Vec<&Value> =
            answer["output"].as_array().expect("a list").iter().map(|item| &item["name"]).collect();
        assert!(
            !names.is_empty() && names.iter().all(|name| **name == "get_time" || **name == "get_date"),
            "{answer:#}"
        );
    }
    body["tool_choice"]["mode"] = json!("auto");
    assert_eq!(server.post("/v1/responses/input_tokens", &body).json(), all, "the prompt is the same");
    body["tool_choice"]["tools"] = json!([]);
    let answer = server.post(PATH, &body).json();
    assert_eq!(answer["output"][0]["type"], "message", "{answer:#}");
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_before_the_stream() {
    let server = Server::scripted(ServerConfig::default(), options());
    let body = json!({ "input": "word ".repeat(6000), "stream": true });
    let answer = server.post(PATH, &body);
    let error = answer.json()["error"].clone();
    assert_eq!(
        (answer.status, &error["code"], &error["param"]),
        (400, &json!("context_length_exceeded"), &json!("input"))
    );
    assert!(error["message"].as_str().expect("a sentence").starts_with("This model's maximum context length is 4096"));
    let counted = server.post("/v1/responses/input_tokens", &body).json();
    assert_eq!(counted["object"], "response.input_tokens");
    assert!(counted["input_tokens"].as_u64() > Some(4096));
}

#[test]
fn log_probabilities_stand_beside_their_text() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers("One, two.");
    let body = json!({
        "input": "Count", "reasoning": { "effort": "none" }, "top_logprobs": 2,
        "include": ["message.output_text.logprobs"], "stream": true,
    });
    let events = events(&server.post(PATH, &body));
    let part = &events.last().expect("an event")["response"]["output"][0]["content"][0];
    let entries = part["logprobs"].as_array().expect("a list");
    let text: String = entries.iter().map(|entry| entry["token"].as_str().expect("text")).collect();
    assert_eq!((text.as_str(), &part["text"]), ("One, two.", &json!("One, two.")));
    assert!(entries.iter().all(|entry| entry["top_logprobs"].as_array().is_some_and(|top| top.len() == 2)));
    let streamed: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .flat_map(|event| event["logprobs"].as_array().expect("a list"))
        .collect();
    assert_eq!(streamed, entries.iter().collect::<Vec<_>>());
}

#[test]
fn results_without_their_calls_go_on_where_the_response_ended() {
    let server = Server::scripted(ServerConfig::default(), options());
    server.answers(CALLS);
    let body = |input: Value| json!({ "input": input, "tools": tools() });
    let first = server.post(PATH, &body(json!("Weather?"))).json();
    let calls: Vec<&Value> =
        first["output"].as_array().expect("a list").iter().filter(|item| item["call_id"].is_string()).collect();
    let results: Vec<Value> = calls
        .iter()
        .map(|call| {
            let kind = format!("{}_output", call["type"].as_str().expect("a type"));
            json!({ "type": kind, "call_id": call["call_id"], "output": "fine" })
        })
        .collect();
    server.answers("Done.{{/think}}Done.");
    let bare = server.post(PATH, &body(json!(results)));
    assert_eq!(bare.status, 200, "{}", bare.text);
    let mut named = body(json!(results));
    named["previous_response_id"] = first["id"].clone();
    let named = server.post(PATH, &named).json();
    assert_eq!(bare.json()["usage"]["input_tokens"], named["usage"]["input_tokens"], "the same prompt");

    let stranger = json!([{ "type": "function_call_output", "call_id": "call_x", "output": "fine" }]);
    let refused = server.post(PATH, &body(stranger));
    let error = &refused.json()["error"];
    assert_eq!((refused.status, &error["param"]), (400, &json!("input[0]")));
    let message = error["message"].as_str().expect("a sentence");
    assert!(message.starts_with("No tool call found for tool output with call_id 'call_x'."), "{message}");
}
