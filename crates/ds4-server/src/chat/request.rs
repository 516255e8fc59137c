//! The request of a chat completion.

use std::collections::BTreeSet;

use ds4_chat::conversation::{Conversation, Message, ResponseFormat, Tool, ToolChoice, TurnEnd};
use ds4_chat::json::Json;

use super::messages::messages;
use crate::api::Api;
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};
use crate::generation::{ChatPrompt, ClientSampling, GenerationRequest, PromptSource, Strict};
use crate::request_fields::{AllowedTools, MAX_TOKENS, ThinkingFields, ToolList, logit_bias, sampling, stop, thinking};
use crate::session::session_name;

/// A chat request that is worth preparing.
#[derive(Debug)]
pub struct ChatRequest {
    /// The model's name, to be echoed.
    pub model: String,
    /// What to generate.
    pub generation: GenerationRequest,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with a chunk for the usage.
    pub include_usage: bool,
    /// Whether the answer may have reasoning.
    pub thinking: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// Fields of the request that mean nothing here.
    pub ignored: Vec<String>,
}

/// Fields that are known and have no effect on a server of one's own.
pub(crate) const WITHOUT_EFFECT: [&str; 9] = [
    "prediction",
    "store",
    "metadata",
    "user",
    "service_tier",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
    "web_search_options",
];

impl ChatRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The first field that is wrong or asks for what the server does not do, by its path.
    pub fn read(body: &Json, config: &ServerConfig) -> Result<Self, ApiError> {
        let object = Object::root(body)?;
        let model = object.get("model").map(|field| field.str()).transpose()?;
        if model == Some("") {
            return Err(ApiError::invalid("model", "model is an empty string; name a model or leave the field out"));
        }
        refuse_unsupported(&object)?;
        let thinking = thinking(
            &ThinkingFields {
                thinking: object.get("thinking"),
                think: object.get("think"),
                effort: object.get("reasoning_effort"),
                model: model.unwrap_or_default(),
            },
            config,
        )?;
        let mut strict = Strict::default();
        let tools = tools(&object, config, &mut strict)?;
        let (tool_choice, allowed_tools) = tool_choice(&object, &tools)?;
        let (response_format, strict_format) = response_format(&object)?;
        strict.format = strict_format;
        let has_tools = !tools.is_empty();
        let conversation = Conversation {
            messages: messages(&object.required("messages")?, config)?,
            tool_choice,
            response_format,
            tools,
        };
        check_prefix(&conversation)?;
        let stream = flag(&object, "stream")?.unwrap_or(false);
        let include_usage = include_usage(&object, stream)?;
        let sampling = chat_sampling(&object)?;
        let logprobs = sampling.logprobs.is_some();
        // The later name wins.
        let max_tokens = object.get("max_completion_tokens").or_else(|| object.get("max_tokens"));
        let max_tokens = max_tokens.map(|field| field.integer(1, MAX_TOKENS)).transpose()?;
        let stop = object.get("stop").map(|field| stop(&field)).transpose()?.unwrap_or_default();
        let parallel = flag(&object, "parallel_tool_calls")?.unwrap_or(true);
        for name in WITHOUT_EFFECT {
            object.get(name);
        }
        let single_call = has_tools && !parallel;
        let chat = ChatPrompt { single_call, allowed_tools, strict, ..ChatPrompt::new(conversation, thinking) };
        Ok(Self {
            model: model.unwrap_or(&config.model_id).to_owned(),
            generation: GenerationRequest {
                sampling,
                max_tokens: max_tokens.and_then(|value| usize::try_from(value).ok()),
                stop,
                session: object.get("prompt_cache_key").and_then(|key| session_name(key.str().ok()?)),
                ..GenerationRequest::new(Api::Chat, PromptSource::Chat(Box::new(chat)))
            },
            stream,
            include_usage,
            thinking: thinking.is_on(),
            logprobs,
            ignored: object.unread(),
        })
    }
}

fn flag(object: &Object<'_>, name: &str) -> Result<Option<bool>, ApiError> {
    object.get(name).map(|field| field.bool()).transpose()
}

fn refuse_unsupported(object: &Object<'_>) -> Result<(), ApiError> {
    if let Some(n) = object.get("n")
        && n.integer(1, 128)? != 1
    {
        let message = "n must be 1: this server gives one answer per request; send the request several times";
        return Err(ApiError::unsupported(ErrorKind::UnsupportedValue, "n", message));
    }
    for (name, instead) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if object.get(name).is_some() {
            let message = format!("{name} is not supported any more; use {instead}");
            return Err(ApiError::unsupported(ErrorKind::UnsupportedParameter, name, message));
        }
    }
    let wants_audio = object.get("modalities").is_some_and(|field| {
        field.json().as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind.as_str() == Some("audio")))
    });
    if wants_audio || object.get("audio").is_some() {
        let message = "audio output is not supported: this model writes text only";
        return Err(ApiError::unsupported(ErrorKind::UnsupportedParameter, "audio", message));
    }
    Ok(())
}

fn tools(object: &Object<'_>, config: &ServerConfig, strict: &mut Strict) -> Result<Vec<Tool>, ApiError> {
    let mut list = ToolList::new(&config.limits);
    let fields = object.get("tools").map(|field| field.array()).transpose()?.unwrap_or_default();
    for field in &fields {
        let tool = field.object()?;
        let kind = tool.get("type");
        match kind.as_ref().map(|kind| kind.str()).transpose()? {
            None | Some("function") => {
                let function = tool.required("function")?.object()?;
                let name = function.required("name")?;
                if flag(&function, "strict")?.unwrap_or(false) {
                    strict.tools.insert(name.str()?.to_owned());
                }
                list.add(&name, function.get("description").as_ref(), function.get("parameters").as_ref())?;
            }
            // Tools of other types are run by the service that invented them. The model is not told of them.
            Some(_) => {}
        }
    }
    Ok(list.into_tools())
}

/// Whether a tool is to be called, and the only ones that may be, if that is said.
fn tool_choice(object: &Object<'_>, tools: &[Tool]) -> Result<(ToolChoice, Option<BTreeSet<String>>), ApiError> {
    let Some(field) = object.get("tool_choice") else { return Ok((ToolChoice::Auto, None)) };
    if field.json().as_str().is_some() {
        return Ok((tool_choice_mode(&field)?, None));
    }
    let choice = field.object()?;
    let kind = choice.required("type")?;
    match kind.str()? {
        "function" => Ok((ToolChoice::Named(function_name(&choice)?.to_owned()), None)),
        "allowed_tools" => {
            let nested = choice.get("allowed_tools").map(|field| field.object()).transpose()?;
            let choice = nested.as_ref().unwrap_or(&choice);
            let mut allowed = AllowedTools::new(tools);
            for field in choice.required("tools")?.array()? {
                let tool = field.object()?;
                if matches!(tool.get("type").map(|kind| kind.str()).transpose()?, None | Some("function")) {
                    allowed.add(&field, function_name(&tool)?)?;
                }
            }
            Ok(allowed.choice(tool_choice_mode(&choice.required("mode")?)?))
        }
        _ => Err(kind.must_be("\"function\" or \"allowed_tools\"")),
    }
}

fn function_name<'a>(choice: &Object<'a>) -> Result<&'a str, ApiError> {
    let name = match choice.get("function") {
        Some(function) => function.object()?.required("name")?,
        None => choice.required("name")?,
    };
    name.str()
}

fn tool_choice_mode(field: &Field<'_>) -> Result<ToolChoice, ApiError> {
    match field.str()? {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        _ => Err(field.must_be("one of none, auto, required, or an object that names a function")),
    }
}

/// The format, and whether its schema is to be followed to the letter.
fn response_format(object: &Object<'_>) -> Result<(ResponseFormat, bool), ApiError> {
    let Some(field) = object.get("response_format") else { return Ok((ResponseFormat::Text, false)) };
    let format = field.object()?;
    let kind = format.required("type")?;
    match kind.str()? {
        "text" => Ok((ResponseFormat::Text, false)),
        "json_object" => Ok((ResponseFormat::JsonObject, false)),
        "json_schema" => {
            let described = format.required("json_schema")?.object()?;
            let strict = flag(&described, "strict")?.unwrap_or(false);
            let schema = described.required("schema")?;
            schema.object()?;
            Ok((ResponseFormat::JsonSchema(schema.json().clone()), strict))
        }
        _ => Err(kind.must_be("one of text, json_object, json_schema")),
    }
}

fn check_prefix(conversation: &Conversation) -> Result<(), ApiError> {
    let is_continued =
        matches!(conversation.messages.last(), Some(Message::Assistant(last)) if last.end == TurnEnd::Continued);
    if is_continued && !(conversation.tools.is_empty() && conversation.response_format == ResponseFormat::Text) {
        let path = format!("messages[{}].prefix", conversation.messages.len() - 1);
        return Err(ApiError::invalid(path, "a message cannot be continued together with tools or a response_format"));
    }
    Ok(())
}

fn include_usage(object: &Object<'_>, stream: bool) -> Result<bool, ApiError> {
    let Some(field) = object.get("stream_options") else { return Ok(false) };
    if !stream {
        return Err(field.refused("stream_options is only possible together with \"stream\": true"));
    }
    Ok(flag(&field.object()?, "include_usage")?.unwrap_or(false))
}

fn chat_sampling(object: &Object<'_>) -> Result<ClientSampling, ApiError> {
    let mut sampling = sampling(object)?;
    if let Some(field) = object.get("logit_bias") {
        sampling.logit_bias = logit_bias(&field)?;
    }
    let wants = flag(object, "logprobs")?.unwrap_or(false);
    sampling.logprobs = wants.then_some(0);
    if let Some(field) = object.get("top_logprobs") {
        let count = field.integer(0, 20)?;
        if !wants {
            return Err(field.refused("top_logprobs is only possible together with \"logprobs\": true"));
        }
        sampling.logprobs = usize::try_from(count).ok();
    }
    Ok(sampling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::official;

    /// Requests on which we differ from the hosted service, on purpose.
    const DIFFERENT: [(&str, &str); 6] = [
        ("developer role", "agents send it"),
        ("tool result missing", "the last assistant turn may have unanswered calls"),
        ("tool_calls empty", "clients send it beside content"),
        ("regex", "no such constraint"),
        ("tools required while thinking", "the call is forced after the reasoning"),
        ("strict tool", "the schema is shown as the client wrote it"),
    ];

    #[test]
    fn prompts_are_those_of_the_official_library() {
        official::compare(Api::Chat, &DIFFERENT, 41, |body| {
            Ok(official::chat_of(ChatRequest::read(body, &ServerConfig::default())?.generation.prompt))
        });
    }

    #[test]
    fn every_refusal_names_the_field() {
        for (fields, param) in [
            (r#""messages": []"#, "messages"),
            (r#""messages": {}"#, "messages"),
            (r#""messages": [[]]"#, "messages[0]"),
            (r#""messages": [{"role": "user", "content": null}]"#, "messages[0].content"),
            (r#""messages": [{"role": "", "content": "x"}]"#, "messages[0].role"),
            (r#""messages": [{"role": "assistant"}]"#, "messages[0].content"),
            (
                r#""messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]"#,
                "messages[0].tool_calls[0].function",
            ),
            (r#""n": 2"#, "n"),
            (r#""functions": []"#, "functions"),
            (r#""audio": {}"#, "audio"),
            (r#""model": """#, "model"),
            (r#""model": 5"#, "model"),
            (r#""max_tokens": 0"#, "max_tokens"),
            (r#""max_completion_tokens": 393217"#, "max_completion_tokens"),
            (r#""stream": "yes""#, "stream"),
            (r#""stream_options": {}"#, "stream_options"),
            (r#""top_logprobs": 3"#, "top_logprobs"),
            (r#""logprobs": true, "top_logprobs": 21"#, "top_logprobs"),
            (r#""tools": [[]]"#, "tools[0]"),
            (r#""tools": [{"type": "function", "function": {"name": ""}}]"#, "tools[0].function.name"),
            (r#""tools": [{"type": "function", "function": {"name": "a\">"}}]"#, "tools[0].function.name"),
            (
                r#""tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]"#,
                "tools[0].function.parameters",
            ),
            (r#""tool_choice": "always""#, "tool_choice"),
            (
                r#""response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}"#,
                "response_format.json_schema.strict",
            ),
            (
                r#""response_format": {"type": "json_schema", "json_schema": {"schema": []}}"#,
                "response_format.json_schema.schema",
            ),
            (r#""tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]"#, "tools[0].function.strict"),
        ] {
            let messages = r#""messages": [{"role": "user", "content": "x"}]"#;
            let body = if fields.starts_with(r#""messages""#) {
                format!("{{{fields}}}")
            } else {
                format!("{{{messages}, {fields}}}")
            };
            let error =
                ChatRequest::read(&Json::parse(&body).expect(&body), &ServerConfig::default()).expect_err(&body);
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
            assert_eq!(error.kind.status(), 400);
        }
    }

    #[test]
    fn what_means_nothing_is_named_for_the_trace() {
        let body = r#"{"messages": [{"role": "user", "content": "x"}], "store": true, "frobnicate": 1, "user": "u"}"#;
        let request =
            ChatRequest::read(&Json::parse(body).expect("valid"), &ServerConfig::default()).expect("accepted");
        assert_eq!(request.ignored, ["frobnicate"]);
    }
}
