//! From input items to the messages of a conversation.

use ds4_chat::conversation::{AssistantMessage, Block, Content, Instructions, Message, ToolCall};
use ds4_chat::json::{Json, quote};

use super::sealed::Seal;
use super::tools::flat_name;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::fields::{Field, Object};
use crate::request_fields::{Owner, check_history, parts};

/// How ids of items that belong to one turn begin; what follows is the turn's.
pub const TURN_ITEM_PREFIXES: [&str; 2] = ["rs_", "msg_"];

/// The messages of a conversation as the items tell it.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The messages.
    pub messages: Vec<Message>,
    /// Turns of ours among them: index of the message, and the turn's id.
    pub turn_ids: Vec<(usize, String)>,
    /// Items that mean nothing here, for the trace.
    pub ignored: Vec<String>,
}

/// Reads items. Reasoning, assistant messages and calls that stand side by side become one assistant turn.
///
/// # Errors
/// The first item that is wrong, by its path.
pub fn transcript(items: &[Field<'_>], config: &ServerConfig, seal: &Seal) -> Result<Transcript, ApiError> {
    let mut reader = Reader { config, seal, transcript: Transcript::default(), paths: Vec::new(), turn: None };
    for item in items {
        reader.item(item)?;
    }
    reader.end_turn();
    let paths = reader.paths;
    check_history(&reader.transcript.messages, |index| paths.get(index).cloned().unwrap_or_default())?;
    Ok(reader.transcript)
}

struct Reader<'c> {
    config: &'c ServerConfig,
    seal: &'c Seal,
    transcript: Transcript,
    /// Path of the item with which each message begins.
    paths: Vec<String>,
    /// The assistant turn that is being put together.
    turn: Option<Turn>,
}

#[derive(Default)]
struct Turn {
    path: String,
    message: AssistantMessage,
    turn_id: Option<String>,
}

impl Reader<'_> {
    fn item(&mut self, field: &Field<'_>) -> Result<(), ApiError> {
        let item = field.object()?;
        let kind = item.get("type").map(|kind| kind.str()).transpose()?;
        match kind {
            None | Some("message") => self.message(field, &item),
            Some("reasoning") => self.reasoning(field, &item),
            Some("function_call") => {
                let namespace = item.get("namespace").map(|field| field.str()).transpose()?;
                let name = flat_name(namespace, item.required("name")?.str()?);
                let arguments = item.get("arguments").map(|field| field.str()).transpose()?.unwrap_or("{}").to_owned();
                self.call(field, &item, name, arguments)
            }
            Some("custom_tool_call") => {
                let namespace = item.get("namespace").map(|field| field.str()).transpose()?;
                let name = flat_name(namespace, item.required("name")?.str()?);
                let input = item.get("input").map(|field| field.str()).transpose()?.unwrap_or_default();
                self.call(field, &item, name, format!("{{\"input\": {}}}", quote(input)))
            }
            Some("function_call_output" | "custom_tool_call_output") => {
                let call_id = Some(item.required("call_id")?.str()?.to_owned());
                let content = item.get("output").map(|output| self.output(&output)).transpose()?.unwrap_or_default();
                self.push(field, Message::ToolResult { call_id, content });
                Ok(())
            }
            // Calls of tools that a service runs itself, references to what is not kept, and what is not invented yet.
            Some(other) => {
                self.transcript.ignored.push(format!("{} of type {other:?}", field.path()));
                Ok(())
            }
        }
    }

    fn message(&mut self, field: &Field<'_>, item: &Object<'_>) -> Result<(), ApiError> {
        let role = item.required("role")?;
        let content = parts(&item.required("content")?, Owner::Message, self.config)?;
        match role.str()? {
            "user" => self.push(field, Message::User { content, task: None }),
            "system" | "developer" => {
                self.push(field, Message::System(Instructions { content, ..Instructions::default() }));
            }
            "assistant" => {
                // After an answer begins another turn. After calls it is what a model says beside them.
                if self
                    .turn
                    .as_ref()
                    .is_some_and(|turn| !turn.message.content.0.is_empty() && turn.message.tool_calls.is_empty())
                {
                    self.end_turn();
                }
                let turn = self.turn(field, item)?;
                turn.message.content.0.extend(content.0);
            }
            _ => return Err(role.must_be("one of user, assistant, system, developer")),
        }
        Ok(())
    }

    fn reasoning(&mut self, field: &Field<'_>, item: &Object<'_>) -> Result<(), ApiError> {
        let sealed = item.get("encrypted_content").map(|field| field.str()).transpose()?;
        let unsealed = sealed.and_then(|sealed| self.seal.open(sealed));
        let mut text = texts(item, "content")?;
        if text.is_empty() {
            text = match &unsealed {
                Some(unsealed) => unsealed.reasoning.clone(),
                None => texts(item, "summary")?,
            };
        }
        // Reasoning begins a turn.
        if self
            .turn
            .as_ref()
            .is_some_and(|turn| !turn.message.content.0.is_empty() || !turn.message.tool_calls.is_empty())
        {
            self.end_turn();
        }
        let turn = self.turn(field, item)?;
        if let Some(unsealed) = unsealed {
            turn.turn_id = Some(unsealed.turn);
        }
        let reasoning = &mut turn.message.reasoning;
        if !reasoning.is_empty() && !text.is_empty() {
            reasoning.push('\n');
        }
        reasoning.push_str(&text);
        Ok(())
    }

    fn call(&mut self, field: &Field<'_>, item: &Object<'_>, name: String, arguments: String) -> Result<(), ApiError> {
        let id = Some(item.required("call_id")?.str()?.to_owned());
        self.turn(field, item)?.message.tool_calls.push(ToolCall { id, name, arguments });
        Ok(())
    }

    /// The result of a tool: text, parts, or what else a client makes of it.
    fn output(&self, field: &Field<'_>) -> Result<Content, ApiError> {
        match field.json() {
            Json::String(_) | Json::Array(_) => parts(field, Owner::ToolResult, self.config),
            other => Ok(Content(vec![Block::Text(other.to_string())])),
        }
    }

    /// The turn that an item belongs to.
    fn turn(&mut self, field: &Field<'_>, item: &Object<'_>) -> Result<&mut Turn, ApiError> {
        let turn = self.turn.get_or_insert_with(|| Turn { path: field.path().to_owned(), ..Turn::default() });
        if turn.turn_id.is_none()
            && let Some(id) = item.get("id").map(|id| id.str()).transpose()?
        {
            turn.turn_id = TURN_ITEM_PREFIXES.iter().find_map(|prefix| id.strip_prefix(prefix)).map(str::to_owned);
        }
        Ok(turn)
    }

    fn end_turn(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let message = turn.message;
        // Reasoning of which nothing is readable, and nothing came of it.
        if message.reasoning.is_empty() && message.content.0.is_empty() && message.tool_calls.is_empty() {
            return;
        }
        if let Some(id) = turn.turn_id {
            self.transcript.turn_ids.push((self.transcript.messages.len(), format!("turn_{id}")));
        }
        self.transcript.messages.push(Message::Assistant(message));
        self.paths.push(turn.path);
    }

    fn push(&mut self, field: &Field<'_>, message: Message) {
        self.end_turn();
        self.transcript.messages.push(message);
        self.paths.push(field.path().to_owned());
    }
}

/// The texts of an array of parts, one per line.
fn texts(item: &Object<'_>, name: &str) -> Result<String, ApiError> {
    let parts = item.get(name).map(|field| field.array()).transpose()?.unwrap_or_default();
    let text = |part: &Field<'_>| part.object()?.required("text")?.str().map(str::to_owned);
    Ok(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(items: &str) -> Result<Transcript, ApiError> {
        let json = Json::parse(&format!("{{\"input\": [{items}]}}")).expect(items);
        let fields = Object::root(&json)?.required("input")?.array()?;
        transcript(&fields, &ServerConfig::default(), &Seal::new(&[]))
    }

    fn assistant(transcript: &Transcript, index: usize) -> &AssistantMessage {
        match &transcript.messages[index] {
            Message::Assistant(message) => message,
            other => panic!("message {index} is {other:?}"),
        }
    }

    const CALL: &str = r#"{"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "a", "name": "f", "namespace": "ns", "arguments": "{}"}"#;
    const RESULT: &str = r#"{"type": "function_call_output", "id": "fco_1", "call_id": "a", "output": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "data:"}]}"#;

    #[test]
    fn items_side_by_side_are_one_turn() {
        let sealed = Seal::new(&[]).seal("abc", "sealed");
        let items = format!(
            r#"{{"role": "developer", "content": "S"}}, {{"type": "message", "id": "msg_0", "role": "user", "content": "a"}},
            {{"type": "reasoning", "id": "rs_9", "summary": [{{"type": "summary_text", "text": "s"}}], "content": null, "encrypted_content": "{sealed}"}},
            {{"role": "assistant", "content": [{{"type": "output_text", "text": "Checking."}}]}}, {CALL},
            {{"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "x\ny"}},
            {RESULT}, {{"type": "custom_tool_call_output", "call_id": "b", "output": {{"ok": true}}}},
            {{"type": "reasoning", "summary": [], "content": [{{"type": "reasoning_text", "text": "r1"}}, {{"type": "reasoning_text", "text": "r2"}}], "encrypted_content": "foreign"}},
            {{"type": "message", "id": "msg_xyz", "role": "assistant", "phase": "final_answer", "content": "Done."}},
            {{"role": "assistant", "content": "More."}},
            {{"type": "web_search_call", "id": "ws_1"}}, {{"type": "item_reference", "id": "x"}},
            {{"type": "reasoning", "summary": [], "encrypted_content": "foreign"}}, {{"role": "user", "content": "b"}}"#
        );
        let transcript = read(&items).expect("valid");
        assert_eq!(transcript.messages.len(), 8);
        let first = assistant(&transcript, 2);
        assert_eq!((first.reasoning.as_str(), first.content.to_text().as_str()), ("sealed", "Checking."));
        let calls: Vec<(&str, &str)> =
            first.tool_calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
        assert_eq!(calls, [("ns__f", "{}"), ("patch", r#"{"input": "x\ny"}"#)]);
        let results: Vec<String> = transcript.messages[3..5]
            .iter()
            .map(|message| match message {
                Message::ToolResult { content, .. } => content.to_text(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(results, ["x\n\n[Unsupported input_image]", r#"{"ok": true}"#]);
        let second = assistant(&transcript, 5);
        assert_eq!((second.reasoning.as_str(), second.content.to_text().as_str()), ("r1\nr2", "Done."));
        assert_eq!(assistant(&transcript, 6).content.to_text(), "More.");
        assert_eq!(transcript.turn_ids, [(2, "turn_abc".to_owned()), (5, "turn_xyz".to_owned())]);
        let ignored = [r#"input[11] of type "web_search_call""#, r#"input[12] of type "item_reference""#];
        assert_eq!(transcript.ignored, ignored);
    }

    #[test]
    fn every_refusal_names_the_item() {
        let result = |id: &str| format!(r#"{{"type": "function_call_output", "call_id": "{id}", "output": "x"}}"#);
        for (items, param) in [
            (r#"{"role": "user"}"#.to_owned(), "input[0].content"),
            (r#"{"role": "robot", "content": "x"}"#.to_owned(), "input[0].role"),
            (r#"{"content": "x"}"#.to_owned(), "input[0].role"),
            (r#"{"type": 5}"#.to_owned(), "input[0].type"),
            (r#""x""#.to_owned(), "input[0]"),
            ("null".to_owned(), "input[0]"),
            (r#"{"type": "function_call", "call_id": "a"}"#.to_owned(), "input[0].name"),
            (r#"{"type": "function_call", "name": "f"}"#.to_owned(), "input[0].call_id"),
            (r#"{"type": "function_call_output", "output": "x"}"#.to_owned(), "input[0].call_id"),
            (r#"{"type": "reasoning", "content": [{}]}"#.to_owned(), "input[0].content[0].text"),
            (result("a"), "input[0]"),
            (format!("{CALL}, {CALL}, {}", result("a")), "input[0]"),
            (format!("{CALL}, {0}, {0}", result("a")), "input[2]"),
            (
                format!(r#"{CALL}, {{"role": "user", "content": "x"}}, {{"role": "assistant", "content": "y"}}"#),
                "input[0]",
            ),
        ] {
            let error = read(&items).expect_err(&items);
            assert_eq!(error.param.as_deref(), Some(param), "{items}: {error}");
        }
    }
}
