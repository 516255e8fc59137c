//! The shapes of answers.

use serde_json::{Map, Value, json};

/// All schemas of answers, by name.
pub(super) fn schemas() -> Map<String, Value> {
    let usage = json!({ "type": "object", "description": "Token counts." });
    let nullable = json!({ "type": ["string", "null"] });
    let all = json!({
        "Error": {
            "description": "OpenAI's shape, or Anthropic's for its paths and with an anthropic-version header.",
            "anyOf": [
                shape("OpenAI", &[("error", json!({ "type": "object", "required": ["message", "type", "param", "code"], "properties": {
                    "message": { "type": "string" }, "type": { "type": "string" }, "param": nullable, "code": nullable } }))]),
                shape("Anthropic", &[("type", json!({ "const": "error" })), ("request_id", json!({ "type": "string" })),
                    ("error", json!({ "type": "object", "required": ["type", "message"] }))]),
            ],
        },
        "ChatCompletion": shape("An answer", &[
            ("id", text()), ("object", json!({ "const": "chat.completion" })), ("created", count()), ("model", text()),
            ("system_fingerprint", text()), ("usage", usage.clone()),
            ("choices", json!({ "type": "array", "items": shape("The answer", &[
                ("index", count()),
                ("message", shape("role, content, reasoning_content, tool_calls", &[("role", json!({ "const": "assistant" })), ("content", nullable.clone())])),
                ("finish_reason", json!({ "enum": ["stop", "length", "tool_calls"] })),
            ]) })),
        ]),
        "Completion": shape("Text that continues the prompt", &[
            ("id", text()), ("object", json!({ "const": "text_completion" })), ("created", count()), ("model", text()), ("usage", usage.clone()),
            ("choices", json!({ "type": "array", "items": shape("The text", &[
                ("index", count()), ("text", text()), ("finish_reason", json!({ "enum": ["stop", "length"] })),
            ]) })),
        ]),
        "Response": shape("An answer of typed items", &[
            ("id", text()), ("object", json!({ "const": "response" })), ("created_at", count()), ("model", text()),
            ("status", json!({ "enum": ["completed", "incomplete", "failed", "in_progress"] })),
            ("output", json!({ "type": "array", "items": { "type": "object" } })), ("usage", json!({ "type": ["object", "null"] })),
        ]),
        "InputTokens": shape("A count", &[("object", json!({ "const": "response.input_tokens" })), ("input_tokens", count())]),
        "Deleted": shape("What was forgotten", &[("id", text()), ("deleted", json!({ "const": true }))]),
        "List": shape("A list", &[("object", json!({ "const": "list" })), ("data", json!({ "type": "array" })), ("has_more", json!({ "type": "boolean" }))]),
        "Message": shape("An answer", &[
            ("id", text()), ("type", json!({ "const": "message" })), ("role", json!({ "const": "assistant" })), ("model", text()),
            ("content", json!({ "type": "array", "items": { "type": "object" } })), ("usage", usage.clone()),
            ("stop_reason", json!({ "enum": ["end_turn", "stop_sequence", "tool_use", "max_tokens", null] })),
        ]),
        "CountedTokens": shape("A count", &[("input_tokens", count())]),
        "Models": shape("The models", &[("data", json!({ "type": "array", "items": { "$ref": "#/components/schemas/Model" } }))]),
        "Model": shape("A model", &[("id", text())]),
        "Health": shape("It runs", &[("status", json!({ "const": "ok" }))]),
        "Props": shape("Settings", &[("model", text()), ("n_ctx", count()), ("parallel", count()), ("queue", count()), ("build", text())]),
    });
    match all {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// An object in which all of these are there, and more may be.
fn shape(description: &str, properties: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "description": description, "properties": properties, "required": required })
}
