//! The output of a response: items that grow with the events of a generation.

use std::sync::Arc;

use serde_json::{Value, json};

use super::custom_input::CustomInput;
use super::request::Extras;
use super::sealed::Seal;
use super::tools::{ClientTool, Tools};
use crate::generation::{Delta, FinishReason, GenerationEvent};
use crate::ids::IdSource;
use crate::openai::logprob_entries;

/// An event of a stream: its name, and its fields but for the type and the number.
pub type OutputEvent = (&'static str, Value);

/// The items, and the one that is being written.
pub struct Output {
    ids: Arc<IdSource>,
    tools: Tools,
    extras: Extras,
    /// Id of the turn without its prefix: items that carry it let the turn be recognized when they come back.
    turn: String,
    seal: Arc<Seal>,
    items: Vec<Value>,
    open: Option<Open>,
}

enum Open {
    Reasoning { id: String, text: String },
    Message { id: String, text: String, logprobs: Vec<Value> },
    Function { id: String, call_id: String, tool: ClientTool, arguments: String },
    Custom { id: String, call_id: String, tool: ClientTool, input: CustomInput },
}

impl Open {
    fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } => id,
            Self::Function { id, .. } | Self::Custom { id, .. } => id,
        }
    }
}

/// Whether an item was written to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Completed,
    Incomplete,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Output {
    /// No items yet. `turn_id`: the id of the generation's turn.
    pub fn new(turn_id: &str, tools: Tools, extras: Extras, ids: Arc<IdSource>, seal: Arc<Seal>) -> Self {
        let turn = turn_id.strip_prefix("turn_").unwrap_or(turn_id).to_owned();
        Self { ids, tools, extras, turn, seal, items: Vec::new(), open: None }
    }

    /// The items that are written to their end.
    pub fn items(&self) -> &[Value] {
        &self.items
    }

    /// Takes the next event of the generation, and says what becomes of it in a stream.
    pub fn take(&mut self, event: &GenerationEvent) -> Vec<OutputEvent> {
        let mut out = Vec::new();
        match event {
            GenerationEvent::Started { .. } | GenerationEvent::KeepAlive | GenerationEvent::Failed(_) => {}
            GenerationEvent::Reasoning(delta) => self.reasoning(&delta.text, &mut out),
            GenerationEvent::Text(delta) => self.text(delta, &mut out),
            GenerationEvent::CallStart { id, name, .. } => self.call(id, name, &mut out),
            GenerationEvent::CallArguments { delta, .. } => self.arguments(delta, &mut out),
            GenerationEvent::CallEnd { complete, .. } => {
                let status = if *complete { Status::Completed } else { Status::Incomplete };
                self.close(status, true, &mut out);
            }
            GenerationEvent::Finished(finish) => {
                let is_cut = finish.reason == FinishReason::Length;
                self.close(if is_cut { Status::Incomplete } else { Status::Completed }, false, &mut out);
            }
        }
        out
    }

    /// Place of the item that is being written.
    fn index(&self) -> usize {
        self.items.len()
    }

    fn reasoning(&mut self, delta: &str, out: &mut Vec<OutputEvent>) {
        if !matches!(self.open, Some(Open::Reasoning { .. })) {
            self.close(Status::Completed, false, out);
            let id = format!("rs_{}", self.turn);
            let item = json!({ "id": id, "type": "reasoning", "status": "in_progress", "summary": [], "content": [] });
            self.added(item, out);
            let part = json!({ "type": "reasoning_text", "text": "" });
            out.push(("response.content_part.added", self.at(&id, "content_index", json!({ "part": part }))));
            if self.extras.summary {
                let part = json!({ "type": "summary_text", "text": "" });
                let event = self.at(&id, "summary_index", json!({ "part": part }));
                out.push(("response.reasoning_summary_part.added", event));
            }
            self.open = Some(Open::Reasoning { id, text: String::new() });
        }
        let Some(Open::Reasoning { id, text }) = &mut self.open else { return };
        text.push_str(delta);
        let id = id.clone();
        let event = self.at(&id, "content_index", json!({ "delta": delta }));
        out.push(("response.reasoning_text.delta", event));
        if self.extras.summary {
            let event = self.at(&id, "summary_index", json!({ "delta": delta }));
            out.push(("response.reasoning_summary_text.delta", event));
        }
    }

    fn text(&mut self, delta: &Delta, out: &mut Vec<OutputEvent>) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close(Status::Completed, false, out);
            let id = format!("msg_{}", self.turn);
            let item =
                json!({ "id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": [] });
            self.added(item, out);
            let event = self.at(&id, "content_index", json!({ "part": output_text("", &[]) }));
            out.push(("response.content_part.added", event));
            self.open = Some(Open::Message { id, text: String::new(), logprobs: Vec::new() });
        }
        let Some(Open::Message { id, text, logprobs }) = &mut self.open else { return };
        text.push_str(&delta.text);
        let entries = logprob_entries(&delta.logprobs);
        logprobs.extend(entries.iter().cloned());
        let id = id.clone();
        let event = self.at(&id, "content_index", json!({ "delta": delta.text, "logprobs": entries }));
        out.push(("response.output_text.delta", event));
    }

    fn call(&mut self, call_id: &str, name: &str, out: &mut Vec<OutputEvent>) {
        self.close(Status::Completed, true, out);
        let (call_id, tool) = (call_id.to_owned(), self.tools.by_known_name(name));
        let open = if tool.is_custom {
            Open::Custom { id: self.ids.next("ctc_"), call_id, tool, input: CustomInput::default() }
        } else {
            Open::Function { id: self.ids.next("fc_"), call_id, tool, arguments: String::new() }
        };
        self.added(self.item(&open, "in_progress", false), out);
        self.open = Some(open);
    }

    fn arguments(&mut self, delta: &str, out: &mut Vec<OutputEvent>) {
        let (name, delta) = match &mut self.open {
            Some(Open::Function { arguments, .. }) => {
                arguments.push_str(delta);
                ("response.function_call_arguments.delta", delta.to_owned())
            }
            Some(Open::Custom { input, .. }) => ("response.custom_tool_call_input.delta", input.push(delta)),
            _ => return,
        };
        if let Some(open) = &self.open
            && !delta.is_empty()
        {
            out.push((name, json!({ "item_id": open.id(), "output_index": self.index(), "delta": delta })));
        }
    }

    /// Ends the item that is being written. `before_call`: a text is a comment then, and otherwise the answer.
    fn close(&mut self, status: Status, before_call: bool, out: &mut Vec<OutputEvent>) {
        let Some(mut open) = self.open.take() else { return };
        let index = self.index();
        let id = open.id().to_owned();
        match &mut open {
            Open::Reasoning { text, .. } => {
                out.push(("response.reasoning_text.done", self.at(&id, "content_index", json!({ "text": text }))));
                let part = json!({ "part": { "type": "reasoning_text", "text": text } });
                out.push(("response.content_part.done", self.at(&id, "content_index", part)));
                if self.extras.summary {
                    let event = self.at(&id, "summary_index", json!({ "text": text }));
                    out.push(("response.reasoning_summary_text.done", event));
                    let part = json!({ "part": { "type": "summary_text", "text": text } });
                    out.push(("response.reasoning_summary_part.done", self.at(&id, "summary_index", part)));
                }
            }
            Open::Message { text, logprobs, .. } => {
                let event = self.at(&id, "content_index", json!({ "text": text, "logprobs": logprobs }));
                out.push(("response.output_text.done", event));
                let part = json!({ "part": output_text(text, logprobs) });
                out.push(("response.content_part.done", self.at(&id, "content_index", part)));
            }
            Open::Function { arguments, tool, .. } => {
                let event = json!({ "item_id": id, "output_index": index, "name": tool.name, "arguments": arguments });
                out.push(("response.function_call_arguments.done", event));
            }
            Open::Custom { input, .. } => {
                let rest = input.finish();
                if !rest.is_empty() {
                    let event = json!({ "item_id": id, "output_index": index, "delta": rest });
                    out.push(("response.custom_tool_call_input.delta", event));
                }
                let event = json!({ "item_id": id, "output_index": index, "input": input.text() });
                out.push(("response.custom_tool_call_input.done", event));
            }
        }
        let item = self.item(&open, status.name(), before_call);
        out.push(("response.output_item.done", json!({ "output_index": index, "item": item })));
        self.items.push(item);
    }

    /// An item as it stands.
    fn item(&self, open: &Open, status: &str, before_call: bool) -> Value {
        let call = |id: &str, kind: &str, call_id: &str, tool: &ClientTool| {
            let mut item = json!({ "id": id, "type": kind, "status": status, "call_id": call_id, "name": tool.name });
            if let Some(namespace) = &tool.namespace {
                item["namespace"] = json!(namespace);
            }
            item
        };
        match open {
            Open::Reasoning { id, text } => {
                let summary =
                    if self.extras.summary { json!([{ "type": "summary_text", "text": text }]) } else { json!([]) };
                let content = json!([{ "type": "reasoning_text", "text": text }]);
                let mut item =
                    json!({ "id": id, "type": "reasoning", "status": status, "summary": summary, "content": content });
                if self.extras.sealed_reasoning {
                    item["encrypted_content"] = json!(self.seal.seal(&self.turn, text));
                }
                item
            }
            Open::Message { id, text, logprobs } => json!({
                "id": id,
                "type": "message",
                "status": status,
                "role": "assistant",
                "phase": if before_call { "commentary" } else { "final_answer" },
                "content": [output_text(text, logprobs)],
            }),
            Open::Function { id, call_id, tool, arguments } => {
                let mut item = call(id, "function_call", call_id, tool);
                item["arguments"] = json!(arguments);
                item
            }
            Open::Custom { id, call_id, tool, input } => {
                let mut item = call(id, "custom_tool_call", call_id, tool);
                item["input"] = json!(input.text());
                item
            }
        }
    }

    fn added(&self, item: Value, out: &mut Vec<OutputEvent>) {
        out.push(("response.output_item.added", json!({ "output_index": self.index(), "item": item })));
    }

    /// An event of the one part of an item.
    fn at(&self, id: &str, index_name: &str, fields: Value) -> Value {
        let mut event = json!({ "item_id": id, "output_index": self.index(), index_name: 0 });
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        event
    }
}

fn output_text(text: &str, logprobs: &[Value]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}

#[cfg(test)]
mod tests {
    use ds4_chat::json::Json;
    use proptest::prelude::*;

    use super::*;
    use crate::config::ServerConfig;
    use crate::fields::Object;
    use crate::generation::Finish;

    fn output(summary: bool) -> Output {
        let tools = r#"{"tools": [{"type": "custom", "name": "custom"}, {"type": "function", "name": "function"}]}"#;
        let json = Json::parse(tools).expect("valid");
        let tools = Tools::read(&Object::root(&json).expect("an object"), &ServerConfig::default()).expect("valid");
        let ids = Arc::new(IdSource::new().expect("random numbers"));
        let extras = Extras { summary, sealed_reasoning: summary };
        Output::new("turn_x", tools, extras, ids, Arc::new(Seal::new(&[])))
    }

    /// The events of a turn as generations tell them: reasoning, text, calls, each in pieces or left out, and the end.
    fn turn() -> impl Strategy<Value = Vec<GenerationEvent>> {
        let delta = |text: String| Delta { text, ..Delta::default() };
        let texts = || prop::collection::vec("[a-z\"\\\\ \n]{1,6}", 0..4);
        let call = ("custom|function|other", texts(), any::<bool>());
        let calls = prop::collection::vec(call, 0..4);
        (texts(), texts(), calls, any::<bool>()).prop_map(move |(reasoning, text, calls, is_cut)| {
            let mut events: Vec<GenerationEvent> =
                reasoning.into_iter().map(|text| GenerationEvent::Reasoning(delta(text))).collect();
            events.extend(text.into_iter().map(|text| GenerationEvent::Text(delta(text))));
            for (index, (name, pieces, complete)) in calls.into_iter().enumerate() {
                events.push(GenerationEvent::CallStart { index, id: format!("call_{index}"), name });
                events.extend(pieces.into_iter().map(|delta| GenerationEvent::CallArguments { index, delta }));
                events.push(GenerationEvent::CallEnd { index, complete });
            }
            let reason = if is_cut { FinishReason::Length } else { FinishReason::Stop };
            events.push(GenerationEvent::Finished(Finish { reason, ..Finish::default() }));
            events
        })
    }

    proptest! {
        #[test]
        fn items_begin_grow_and_end_one_after_the_other(turn in turn(), summary: bool) {
            let mut output = output(summary);
            let events: Vec<OutputEvent> = turn.iter().flat_map(|event| output.take(event)).collect();
            let mut ended = 0;
            let mut open: Option<Value> = None;
            let mut told = String::new();
            for (name, event) in &events {
                prop_assert_eq!(event["output_index"].as_u64(), Some(ended as u64), "{}", name);
                match *name {
                    "response.output_item.added" => {
                        prop_assert!(open.is_none());
                        told.clear();
                        open = Some(event["item"].clone());
                    }
                    "response.output_item.done" => {
                        let begun = open.take().expect("an item that has begun");
                        let item = &event["item"];
                        prop_assert_eq!((&item["id"], &item["type"]), (&begun["id"], &begun["type"]));
                        prop_assert_eq!(&output.items()[ended], item);
                        let whole = ["/content/0/text", "/arguments", "/input"].iter().find_map(|path| item.pointer(path));
                        prop_assert_eq!(whole.and_then(Value::as_str), Some(told.as_str()));
                        ended += 1;
                    }
                    name => {
                        prop_assert_eq!(&event["item_id"], &open.as_ref().expect("an item that has begun")["id"]);
                        if !name.contains("summary") {
                            told.push_str(event["delta"].as_str().unwrap_or_default());
                        }
                    }
                }
            }
            prop_assert!(open.is_none());
            prop_assert_eq!(output.items().len(), ended);
        }
    }
}
