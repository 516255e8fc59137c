//! From the messages of a request to a conversation. One message becomes several: results of tools are messages of
//! their own there.

use std::collections::BTreeSet;

use ds4_chat::conversation::{AssistantMessage, Block, Content, Instructions, Message, ToolCall, TurnEnd};

use super::blocks::{document, search_result, text, text_blocks, unsupported};
use super::tools::Tools;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::fields::{Field, Object};
use crate::request_fields::{check_history, drop_billing_line, message_list};

/// The messages of a conversation.
#[derive(Debug, Default)]
pub struct History {
    /// The messages, those made of `system` first.
    pub messages: Vec<Message>,
    /// Signatures of reasoning that the client sent back, each with the index of its message in `messages`.
    pub signatures: Vec<(usize, String)>,
    /// Names of deferred tools that the model has found.
    pub found: BTreeSet<String>,
    /// Path of the part of the request that each of `messages` is made of.
    paths: Vec<String>,
}

impl History {
    /// Reads `system` and `messages`.
    ///
    /// # Errors
    /// The first block that is wrong, by its path.
    pub fn read(object: &Object<'_>, tools: &Tools, config: &ServerConfig) -> Result<Self, ApiError> {
        let mut history = Self::default();
        if let Some(field) = object.get("system") {
            let mut content = text_blocks(&field)?;
            drop_billing_line(&mut content);
            history.push(field.path(), Message::System(Instructions { content, ..Instructions::default() }));
        }
        for field in message_list(&object.required("messages")?, &config.limits)? {
            history.message(&field, tools, config)?;
        }
        if let Some(Message::Assistant(last)) = history.messages.last_mut()
            && last.tool_calls.is_empty()
            && !last.content.to_text().trim().is_empty()
        {
            last.end = TurnEnd::Continued;
        }
        check_history(&history.messages, |index| history.paths[index].clone())?;
        Ok(history)
    }

    fn push(&mut self, path: &str, message: Message) {
        self.messages.push(message);
        self.paths.push(path.to_owned());
    }

    fn message(&mut self, field: &Field<'_>, tools: &Tools, config: &ServerConfig) -> Result<(), ApiError> {
        let object = field.object()?;
        let role = object.required("role")?;
        let content = object.required("content")?;
        let blocks = match content.json().as_str() {
            Some(_) => Vec::new(),
            None if content.json().as_array().is_none() => {
                return Err(content.must_be("a string or an array of content blocks"));
            }
            None => content.array()?,
        };
        if content.json().as_array().is_some_and(<[_]>::is_empty) {
            let message = format!("{} is an empty array; a message needs at least one content block", content.path());
            return Err(content.refused(message));
        }
        match role.str()? {
            // Claude Code tells the model of its surroundings in such messages.
            "system" => {
                let instructions = Instructions { content: text_blocks(&content)?, ..Instructions::default() };
                self.push(field.path(), Message::System(instructions));
            }
            "user" => match content.json().as_str() {
                Some(text) => self.push(field.path(), Message::user(text)),
                None => self.user(field, &blocks, tools, config)?,
            },
            "assistant" => match content.json().as_str() {
                Some(text) => self.push(field.path(), Message::assistant(text)),
                None => self.assistant(field, &blocks)?,
            },
            _ => return Err(role.must_be("one of user, assistant, system")),
        }
        Ok(())
    }

    fn user(
        &mut self,
        field: &Field<'_>,
        blocks: &[Field<'_>],
        tools: &Tools,
        config: &ServerConfig,
    ) -> Result<(), ApiError> {
        let mut content = Vec::new();
        for block in blocks {
            let object = block.object()?;
            let kind = object.required("type")?;
            match kind.str()? {
                "tool_result" => {
                    if !content.is_empty() {
                        let message = format!(
                            "{} is a tool_result after other content; results must come first in a message",
                            block.path()
                        );
                        return Err(block.refused(message));
                    }
                    let result = self.tool_result(&object, tools, config)?;
                    self.push(block.path(), result);
                }
                "text" => content.push(text(&object)?),
                "image" => content.push(unsupported(block, "image", "Image".to_owned(), config)?),
                "document" => content.push(document(block, &object, config)?),
                "search_result" => content.push(search_result(&object)?),
                "container_upload" => content.push(unsupported(block, "file", "container_upload".to_owned(), config)?),
                _ => return Err(kind.must_be("one of text, image, document, search_result, tool_result")),
            }
        }
        if !content.is_empty() {
            self.push(field.path(), Message::User { content: Content(content), task: None });
        }
        Ok(())
    }

    fn assistant(&mut self, field: &Field<'_>, blocks: &[Field<'_>]) -> Result<(), ApiError> {
        let mut message = AssistantMessage::default();
        let mut reasoning = Vec::new();
        for block in blocks {
            let object = block.object()?;
            let kind = object.required("type")?;
            match kind.str()? {
                "text" => match text(&object)? {
                    Block::Text(text) if text.is_empty() => {}
                    block => message.content.0.push(block),
                },
                "thinking" => {
                    reasoning.extend(Some(object.required("thinking")?.str()?).filter(|text| !text.is_empty()));
                    let signature = object.get("signature").map(|field| field.str()).transpose()?;
                    // Whoever made it: foreign ones are not found, and then the text counts.
                    if let Some(signature) = signature.filter(|signature| !signature.is_empty()) {
                        self.signatures.push((self.messages.len(), signature.to_owned()));
                    }
                }
                "tool_use" => message.tool_calls.push(tool_use(&object)?),
                // Reasoning that only the hosted service can read.
                "redacted_thinking" => {}
                // Tools that the hosted service ran itself, and what they gave.
                "server_tool_use" | "mcp_tool_use" => {}
                other if other.ends_with("_tool_result") => {}
                _ => return Err(kind.must_be("one of text, thinking, redacted_thinking, tool_use")),
            }
        }
        message.reasoning = reasoning.join("\n\n");
        self.push(field.path(), Message::Assistant(message));
        Ok(())
    }

    fn tool_result(&mut self, object: &Object<'_>, tools: &Tools, config: &ServerConfig) -> Result<Message, ApiError> {
        let call_id = object.required("tool_use_id")?.str()?.to_owned();
        // That it failed, the client's text says; the model was not trained on any other mark.
        object.get("is_error").map(|flag| flag.bool()).transpose()?;
        let content = match object.get("content") {
            None => Content::default(),
            Some(field) => match field.json().as_str() {
                Some(text) => Content::text(text),
                None if field.json().as_array().is_none() => {
                    return Err(field.must_be("a string or an array of content blocks"));
                }
                None => {
                    let blocks = field.array()?;
                    let read = |block| self.result_block(block, tools, config);
                    Content(blocks.iter().map(read).collect::<Result<_, _>>()?)
                }
            },
        };
        Ok(Message::ToolResult { call_id: Some(call_id), content })
    }

    fn result_block(&mut self, block: &Field<'_>, tools: &Tools, config: &ServerConfig) -> Result<Block, ApiError> {
        let object = block.object()?;
        let kind = object.required("type")?;
        match kind.str()? {
            "text" => text(&object),
            // Here, and not at the prompt's beginning, the model learns of a tool that it searched for.
            "tool_reference" => {
                let name = object.required("tool_name")?.str()?;
                let deferred = tools.deferred.get(name);
                // Once: a small request must not become a large prompt.
                let is_new = deferred.is_some_and(|tool| self.found.insert(tool.name().to_owned()));
                Ok(match deferred {
                    Some(tool) if is_new => Block::Text(tool.definition().to_string()),
                    None if !tools.is_shown(name) => Block::Unsupported(format!("tool {name}")),
                    _ => Block::Text(format!("{name}, as above")),
                })
            }
            "document" => match object.required("source")?.object()?.required("type")?.str()? {
                "text" | "content" => document(block, &object, config),
                _ => unsupported(block, "document", "document".to_owned(), config),
            },
            "search_result" => search_result(&object),
            other => unsupported(block, other, other.to_owned(), config),
        }
    }
}

fn tool_use(object: &Object<'_>) -> Result<ToolCall, ApiError> {
    let arguments = match object.get("input") {
        Some(input) => {
            input.object()?;
            input.json().to_string()
        }
        None => "{}".to_owned(),
    };
    Ok(ToolCall {
        id: Some(object.required("id")?.str()?.to_owned()),
        name: object.required("name")?.str()?.to_owned(),
        arguments,
    })
}
