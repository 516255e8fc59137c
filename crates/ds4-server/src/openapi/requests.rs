//! The fields of each API's request.

use serde_json::{Value, json};

use super::property::{Property, optional, required, without_effect};
use crate::request_fields::MAX_TOKENS;

fn string() -> Value {
    json!({ "type": "string" })
}

fn boolean() -> Value {
    json!({ "type": "boolean" })
}

fn integer(least: i64, most: i64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn number(least: f64, most: f64) -> Value {
    json!({ "type": "number", "minimum": least, "maximum": most })
}

fn object() -> Value {
    json!({ "type": "object" })
}

fn objects() -> Value {
    json!({ "type": "array", "items": { "type": "object" } })
}

fn text_or_objects() -> Value {
    json!({ "anyOf": [string(), objects()] })
}

fn model() -> Property {
    let schema = json!({ "type": "string", "minLength": 1 });
    optional(
        "model",
        schema,
        json!("deepseek-v4-flash"),
        "Any name; it is echoed. deepseek-chat answers without thinking, deepseek-reasoner with.",
    )
}

fn stream() -> Property {
    optional("stream", boolean(), json!(true), "Whether the answer comes as server-sent events.")
}

fn stream_options() -> Property {
    optional(
        "stream_options",
        object(),
        json!({ "include_usage": true }),
        "include_usage: the counts come in a chunk of their own. Only with stream.",
    )
}

fn stop(name: &'static str) -> Property {
    let schema = json!({ "anyOf": [string(), { "type": "array", "items": string(), "maxItems": 16 }] });
    optional(
        name,
        schema,
        json!(["END"]),
        "Up to 16 texts that end the answer. They are looked for in the answer, not in reasoning and calls.",
    )
}

fn max_tokens(name: &'static str) -> Property {
    optional(
        name,
        integer(1, MAX_TOKENS),
        json!(100),
        "Most tokens of the answer, reasoning included. What the context has no room for is cut.",
    )
}

fn thinking() -> Property {
    let schema = json!({ "type": "object", "properties": { "type": { "enum": ["enabled", "adaptive", "auto", "disabled"] } }, "required": ["type"] });
    optional("thinking", schema, json!({ "type": "enabled" }), "Whether the model reasons first.")
}

fn think() -> Property {
    optional("think", boolean(), json!(true), "Whether the model reasons first, in other words.")
}

fn effort() -> Property {
    let schema = json!({ "enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] });
    optional("reasoning_effort", schema, json!("high"), "How hard it reasons; none: not at all.")
}

fn logit_bias() -> Property {
    let schema = json!({ "type": "object", "additionalProperties": number(-100.0, 100.0) });
    optional("logit_bias", schema, json!({ "5": -1.5 }), "Token ids, and what is added to their logits.")
}

/// Sampling parameters. In thinking mode only the seed counts, unless the server is told otherwise.
fn sampling() -> Vec<Property> {
    vec![
        optional(
            "temperature",
            number(0.0, 2.0),
            json!(0.7),
            "0 takes the likeliest token. Ignored in thinking mode, unless the server honors it.",
        ),
        optional(
            "top_p",
            json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
            json!(0.9),
            "Share of the probability to choose from. As temperature.",
        ),
        optional(
            "top_k",
            integer(0, i64::from(u32::MAX)),
            json!(40),
            "Likeliest tokens to choose from; 0: all. As temperature.",
        ),
        optional(
            "min_p",
            number(0.0, 1.0),
            json!(0.05),
            "Least probability, relative to the likeliest token. As temperature.",
        ),
        optional(
            "presence_penalty",
            number(-2.0, 2.0),
            json!(0.1),
            "Against tokens that the answer has. As temperature.",
        ),
        optional("frequency_penalty", number(-2.0, 2.0), json!(0.1), "The same per occurrence. As temperature."),
        optional("seed", integer(0, i64::MAX), json!(7), "The same request with the same seed gets the same answer."),
    ]
}

fn function_tools() -> Property {
    let schema = json!({ "type": "array", "items": { "type": "object", "properties": {
        "type": { "type": "string" },
        "function": { "type": "object", "required": ["name"], "properties": {
            "name": { "type": "string", "pattern": "^[a-zA-Z0-9_-]{1,128}$" },
            "description": string(),
            "parameters": object(),
            "strict": boolean() } } } } });
    let example =
        json!([{ "type": "function", "function": { "name": "get_time", "parameters": { "type": "object" } } }]);
    optional(
        "tools",
        schema,
        example,
        "Functions that the model may call. strict: the arguments follow the schema to the letter. Tools of other types are not shown to the model.",
    )
}

fn flat_tools() -> Property {
    let example = json!([{ "type": "function", "name": "get_time", "parameters": { "type": "object" } }]);
    optional(
        "tools",
        objects(),
        example,
        "Functions, free-form tools (custom) and namespaces of tools. Others are not shown to the model.",
    )
}

fn tool_choice(example: Value, description: &'static str) -> Property {
    let schema = json!({ "anyOf": [string(), object()] });
    optional("tool_choice", schema, example, description)
}

fn parallel_tool_calls() -> Property {
    optional(
        "parallel_tool_calls",
        boolean(),
        json!(false),
        "Whether a turn may have several calls; false: it ends with the first.",
    )
}

/// `POST /v1/chat/completions`.
pub(super) fn chat() -> Vec<Property> {
    let schema = json!({ "type": "object", "properties": { "type": { "enum": ["text", "json_object", "json_schema"] }, "json_schema": object() }, "required": ["type"] });
    let mut properties = vec![
        required(
            "messages",
            json!({ "type": "array", "items": { "type": "object", "properties": { "role": string() }, "required": ["role"] }, "minItems": 1 }),
            json!([{ "role": "user", "content": "Some JSON, please" }]),
            "Roles system, developer, user, assistant, tool, latest_reminder. prefix: true on a last assistant message continues it.",
        ),
        model(),
        thinking(),
        think(),
        effort(),
        function_tools(),
        tool_choice(json!("auto"), "none, auto, required, or an object that names a function."),
        parallel_tool_calls(),
        optional(
            "response_format",
            schema,
            json!({ "type": "json_object" }),
            "The answer follows it. json_object needs the word json in the messages.",
        ),
        stream(),
        stream_options(),
        max_tokens("max_completion_tokens"),
        max_tokens("max_tokens"),
        stop("stop"),
        logit_bias(),
        optional("logprobs", boolean(), json!(true), "Whether log-probabilities are reported."),
        optional(
            "top_logprobs",
            integer(0, 20),
            json!(2),
            "How many likeliest tokens are reported beside each. Only with logprobs.",
        ),
        optional("n", integer(1, 1), json!(1), "Only 1."),
        prompt_cache_key(),
    ];
    properties.extend(sampling());
    properties.extend(crate::chat::request::WITHOUT_EFFECT.into_iter().map(without_effect));
    properties
}

/// `POST /v1/completions`.
pub(super) fn completions() -> Vec<Property> {
    let ids = json!({ "type": "array", "items": integer(0, i64::from(u32::MAX)), "minItems": 1 });
    let mut properties = vec![
        required(
            "prompt",
            json!({ "anyOf": [string(), ids, { "type": "array", "items": string(), "minItems": 1, "maxItems": 1 }] }),
            json!("Once upon a time"),
            "Text or token ids, continued as they are.",
        ),
        model(),
        optional(
            "suffix",
            string(),
            json!(""),
            "What follows the text to be written, where the vocabulary has tokens to mark a gap.",
        ),
        stream(),
        stream_options(),
        max_tokens("max_tokens"),
        stop("stop"),
        logit_bias(),
        optional("logprobs", integer(0, 5), json!(2), "How many likeliest tokens are reported beside each."),
        optional("n", integer(1, 1), json!(1), "Only 1."),
        optional("best_of", integer(1, 1), json!(1), "Only 1."),
        optional("echo", json!({ "const": false }), json!(false), "Only false."),
    ];
    properties.extend(sampling());
    properties.push(without_effect("user"));
    properties
}

/// `POST /v1/responses`.
pub(super) fn responses() -> Vec<Property> {
    let mut properties = vec![
        optional(
            "input",
            text_or_objects(),
            json!("Some JSON, please"),
            "A text, or items of a conversation. Needed unless previous_response_id or instructions say it all.",
        ),
        optional("instructions", text_or_objects(), json!("Be brief."), "System text of this response alone."),
        optional("previous_response_id", string(), Value::Null, "A stored response that this one continues."),
        model(),
        optional(
            "reasoning",
            object(),
            json!({ "effort": "high", "summary": "auto" }),
            "effort as reasoning_effort; summary: whether the reasoning comes as a summary, too.",
        ),
        thinking(),
        think(),
        effort(),
        flat_tools(),
        tool_choice(json!("auto"), "none, auto, required, or an object that names a function."),
        parallel_tool_calls(),
        optional(
            "text",
            object(),
            json!({ "format": { "type": "json_object" } }),
            "format: text, json_object or json_schema; the answer follows it.",
        ),
        optional(
            "include",
            json!({ "type": "array", "items": string() }),
            json!(["reasoning.encrypted_content", "message.output_text.logprobs"]),
            "What else the answer has: sealed reasoning, log-probabilities.",
        ),
        stream(),
        optional(
            "store",
            boolean(),
            json!(false),
            "Whether the response is kept, to be continued or looked up. Default true.",
        ),
        optional("background", json!({ "const": false }), json!(false), "Only false."),
        max_tokens("max_output_tokens"),
        max_tokens("max_tokens"),
        stop("stop"),
        logit_bias(),
        optional("top_logprobs", integer(0, 20), json!(2), "How many likeliest tokens are reported beside each."),
        optional("metadata", object(), json!({ "k": "v" }), "Echoed."),
        prompt_cache_key(),
    ];
    properties.extend(sampling());
    properties.extend(crate::responses::request::WITHOUT_EFFECT.into_iter().map(without_effect));
    properties
}

fn prompt_cache_key() -> Property {
    let what = "Names the conversation where no header does. Prompts that begin alike share what was computed with or without it.";
    optional("prompt_cache_key", string(), json!("talk-1"), what)
}

/// `POST /v1/messages`, and for counting.
pub(super) fn messages() -> Vec<Property> {
    let mut properties = vec![
        required(
            "messages",
            objects(),
            json!([{ "role": "user", "content": "Hello" }]),
            "Roles user and assistant. A last assistant message is continued.",
        ),
        optional("system", text_or_objects(), json!("Be brief."), "System text."),
        model(),
        optional(
            "max_tokens",
            json!({ "type": "integer", "minimum": 1 }),
            json!(100),
            "Most tokens of the answer; what the context has no room for is cut.",
        ),
        thinking(),
        optional(
            "output_config",
            object(),
            json!({ "effort": "high", "format": { "type": "json_schema", "schema": { "type": "object" } } }),
            "effort: how hard the model reasons; format: a JSON Schema that the answer follows.",
        ),
        optional(
            "output_format",
            object(),
            json!({ "type": "json_schema", "schema": { "type": "object" } }),
            "The format, as it was named before output_config.",
        ),
        optional(
            "tools",
            objects(),
            json!([{ "name": "get_time", "input_schema": { "type": "object" } }]),
            "Tools of the client. strict: the input follows the schema to the letter. Tools that a service would run are not shown.",
        ),
        tool_choice(json!({ "type": "auto" }), "type auto, any, tool or none."),
        stop("stop_sequences"),
        stream(),
    ];
    properties.extend(sampling());
    properties.extend(crate::messages::request::WITHOUT_EFFECT.into_iter().map(without_effect));
    properties
}
