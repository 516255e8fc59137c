//! The stream of a message.

use serde_json::{Value, json};

use super::response::{Envelope, stop_reason, usage};
use crate::error::Family;
use crate::generation::{GenerationEvent, Usage};
use crate::sse::{Frames, StreamFormat};

/// Keepalives in a row that are pings. Claude Code gives a stream up after ten minutes without content, pings or not, and
/// asks again without streaming; so after five minutes content comes that adds nothing.
const PINGS: u32 = 30;

/// Writes the message's beginning, its blocks one after the other, and its end.
pub struct MessagesStream {
    envelope: Envelope,
    usage: Usage,
    signature: String,
    begins_with_reasoning: bool,
    request_id: String,
    open: Option<OpenBlock>,
    /// Index of the next block.
    next: usize,
    /// Keepalives since the last content.
    silent: u32,
}

/// The block that deltas go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenBlock {
    Thinking,
    Text,
    ToolUse,
}

impl MessagesStream {
    /// The stream of an answer to a prompt of these counts, as far as they are known. `signature`: key of the turn for when
    /// the client sends it back. `begins_with_reasoning`: its first block is for reasoning and opened at once, even if there
    /// will be none.
    pub fn new(
        envelope: Envelope,
        usage: Usage,
        signature: String,
        begins_with_reasoning: bool,
        request_id: String,
    ) -> Self {
        Self { envelope, usage, signature, begins_with_reasoning, request_id, open: None, next: 0, silent: 0 }
    }

    fn start(&mut self, kind: OpenBlock, block: Value, frames: &mut Frames) {
        self.stop(frames);
        event(frames, "content_block_start", json!({ "index": self.next, "content_block": block }));
        self.next += 1;
        self.open = Some(kind);
    }

    /// Closes the open block. Clients keep reasoning only if it is signed.
    fn stop(&mut self, frames: &mut Frames) {
        let Some(open) = self.open else { return };
        if open == OpenBlock::Thinking {
            self.delta(json!({ "type": "signature_delta", "signature": self.signature }), frames);
        }
        self.open = None;
        event(frames, "content_block_stop", json!({ "index": self.next - 1 }));
    }

    fn delta(&self, delta: Value, frames: &mut Frames) {
        event(frames, "content_block_delta", json!({ "index": self.next - 1, "delta": delta }));
    }

    fn thinking(&mut self, text: &str, frames: &mut Frames) {
        if self.open != Some(OpenBlock::Thinking) {
            let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
            self.start(OpenBlock::Thinking, block, frames);
        }
        self.delta(json!({ "type": "thinking_delta", "thinking": text }), frames);
    }

    fn text(&mut self, text: &str, frames: &mut Frames) {
        if self.open != Some(OpenBlock::Text) {
            self.start(OpenBlock::Text, json!({ "type": "text", "text": "" }), frames);
        }
        self.delta(json!({ "type": "text_delta", "text": text }), frames);
    }

    fn keep_alive(&mut self, frames: &mut Frames) {
        self.silent += 1;
        if self.silent <= PINGS {
            return event(frames, "ping", json!({}));
        }
        match self.open {
            Some(OpenBlock::Thinking) => self.thinking("", frames),
            Some(OpenBlock::Text) => self.text("", frames),
            Some(OpenBlock::ToolUse) => self.delta(json!({ "type": "input_json_delta", "partial_json": "" }), frames),
            // Before any content, an empty block of reasoning is what all clients accept and none shows.
            None if self.next == 0 => self.thinking("", frames),
            None => event(frames, "ping", json!({})),
        }
    }
}

impl StreamFormat for MessagesStream {
    fn open(&mut self, frames: &mut Frames) {
        event(frames, "message_start", json!({ "message": self.envelope.opened(&self.usage) }));
        if self.begins_with_reasoning {
            let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
            self.start(OpenBlock::Thinking, block, frames);
        }
    }

    fn event(&mut self, told: GenerationEvent, frames: &mut Frames) {
        if !matches!(told, GenerationEvent::KeepAlive | GenerationEvent::Started { .. }) {
            self.silent = 0;
        }
        match told {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Reasoning(delta) => self.thinking(&delta.text, frames),
            GenerationEvent::Text(delta) => self.text(&delta.text, frames),
            GenerationEvent::CallStart { id, name, .. } => {
                let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.start(OpenBlock::ToolUse, block, frames);
            }
            GenerationEvent::CallArguments { delta, .. } => {
                self.delta(json!({ "type": "input_json_delta", "partial_json": delta }), frames);
            }
            GenerationEvent::CallEnd { .. } => self.stop(frames),
            GenerationEvent::KeepAlive => self.keep_alive(frames),
            GenerationEvent::Finished(finish) => {
                self.stop(frames);
                let (reason, sequence) = stop_reason(&finish.reason);
                let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
                event(frames, "message_delta", json!({ "delta": delta, "usage": usage(&finish.usage) }));
                event(frames, "message_stop", json!({}));
            }
            GenerationEvent::Failed(error) => frames.event("error", &error.body(Family::Anthropic, &self.request_id)),
        }
    }
}

/// A frame whose data begins with its own name, as all but errors do.
fn event(frames: &mut Frames, name: &str, data: Value) {
    let mut frame = json!({ "type": name });
    if let (Value::Object(frame), Value::Object(data)) = (&mut frame, data) {
        frame.extend(data);
    }
    frames.event(name, &frame);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{ApiError, ErrorKind};
    use crate::generation::{Delta, Finish, FinishReason};

    /// What a generation may tell: text, reasoning and calls, silence between them, and one end.
    fn generation() -> impl Strategy<Value = Vec<GenerationEvent>> {
        let text = |text: &str| Delta { text: text.to_owned(), ..Delta::default() };
        let silence = (0..80_usize).prop_map(|times| vec![GenerationEvent::KeepAlive; times]);
        let started = vec![GenerationEvent::Started { prompt_tokens: 9, cached_tokens: 3 }];
        let call = (0..3_usize, any::<bool>()).prop_map(|(fragments, complete)| {
            let mut events = vec![GenerationEvent::CallStart { index: 0, id: "toolu_".into(), name: "f".into() }];
            events.extend(vec![GenerationEvent::CallArguments { index: 0, delta: "{}".into() }; fragments]);
            events.push(GenerationEvent::CallEnd { index: 0, complete });
            events
        });
        let part = prop_oneof![
            silence,
            Just(started),
            Just(vec![GenerationEvent::Reasoning(text("Hm."))]),
            Just(vec![GenerationEvent::Text(text("Well."))]),
            call,
        ];
        let end = prop_oneof![
            3 => Just(GenerationEvent::Finished(Finish { reason: FinishReason::ToolCalls, ..Finish::default() })),
            1 => Just(GenerationEvent::Failed(ApiError::new(ErrorKind::Engine, "server error"))),
        ];
        (prop::collection::vec(part, 0..8), end).prop_map(|(parts, end)| {
            let mut events = parts.concat();
            events.push(end);
            events
        })
    }

    fn told(begins_with_reasoning: bool, events: &[GenerationEvent]) -> Vec<(String, Value)> {
        let envelope = Envelope { id: "msg_1".to_owned(), model: "m".to_owned() };
        let signature = "turn_1".to_owned();
        let mut stream =
            MessagesStream::new(envelope, Usage::default(), signature, begins_with_reasoning, "req_1".to_owned());
        let mut frames = Frames::default();
        stream.open(&mut frames);
        for event in events {
            stream.event(event.clone(), &mut frames);
        }
        let text = String::from_utf8(frames.take().to_vec()).expect("UTF-8");
        let frame = |frame: &str| {
            let (name, data) = frame.strip_prefix("event: ").and_then(|rest| rest.split_once("\ndata: ")).expect(frame);
            (name.to_owned(), serde_json::from_str(data).expect(frame))
        };
        text.split_terminator("\n\n").map(frame).collect()
    }

    proptest! {
        /// One block is open at a time, indexes count up, a block of reasoning is signed once and last, and all deltas go to
        /// the open block and are of its kind.
        #[test]
        fn blocks_open_and_close_in_order(begins in any::<bool>(), events in generation()) {
            let is_whole = matches!(events.last(), Some(GenerationEvent::Finished(_)));
            let told = told(begins, &events);
            let mut open: Option<(usize, String, usize)> = None;
            let mut blocks = 0;
            for (name, event) in &told[1..] {
                prop_assert_eq!(&event["type"], name.as_str());
                match name.as_str() {
                    "content_block_start" => {
                        prop_assert_eq!((&open, &event["index"]), (&None, &json!(blocks)));
                        open = Some((blocks, event["content_block"]["type"].as_str().expect("a type").to_owned(), 0));
                        blocks += 1;
                    }
                    "content_block_delta" => {
                        let (index, kind, signatures) = open.as_mut().expect("an open block");
                        prop_assert_eq!(&event["index"], *index);
                        prop_assert_eq!(*signatures, 0, "nothing comes after the signature");
                        let delta = event["delta"]["type"].as_str().expect("a type");
                        *signatures += usize::from(delta == "signature_delta");
                        let wanted = match kind.as_str() {
                            "thinking" => ["thinking_delta", "signature_delta"].as_slice(),
                            "text" => &["text_delta"],
                            _ => &["input_json_delta"],
                        };
                        prop_assert!(wanted.contains(&delta), "{} in {}", delta, kind);
                    }
                    "content_block_stop" => {
                        let (index, kind, signatures) = open.take().expect("an open block");
                        prop_assert_eq!(&event["index"], index);
                        prop_assert_eq!(signatures, usize::from(kind == "thinking"));
                    }
                    _ => {}
                }
            }
            let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
            let ends = names.iter().filter(|name| matches!(**name, "message_stop" | "error")).count();
            prop_assert_eq!((names[0], ends), ("message_start", 1));
            if is_whole {
                prop_assert_eq!(open, None);
                prop_assert_eq!(&names[names.len() - 2..], ["message_delta", "message_stop"].as_slice());
            } else {
                prop_assert_eq!(names.last(), Some(&"error"));
            }
        }
    }
}
