//! Free-form tools whose texts follow grammars of the client's.

use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Server, options};

const PATH: &str = "/v1/responses";

/// Lines to add to a file or take away, between two marks.
const EDITS: &str = r#"
start: "BEGIN" LF line+ "END" LF?
line: ("+" | "-") /[a-z <>\/]{0,12}/ LF
%import common.LF
"#;

fn with(syntax: &str, definition: &str) -> Value {
    json!({
        "input": "Edit it.", "store": false, "max_output_tokens": 300, "seed": 1, "parallel_tool_calls": false,
        "tools": [
            { "type": "function", "name": "look", "parameters": { "type": "object" } },
            { "type": "custom", "name": "edit", "format": { "type": "grammar", "syntax": syntax, "definition": definition } },
        ],
    })
}

fn is_edit(text: &str) -> bool {
    let lines =
        text.strip_prefix("BEGIN\n").and_then(|rest| rest.strip_suffix("\nEND").or(rest.strip_suffix("\nEND\n")));
    let is_line = |line: &str| line.starts_with(['+', '-']) && line.len() <= 13;
    lines.is_some_and(|lines| lines.split('\n').all(is_line))
}

/// The only call of an answer.
fn call(answer: &Value) -> &Value {
    let is_call = |item: &&Value| item["type"] == "custom_tool_call";
    answer["output"].as_array().and_then(|items| items.iter().find(is_call)).unwrap_or_else(|| panic!("{answer:#}"))
}

#[test]
fn texts_follow_their_grammar_whatever_the_model_would_rather_say() {
    let server = Server::scripted(ServerConfig::default(), options());
    let opened = "BEGIN is no call here, <free>.{{/think}}So:\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"edit\">\n<{{D}}parameter name=\"input\" string=\"true\">";
    let good = "BEGIN\n+<p>a</p>\n-</div\nEND";
    let closed = "</{{D}}parameter>\n</{{D}}invoke>\n</{{D}}tool_calls>";
    let body = with("lark", EDITS);
    server.answers(&format!("{opened}{good}{closed}"));
    let answer = server.post(PATH, &body).json();
    assert_eq!((&call(&answer)["input"], &call(&answer)["status"]), (&json!(good), &json!("completed")));
    assert_eq!(answer["output"][0]["content"][0]["text"], "BEGIN is no call here, <free>.", "{answer:#}");
    assert_eq!(answer["output"][1]["content"][0]["text"], "So:");
    for wrong in [
        format!("{opened}Sure, here is the edit:\nBEGIN\n+a\nEND{closed}"),
        format!("{opened}BEGIN\nEND{closed}"),
        format!("{opened}BEGIN\n+a{closed}"),
        format!("{opened}{closed}"),
        opened.replace("string=\"true\"", "string=\"false\"") + "5" + closed,
    ] {
        server.answers(&wrong);
        let answer = server.post(PATH, &body).json();
        let text = call(&answer)["input"].as_str().expect("text");
        assert!(is_edit(text), "{wrong}: {text:?}");
    }
    // A demanded call, in a stream.
    server.answers("No.");
    let mut body = body;
    body["tool_choice"] = json!({ "type": "custom", "name": "edit" });
    body["reasoning"] = json!({ "effort": "none" });
    body["stream"] = json!(true);
    let events = server.post(PATH, &body).events();
    let (_, last) = events.last().expect("an end");
    let text = call(&last["response"])["input"].as_str().expect("text");
    assert!(is_edit(text), "{text:?}");
    let deltas = events.iter().filter(|(name, _)| name == "response.custom_tool_call_input.delta");
    let joined: String = deltas.map(|(_, event)| event["delta"].as_str().expect("text")).collect();
    assert_eq!(joined, text);

    let regex = with("regex", "^[a-c]{2,5};$");
    server.answers(&format!("{opened}abcabc{closed}"));
    let answer = server.post(PATH, &regex).json();
    let text = call(&answer)["input"].as_str().and_then(|text| text.strip_suffix(';')).expect("its end");
    assert!((2..=5).contains(&text.len()) && text.bytes().all(|byte| (b'a'..=b'c').contains(&byte)), "{text}");
}

#[test]
fn a_wrong_grammar_is_refused_by_its_field() {
    let server = Server::scripted(ServerConfig::default(), options());
    for (syntax, definition, told) in [
        ("lark", "begin: \"a\"", "no start rule"),
        ("lark", "start: missing", "missing"),
        ("lark", "start: \"a\"\n  | <[7]>", "line 2"),
        ("regex", "(?=a)b", "look-around"),
    ] {
        for path in [PATH, "/v1/responses/input_tokens"] {
            let answer = server.post(path, &with(syntax, definition));
            let error = &answer.json()["error"];
            assert_eq!(
                (answer.status, &error["param"]),
                (400, &json!("tools[1].format.definition")),
                "{definition}: {error}"
            );
            assert_eq!(error["code"], "unsupported_value");
            let message = error["message"].as_str().expect("a sentence");
            assert!(message.contains("\"edit\"") && message.contains(told), "{message}");
        }
    }
    let long = server.post(PATH, &with("lark", &format!("start: \"{}\"", "x".repeat(70_000))));
    assert_eq!((long.status, &long.json()["error"]["param"]), (400, &json!("tools[1].format.definition")));
    // The next request is served as ever.
    server.answers("Fine.");
    let mut nested = with("lark", "");
    nested["tools"][1]["format"] = json!({ "type": "grammar", "grammar": { "syntax": "lark", "definition": EDITS } });
    assert_eq!(server.post(PATH, &nested).status, 200);
}
