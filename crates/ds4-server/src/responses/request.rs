//! The request of a response.

use std::collections::HashSet;
use std::sync::Arc;

use ds4_chat::conversation::{Conversation, ResponseFormat};
use ds4_chat::json::Json;
use ds4_chat::render::{Effort, Thinking};
use serde_json::{Value, json};

use super::continued::{input_items, messages, previous, response_of_results};
use super::input::Transcript;
use super::sealed::Seal;
use super::store::{ResponseStore, StoredResponse};
use super::tools::{Tools, tool_choice};
use crate::api::Api;
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};
use crate::generation::{ChatPrompt, ClientSampling, GenerationRequest, PromptSource, Strict};
use crate::request_fields::{MAX_TOKENS, ThinkingFields, logit_bias, sampling, stop, thinking};
use crate::session::session_name;

/// A request for a response that is worth preparing.
#[derive(Debug)]
pub struct ResponsesRequest {
    /// What to generate.
    pub generation: GenerationRequest,
    /// The model's name, to be echoed.
    pub model: String,
    /// The tools as the client knows them.
    pub tools: Tools,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the response is kept.
    pub store: bool,
    /// What the response repeats of the request, as an object.
    pub echo: Value,
    /// What the output is to have beside its text.
    pub extras: Extras,
    /// The request's own input items.
    pub input: Vec<Json>,
    /// The response that is continued.
    pub previous: Option<Arc<StoredResponse>>,
    /// Fields, tools and items of the request that mean nothing here.
    pub ignored: Vec<String>,
}

/// What an output may have beside its text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// The reasoning as a summary, too.
    pub summary: bool,
    /// The reasoning in sealed form, too.
    pub sealed_reasoning: bool,
}

/// Where requests are read.
#[derive(Clone, Copy, Debug)]
pub struct Context<'s> {
    /// The settings.
    pub config: &'s ServerConfig,
    /// Earlier responses.
    pub store: &'s ResponseStore,
    /// What reasoning is sealed with.
    pub seal: &'s Seal,
}

/// Fields that are known and have no effect on a server of one's own.
pub(crate) const WITHOUT_EFFECT: [&str; 8] = [
    "user",
    "service_tier",
    "prompt_cache_retention",
    "safety_identifier",
    "max_tool_calls",
    "stream_options",
    "truncation",
    "client_metadata",
];

impl ResponsesRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The first field that is wrong or asks for what the server does not do, by its path.
    pub fn read(body: &Json, context: Context<'_>) -> Result<Self, ApiError> {
        let object = Object::root(body)?;
        let config = context.config;
        let model = object.get("model").map(|field| field.str()).transpose()?;
        if model == Some("") {
            return Err(ApiError::invalid("model", "model is an empty string; name a model or leave the field out"));
        }
        refuse_unsupported(&object)?;
        let reasoning = object.get("reasoning").map(|field| field.object()).transpose()?;
        let of_reasoning = |name: &str| reasoning.as_ref().and_then(|reasoning| reasoning.get(name));
        let thinking = thinking(
            &ThinkingFields {
                thinking: object.get("thinking"),
                think: object.get("think"),
                effort: of_reasoning("effort").or_else(|| object.get("reasoning_effort")),
                model: model.unwrap_or_default(),
            },
            config,
        )?;
        let previous = previous(&object, context.store)?;
        let input = input_items(&object, previous.is_some(), config)?;
        let previous = match previous {
            None => response_of_results(&input, context.store)?,
            given => given,
        };
        let Transcript { messages, turn_ids, ignored } = messages(&object, &input, previous.as_deref(), context)?;
        let tools = Tools::read(&object, config)?;
        let (tool_choice, allowed_tools) = tool_choice(&object, &tools)?;
        let (response_format, strict_format) = response_format(&object)?;
        let conversation = Conversation { messages, tool_choice, response_format, tools: tools.shown.clone() };
        let include = include(&object)?;
        let summary = of_reasoning("summary").or_else(|| of_reasoning("generate_summary"));
        let summary = summary.map(|field| summary_wanted(&field)).transpose()?.unwrap_or(false);
        let max_tokens = object.get("max_output_tokens").or_else(|| object.get("max_tokens"));
        let max_tokens = max_tokens.map(|field| field.integer(1, MAX_TOKENS)).transpose()?;
        let parallel = flag(&object, "parallel_tool_calls")?.unwrap_or(true);
        let sampling = response_sampling(&object, &include)?;
        let stop = object.get("stop").map(|field| stop(&field)).transpose()?.unwrap_or_default();
        let store = flag(&object, "store")?.unwrap_or(true);
        let stream = flag(&object, "stream")?.unwrap_or(false);
        for name in WITHOUT_EFFECT {
            object.get(name);
        }
        let echo = echo(&object, thinking, store)?;
        let has_tools = !conversation.tools.is_empty();
        let chat = ChatPrompt {
            single_call: has_tools && !parallel,
            turn_ids,
            allowed_tools,
            strict: Strict { format: strict_format, tools: tools.strict.clone(), inputs: tools.inputs.clone() },
            ..ChatPrompt::new(conversation, thinking)
        };
        let session = object.get("prompt_cache_key").and_then(|key| session_name(key.str().ok()?));
        let mut all_ignored = object.unread();
        all_ignored.extend(ignored);
        all_ignored.extend(tools.left_out.iter().cloned());
        Ok(Self {
            generation: GenerationRequest {
                sampling,
                max_tokens: max_tokens.and_then(|value| usize::try_from(value).ok()),
                stop,
                session,
                ..GenerationRequest::new(Api::Responses, PromptSource::Chat(Box::new(chat)))
            },
            model: model.unwrap_or(&config.model_id).to_owned(),
            tools,
            stream,
            store,
            echo,
            extras: Extras { summary, sealed_reasoning: include.contains("reasoning.encrypted_content") },
            input,
            previous,
            ignored: all_ignored,
        })
    }
}

fn flag(object: &Object<'_>, name: &str) -> Result<Option<bool>, ApiError> {
    object.get(name).map(|field| field.bool()).transpose()
}

fn refuse_unsupported(object: &Object<'_>) -> Result<(), ApiError> {
    for (name, instead) in [
        ("conversation", "send the whole input, or previous_response_id"),
        ("prompt", "send the prompt's text as input and instructions"),
    ] {
        if object.get(name).is_some() {
            let message = format!("{name} is not supported: this server keeps no such objects; {instead}");
            return Err(ApiError::unsupported(ErrorKind::UnsupportedParameter, name, message));
        }
    }
    if flag(object, "background")?.unwrap_or(false) {
        let message = "background responses are not supported; use \"stream\": true for long answers";
        return Err(ApiError::unsupported(ErrorKind::UnsupportedValue, "background", message));
    }
    Ok(())
}

/// The format, and whether its schema is to be followed to the letter.
fn response_format(object: &Object<'_>) -> Result<(ResponseFormat, bool), ApiError> {
    let Some(text) = object.get("text").map(|field| field.object()).transpose()? else {
        return Ok((ResponseFormat::Text, false));
    };
    let Some(format) = text.get("format").map(|field| field.object()).transpose()? else {
        return Ok((ResponseFormat::Text, false));
    };
    let kind = format.required("type")?;
    match kind.str()? {
        "text" => Ok((ResponseFormat::Text, false)),
        "json_object" => Ok((ResponseFormat::JsonObject, false)),
        "json_schema" => {
            let strict = flag(&format, "strict")?.unwrap_or(false);
            let schema = format.required("schema")?;
            schema.object()?;
            Ok((ResponseFormat::JsonSchema(schema.json().clone()), strict))
        }
        _ => Err(kind.must_be("one of text, json_object, json_schema")),
    }
}

fn include<'a>(object: &Object<'a>) -> Result<HashSet<&'a str>, ApiError> {
    let fields = object.get("include").map(|field| field.array()).transpose()?.unwrap_or_default();
    fields.iter().map(Field::str).collect()
}

fn summary_wanted(field: &Field<'_>) -> Result<bool, ApiError> {
    match field.str()? {
        "auto" | "concise" | "detailed" => Ok(true),
        "none" => Ok(false),
        _ => Err(field.must_be("one of auto, concise, detailed, none")),
    }
}

/// The parameters that all APIs share; OpenAI's own responses have neither a seed nor a bias.
fn response_sampling(object: &Object<'_>, include: &HashSet<&str>) -> Result<ClientSampling, ApiError> {
    let mut sampling = sampling(object)?;
    if let Some(field) = object.get("logit_bias") {
        sampling.logit_bias = logit_bias(&field)?;
    }
    let top = object.get("top_logprobs").map(|field| field.integer(0, 20)).transpose()?;
    if include.contains("message.output_text.logprobs") {
        sampling.logprobs = Some(top.and_then(|top| usize::try_from(top).ok()).unwrap_or(0));
    }
    Ok(sampling)
}

/// What a response repeats of its request.
fn echo(object: &Object<'_>, thinking: Thinking, store: bool) -> Result<Value, ApiError> {
    let given = |name: &str| object.get(name).map_or(Value::Null, |field| plain(field.json()));
    let or = |name: &str, otherwise: Value| match given(name) {
        Value::Null => otherwise,
        value => value,
    };
    if let Some(metadata) = object.get("metadata") {
        metadata.object()?;
    }
    let mut reasoning = or("reasoning", json!({}));
    if reasoning["effort"].is_null() {
        reasoning["effort"] = json!(match thinking {
            Thinking::Off => "none",
            Thinking::On(Effort::Low) => "low",
            Thinking::On(Effort::High) => "high",
            Thinking::On(Effort::Max) => "max",
        });
    }
    if reasoning.get("summary").is_none() {
        reasoning["summary"] = Value::Null;
    }
    let mut text = or("text", json!({}));
    if text["format"].is_null() {
        text["format"] = json!({ "type": "text" });
    }
    Ok(json!({
        "instructions": given("instructions"),
        "max_output_tokens": or("max_output_tokens", given("max_tokens")),
        "max_tool_calls": given("max_tool_calls"),
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": given("previous_response_id"),
        "prompt_cache_key": given("prompt_cache_key"),
        "reasoning": reasoning,
        "safety_identifier": given("safety_identifier"),
        "service_tier": "default",
        "store": store,
        "temperature": or("temperature", json!(1.0)),
        "text": text,
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": or("tools", json!([])),
        "top_logprobs": or("top_logprobs", json!(0)),
        "top_p": or("top_p", json!(1.0)),
        "truncation": or("truncation", json!("disabled")),
        "user": given("user"),
        "metadata": or("metadata", json!({})),
    }))
}

/// A value as clients read it. Numbers that no 64-bit float has become the nearest.
pub fn plain(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::from(*value),
        Json::Number(spelling) => serde_json::from_str(spelling).unwrap_or(Value::Null),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(plain).collect(),
        Json::Object(entries) => {
            Value::Object(entries.iter().map(|(name, value)| (name.clone(), plain(value))).collect())
        }
    }
}

/// Somewhere to read requests, for tests.
#[cfg(test)]
pub(crate) fn with_context<T>(test: impl FnOnce(Context<'_>) -> T) -> T {
    test(Context { config: &ServerConfig::default(), store: &ResponseStore::new(1, 1 << 20), seal: &Seal::new(&[]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::official;

    fn read(body: &Json) -> Result<ResponsesRequest, ApiError> {
        with_context(|context| ResponsesRequest::read(body, context))
    }

    /// Requests on which we differ from the hosted service, on purpose.
    const DIFFERENT: [(&str, &str); 7] = [
        ("system item late", "it stays where it is, so that what is before it stays cached"),
        ("tool_choice named", "the tool's name is forced, too"),
        ("tool_choice required while thinking", "the call is forced after the reasoning"),
        ("custom tool apply_patch", "it is shown as the client describes it"),
        ("custom tool other", "all are possible"),
        ("output missing", "the last assistant turn may have unanswered calls"),
        ("previous_response_id ignored by the library", "it is not ignored"),
    ];

    #[test]
    fn prompts_are_those_of_the_official_library() {
        official::compare(Api::Responses, &DIFFERENT, 13, |body| Ok(official::chat_of(read(body)?.generation.prompt)));
    }

    #[test]
    fn every_refusal_names_the_field() {
        let schema = r#"{"type": "json_schema", "name": "x", "strict": false}"#;
        for (fields, param) in [
            (r#""input": []"#.to_owned(), "input"),
            (r#""input": 5"#.to_owned(), "input"),
            (r#""model": """#.to_owned(), "model"),
            (r#""instructions": ["x"]"#.to_owned(), "instructions"),
            (r#""conversation": "conv_1""#.to_owned(), "conversation"),
            (r#""prompt": {"id": "p"}"#.to_owned(), "prompt"),
            (r#""background": true"#.to_owned(), "background"),
            (r#""store": "no""#.to_owned(), "store"),
            (r#""include": "all""#.to_owned(), "include"),
            (r#""include": [5]"#.to_owned(), "include[0]"),
            (r#""metadata": []"#.to_owned(), "metadata"),
            (r#""max_output_tokens": 0"#.to_owned(), "max_output_tokens"),
            (r#""top_logprobs": 21"#.to_owned(), "top_logprobs"),
            (r#""reasoning": "high""#.to_owned(), "reasoning"),
            (r#""reasoning": {"effort": "much"}"#.to_owned(), "reasoning.effort"),
            (r#""reasoning": {"summary": "long"}"#.to_owned(), "reasoning.summary"),
            (r#""text": {"format": {"type": "xml"}}"#.to_owned(), "text.format.type"),
            (format!(r#""text": {{"format": {schema}}}"#), "text.format.schema"),
            (r#""tools": [{"type": "namespace", "name": "n"}]"#.to_owned(), "tools[0].tools"),
            (r#""tools": [{"name": "f"}]"#.to_owned(), "tools[0].type"),
            (r#""tools": [{"type": "custom"}]"#.to_owned(), "tools[0].name"),
            (
                r#""tools": [{"type": "namespace", "name": "n\"", "tools": [{"type": "function", "name": "f"}]}]"#
                    .to_owned(),
                "tools[0].tools[0].name",
            ),
            (
                r#""tools": [{"type": "custom", "name": "c", "format": {"type": "grammar"}}]"#.to_owned(),
                "tools[0].format.definition",
            ),
            (
                r#""tools": [{"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "bnf", "definition": ""}}]"#
                    .to_owned(),
                "tools[0].format.syntax",
            ),
            (r#""tools": [{"type": "custom", "name": "c", "format": {"type": "xml"}}]"#.to_owned(), "tools[0].format.type"),
            (r#""tool_choice": "always""#.to_owned(), "tool_choice"),
            (r#""tool_choice": {"type": "allowed_tools", "mode": "auto"}"#.to_owned(), "tool_choice.tools"),
            (
                r#""tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}"#
                    .to_owned(),
                "tool_choice.tools[0]",
            ),
            (r#""tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}"#.to_owned(), "tool_choice"),
            (r#""previous_response_id": "resp_x""#.to_owned(), "previous_response_id"),
        ] {
            let input = if fields.starts_with(r#""input""#) { "" } else { r#""input": "x", "# };
            let body = format!("{{{input}{fields}}}");
            let error = read(&Json::parse(&body).expect(&body)).expect_err(&body);
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
            assert_eq!(error.kind.status(), 400);
        }
    }

    #[test]
    fn tools_of_all_kinds_are_shown_or_left_out() {
        let body = r#"{"input": "x", "tools": [
            {"type": "web_search", "external_web_access": true},
            {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn", "strict": false}]},
            {"type": "custom", "name": "patch", "description": "Patches.", "format": {"type": "grammar", "syntax": "lark", "definition": "start: X\n"}}],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "namespace": "agents", "name": "spawn"}]},
            "store": false, "frobnicate": 1}"#;
        let request = read(&Json::parse(body).expect("valid")).expect("accepted");
        let PromptSource::Chat(chat) = &request.generation.prompt else { unreachable!("responses are chats") };
        let shown: Vec<String> = chat.conversation.tools.iter().map(|tool| tool.definition().to_string()).collect();
        let patch = r#"{"name": "patch", "description": "Patches.\n\nThe input must follow this grammar (lark):\nstart: X", "parameters": {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}}"#;
        assert_eq!(shown, [r#"{"name": "agents__spawn", "description": "", "parameters": {}}"#, patch]);
        assert_eq!(chat.conversation.tool_choice, ds4_chat::conversation::ToolChoice::Required);
        let allowed = chat.allowed_tools.as_ref().map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(allowed, Some(vec!["agents__spawn"]));
        assert_eq!(request.ignored, ["frobnicate", r#"tools[0] of type "web_search""#]);
        let tool = request.tools.by_known_name("agents__spawn");
        assert_eq!((tool.name.as_str(), tool.namespace.as_deref()), ("spawn", Some("agents")));
        assert!(!request.store && request.echo["tools"][1]["name"] == "agents");
    }
}
