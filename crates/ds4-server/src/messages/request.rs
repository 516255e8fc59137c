//! The request of a message.

use ds4_chat::conversation::{Conversation, ResponseFormat};
use ds4_chat::json::Json;

use super::history::History;
use super::tools::Tools;
use crate::api::Api;
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::Object;
use crate::generation::{ChatPrompt, GenerationRequest, PromptSource, Strict};
use crate::request_fields::{MAX_TOKENS, ThinkingFields, sampling, stop, thinking};

/// Fields that are known and have no effect on a server of one's own.
pub(crate) const WITHOUT_EFFECT: [&str; 12] = [
    "metadata",
    "service_tier",
    "container",
    "mcp_servers",
    "context_management",
    "cache_control",
    "inference_geo",
    "speed",
    "betas",
    "diagnostics",
    "user_profile_id",
    "workspace_id",
];

/// The part of a request that becomes the prompt.
#[derive(Debug)]
pub struct PromptRequest {
    /// The model's name, to be echoed.
    pub model: String,
    /// What the model sees.
    pub prompt: ChatPrompt,
    /// Definitions that mean nothing here.
    dropped: Vec<String>,
}

impl PromptRequest {
    /// Reads it.
    ///
    /// # Errors
    /// The first field that is wrong or asks for what the server does not do, by its path.
    pub fn read(body: &Json, config: &ServerConfig) -> Result<Self, ApiError> {
        Self::of(&Object::root(body)?, config)
    }

    fn of(object: &Object<'_>, config: &ServerConfig) -> Result<Self, ApiError> {
        let model = object.get("model").map(|field| field.str()).transpose()?;
        if model == Some("") {
            return Err(ApiError::invalid("model", "model is an empty string; name a model or leave the field out"));
        }
        let output = object.get("output_config").map(|field| field.object()).transpose()?;
        let thinking = thinking(
            &ThinkingFields {
                thinking: object.get("thinking"),
                think: None,
                effort: output.as_ref().and_then(|output| output.get("effort")),
                model: model.unwrap_or_default(),
            },
            config,
        )?;
        let tools = Tools::read(object, config)?;
        let history = History::read(object, &tools, config)?;
        // The name that the field had before `output_config`.
        let format = output.as_ref().and_then(|output| output.get("format")).or_else(|| object.get("output_format"));
        let response_format = match &format {
            None => ResponseFormat::Text,
            Some(field) => {
                let format = field.object()?;
                let kind = format.required("type")?;
                if kind.str()? != "json_schema" {
                    return Err(kind.must_be("\"json_schema\""));
                }
                let schema = format.required("schema")?;
                schema.object()?;
                ResponseFormat::JsonSchema(schema.json().clone())
            }
        };
        let conversation =
            Conversation { messages: history.messages, tools: tools.shown, response_format, tool_choice: tools.choice };
        let prompt = ChatPrompt {
            single_call: tools.single_call,
            turn_ids: history.signatures,
            // A format is followed as far as it can be: clients that ask for one cannot do without an answer.
            strict: Strict { tools: tools.strict, ..Strict::default() },
            tools_found: history.found.iter().filter_map(|name| tools.deferred.get(name).cloned()).collect(),
            ..ChatPrompt::new(conversation, thinking)
        };
        Ok(Self { model: model.unwrap_or(&config.model_id).to_owned(), prompt, dropped: tools.dropped })
    }
}

/// A messages request that is worth preparing.
#[derive(Debug)]
pub struct MessagesRequest {
    /// The model's name, to be echoed.
    pub model: String,
    /// What to generate.
    pub generation: GenerationRequest,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Fields of the request that mean nothing here.
    pub ignored: Vec<String>,
}

impl MessagesRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The first field that is wrong or asks for what the server does not do, by its path.
    pub fn read(body: &Json, config: &ServerConfig) -> Result<Self, ApiError> {
        let object = Object::root(body)?;
        if let Some(field) = object.get("thread") {
            let message = "conversations are not kept between requests here; leave thread out and send all messages";
            return Err(ApiError::unsupported(ErrorKind::UnsupportedThread, field.path(), message));
        }
        let PromptRequest { model, prompt, dropped } = PromptRequest::of(&object, config)?;
        // Clients ask for what their own models may write; more than ours may is no mistake.
        let max_tokens = object.get("max_tokens").map(|field| field.integer(1, i64::MAX)).transpose()?;
        let max_tokens = max_tokens.map(|tokens| tokens.min(MAX_TOKENS));
        let stop = object.get("stop_sequences").map(|field| stop(&field)).transpose()?.unwrap_or_default();
        let sampling = sampling(&object)?;
        let stream = object.get("stream").map(|field| field.bool()).transpose()?.unwrap_or(false);
        for name in WITHOUT_EFFECT {
            object.get(name);
        }
        let mut ignored = object.unread();
        ignored.extend(dropped);
        Ok(Self {
            model,
            generation: GenerationRequest {
                sampling,
                max_tokens: max_tokens.and_then(|tokens| usize::try_from(tokens).ok()),
                stop,
                ..GenerationRequest::new(Api::Messages, PromptSource::Chat(Box::new(prompt)))
            },
            stream,
            ignored,
        })
    }
}

#[cfg(test)]
mod tests {
    use ds4_chat::conversation::ToolChoice;

    use super::*;
    use crate::config::UnsupportedMedia;
    use crate::official;

    fn read(body: &Json) -> Result<PromptRequest, ApiError> {
        MessagesRequest::read(body, &ServerConfig::default())?;
        PromptRequest::read(body, &ServerConfig::default())
    }

    fn prompt_of(body: &Json) -> Result<String, ApiError> {
        official::text_of(&read(body)?.prompt, Api::Messages)
    }

    fn json(text: &str) -> Json {
        Json::parse(text).expect(text)
    }

    /// The prompt without the text for effort.
    fn short(messages: &str, fields: &str) -> String {
        let body = json(&format!(r#"{{"messages": [{messages}], "output_config": {{"effort": "low"}}{fields}}}"#));
        let prompt = prompt_of(&body).expect(messages);
        prompt.strip_prefix("<｜begin▁of▁sentence｜>").expect("a beginning").to_owned()
    }

    /// Requests on which we differ from the hosted service, on purpose.
    const DIFFERENT: [(&str, &str); 2] = [
        ("tool_choice tool", "the demanded tool's name is in the prompt already"),
        ("typed custom tool", "clients send it, and it means the same as no type"),
    ];

    #[test]
    fn prompts_are_those_of_the_official_library() {
        official::compare(Api::Messages, &DIFFERENT, 18, |body| Ok(read(body)?.prompt));
    }

    #[test]
    fn every_refusal_names_the_field() {
        for (fields, param) in [
            (r#""messages": []"#, "messages"),
            (r#""messages": "x""#, "messages"),
            (r#""messages": [{"role": "user"}]"#, "messages[0].content"),
            (r#""messages": [{"role": "user", "content": []}]"#, "messages[0].content"),
            (r#""messages": [{"role": "user", "content": [null]}]"#, "messages[0].content[0]"),
            (r#""messages": [{"role": "tool", "content": "x"}]"#, "messages[0].role"),
            (r#""messages": [{"role": "user", "content": [{"type": "video"}]}]"#, "messages[0].content[0].type"),
            (r#""messages": [{"role": "user", "content": [{"type": "text"}]}]"#, "messages[0].content[0].text"),
            (r#""messages": [{"role": "assistant", "content": [{"type": "image"}]}]"#, "messages[0].content[0].type"),
            (
                r#""messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "x"}]}]"#,
                "messages[0].content[0].input",
            ),
            (
                r#""messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]"#,
                "messages[0].content[0]",
            ),
            (
                r#""messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "a"}]}]"#,
                "messages[0].content[1]",
            ),
            (r#""system": [{"type": "image"}]"#, "system[0].type"),
            (r#""system": 5"#, "system"),
            (r#""model": """#, "model"),
            (r#""max_tokens": 0"#, "max_tokens"),
            (r#""max_tokens": "5""#, "max_tokens"),
            (r#""temperature": 3"#, "temperature"),
            (r#""stream": 1"#, "stream"),
            (r#""stop_sequences": ["a", ""]"#, "stop_sequences[1]"),
            (r#""thinking": {"type": "on"}"#, "thinking.type"),
            (r#""output_config": {"effort": "much"}"#, "output_config.effort"),
            (r#""output_config": {"format": {"type": "xml"}}"#, "output_config.format.type"),
            (r#""tools": [{"input_schema": {}}]"#, "tools[0].name"),
            (r#""tools": [{"name": "a b"}]"#, "tools[0].name"),
            (r#""tools": [{"name": "f"}, {"name": "f"}]"#, "tools[1].name"),
            (r#""tools": [{"name": "f", "input_schema": {"type": "string"}}]"#, "tools[0].input_schema.type"),
            (r#""tool_choice": "auto""#, "tool_choice"),
            (r#""tool_choice": {"type": "required"}"#, "tool_choice.type"),
            (
                r#""tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "tool", "name": "web_search"}"#,
                "tool_choice.name",
            ),
        ] {
            let messages = r#""messages": [{"role": "user", "content": "x"}]"#;
            let body = if fields.starts_with(r#""messages""#) {
                format!("{{{fields}}}")
            } else {
                format!("{{{messages}, {fields}}}")
            };
            let error = read(&json(&body)).expect_err(&body);
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
            assert_eq!(error.kind.status(), 400);
        }
    }

    #[test]
    fn more_tokens_than_the_model_can_write_are_no_mistake() {
        let body = json(r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1000000}"#);
        let request = MessagesRequest::read(&body, &ServerConfig::default()).expect("accepted");
        assert_eq!(request.generation.max_tokens, usize::try_from(MAX_TOKENS).ok());
    }

    #[test]
    fn content_of_every_kind_becomes_text() {
        for (block, expected) in [
            (r#"{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}"#, "a"),
            (r#"{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Body"}}"#, "Body"),
            (
                r#"{"type": "document", "title": "T", "context": "C", "source": {"type": "content", "content": [{"type": "text", "text": "Body"}]}}"#,
                "T\nC\n\nBody",
            ),
            (
                r#"{"type": "document", "source": {"type": "url", "url": "http://x"}}"#,
                "[Unsupported document type: url]",
            ),
            (
                r#"{"type": "search_result", "source": "http://x", "title": "T", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}"#,
                "T\nhttp://x\n\na\n\nb",
            ),
        ] {
            let message = format!(r#"{{"role": "user", "content": [{block}]}}"#);
            assert_eq!(short(&message, ""), format!("<｜User｜>{expected}<｜Assistant｜><think>"), "{block}");
        }
        let image = r#"{"messages": [{"role": "user", "content": ["x", {"type": "image"}]}]}"#.replace(r#""x", "#, "");
        let strict = ServerConfig { unsupported_media: UnsupportedMedia::Error, ..ServerConfig::default() };
        let error = PromptRequest::read(&json(&image), &strict).expect_err("refused");
        assert_eq!(error.param.as_deref(), Some("messages[0].content[0]"));
    }

    #[test]
    fn what_a_result_holds_is_shown_as_far_as_it_is_text() {
        let call = r#"{"role": "user", "content": "x"}, {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "x"}, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            {"type": "tool_use", "id": "a", "name": "f", "input": {}}]}"#;
        for (content, expected) in [
            (r#""content": "x""#, "x"),
            (r#""is_error": true"#, ""),
            (
                r#""content": [{"type": "text", "text": "a"}, {"type": "image", "source": {}}]"#,
                "a\n\n[Unsupported image]",
            ),
            (r#""content": [{"type": "hologram"}]"#, "[Unsupported hologram]"),
        ] {
            let result = format!(
                r#"{call}, {{"role": "user", "content": [{{"type": "tool_result", "tool_use_id": "a", {content}}}, {{"type": "text", "text": "and?"}}]}}"#
            );
            let prompt = short(&result, "");
            let end = format!("<｜User｜><tool_result>{expected}</tool_result>\n\nand?<｜Assistant｜><think>");
            assert!(prompt.ends_with(&end), "{prompt}");
            assert!(!prompt.contains("web_search"), "{prompt}");
        }
    }

    #[test]
    fn system_messages_stay_where_they_are() {
        let messages =
            r#"{"role": "user", "content": "a"}, {"role": "system", "content": [{"type": "text", "text": "Now."}]}"#;
        let system = r#", "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=1.abc;"}, {"type": "text", "text": "S"}]"#;
        let expected = "S<｜User｜>a\n\n<system-reminder>\nNow.\n</system-reminder><｜Assistant｜><think>";
        assert_eq!(short(messages, system), expected);
    }

    /// As Claude Code does it: the tool found is inserted among the others, and must not change the prompt's beginning.
    #[test]
    fn a_deferred_tool_is_shown_where_it_was_found() {
        let search = r#"{"name": "ToolSearch", "input_schema": {"type": "object"}}"#;
        let placeholder =
            r#"{"name": "DeferredToolPlaceholder", "input_schema": {"type": "object"}, "defer_loading": true}"#;
        let fetch =
            r#"{"name": "WebFetch", "description": "d", "input_schema": {"type": "object"}, "defer_loading": true}"#;
        let before = short(r#"{"role": "user", "content": "x"}"#, &format!(r#", "tools": [{placeholder}, {search}]"#));
        assert!(!before.contains("Placeholder"));
        let found = r#"{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "ToolSearch", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_reference", "tool_name": "WebFetch"},
            {"type": "tool_reference", "tool_name": "WebFetch"}, {"type": "tool_reference", "tool_name": "ToolSearch"}, {"type": "tool_reference", "tool_name": "Gone"}]}]}"#;
        let after = short(found, &format!(r#", "tools": [{placeholder}, {fetch}, {search}]"#));
        let head = before.strip_suffix("<｜Assistant｜><think>").expect("an opened turn");
        assert!(after.starts_with(head), "{after}");
        let shown = "<tool_result>{\"name\": \"WebFetch\", \"description\": \"d\", \"parameters\": {\"type\": \"object\"}}\n\n\
                     WebFetch, as above\n\nToolSearch, as above\n\n[Unsupported tool Gone]</tool_result>";
        assert!(after.contains(shown), "{after}");
        let body = json(&format!(r#"{{"messages": [{found}], "tools": [{placeholder}, {fetch}, {search}]}}"#));
        let callable = read(&body).expect("accepted").prompt.tools_found;
        assert_eq!(callable.iter().map(|tool| tool.name()).collect::<Vec<_>>(), ["WebFetch"]);
        // Demanded, or with nobody to search for them, they are shown.
        for fields in [
            format!(r#""tools": [{fetch}, {search}], "tool_choice": {{"type": "tool", "name": "WebFetch"}}"#),
            format!(r#""tools": [{fetch}]"#),
            format!(
                r#""tools": [{fetch}, {search}, {{"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}}]"#
            ),
        ] {
            let body = json(&format!(r#"{{"messages": [{{"role": "user", "content": "x"}}], {fields}}}"#));
            let tools = read(&body).expect(&fields).prompt.conversation.tools;
            assert!(tools.iter().any(|tool| tool.name() == "WebFetch"), "{fields}");
        }
    }

    #[test]
    fn tools_that_the_service_would_run_are_dropped_and_named() {
        let body = json(
            r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
                {"type": "custom", "name": "f", "strict": true}], "tool_choice": {"type": "any"}, "context_management": {"edits": []}, "frobnicate": 1}"#,
        );
        let request = MessagesRequest::read(&body, &ServerConfig::default()).expect("accepted");
        assert_eq!(request.ignored, ["frobnicate", "tools[0]"]);
        let PromptSource::Chat(prompt) = request.generation.prompt else { unreachable!("messages are chats") };
        assert_eq!(prompt.conversation.tool_choice, ToolChoice::Required);
        assert_eq!(prompt.conversation.tools.iter().map(|tool| tool.name()).collect::<Vec<_>>(), ["f"]);
        assert!(prompt.strict.tools.contains("f"));
    }
}
