//! Kept responses beyond the process.

use std::path::Path;

use ds4_kvstore::{KvStore, StoreOptions};
use ds4_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Server, options};

const PATH: &str = "/v1/responses";

/// A server that keeps things in `folder`.
fn server(folder: &Path) -> Server {
    let store = KvStore::open(StoreOptions::new(folder, 64 << 20)).expect("a usable folder");
    Server::scripted(ServerConfig { store: Some(store), ..ServerConfig::default() }, options())
}

fn path(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().expect("an id"))
}

#[test]
fn responses_can_be_continued_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = json!([{ "type": "function", "name": "look", "parameters": { "type": "object" } }]);
    let (first, second, deleted) = {
        let server = server(folder.path());
        server.answers(
            "Hm.{{/think}}\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"look\">\n</{{D}}invoke>\n</{{D}}tool_calls>",
        );
        let first = server.post(PATH, &json!({ "input": "Look.", "tools": tools })).json();
        let call = first["output"].as_array().and_then(|items| items.last()).expect("a call");
        let result =
            json!({ "type": "function_call_output", "call_id": call["call_id"], "output": "12345678901234567890" });
        server.answers("Seen.{{/think}}It is a number.");
        let body = json!({ "input": [result], "tools": tools, "previous_response_id": first["id"] });
        let second = server.post(PATH, &body).json();
        assert_eq!(second["status"], "completed", "{second:#}");
        let deleted = server.post(PATH, &json!({ "input": "Forget this." })).json();
        assert_eq!(agent_delete(&server, &deleted), 200);
        (first, second, deleted)
    };
    let server = server(folder.path());
    assert_eq!(server.get(&path(&first)).json(), first);
    assert_eq!(server.get(&path(&second)).json(), second);
    assert_eq!(server.get(&path(&deleted)).status, 404);
    server.answers("Yes.{{/think}}Yes.");
    let more = json!({ "input": "Sure?", "tools": tools, "previous_response_id": second["id"] });
    let third = server.post(PATH, &more).json();
    // The turns' own tokens are back as well: the prompt is all that was computed before, and the new message.
    let before = second["usage"]["total_tokens"].as_u64().expect("a count");
    let grown = third["usage"]["input_tokens"].as_u64().expect("a count");
    assert!((before + 2..before + 20).contains(&grown), "{before} and then {grown}");
    let items = server.get(&format!("{}/input_items?order=asc", path(&third))).json();
    let kinds: Vec<&Value> = items["data"].as_array().expect("a list").iter().map(|item| &item["type"]).collect();
    assert_eq!(
        kinds,
        ["message", "reasoning", "function_call", "function_call_output", "reasoning", "message", "message"]
    );
}

fn agent_delete(server: &Server, response: &Value) -> u16 {
    let url = server.url(&path(response));
    crate::support::agent().delete(url).call().expect("an answer").status().as_u16()
}
