//! The stream of a message.

use serde_json::{Value, json};

use super::response::{Envelope, stop_reason, usage};
use crate::error::Family;
use crate::generation::{GenerationEvent, GenerationStream, Usage};
use crate::sse::{Frames, StreamFormat};

/// Keepalives in a row that are pings. Claude Code gives a stream up after ten minutes without content, pings or not, and
/// asks again without streaming; so after five minutes content comes that adds nothing.
const PINGS: u32 = 30;

/// Writes the message's beginning, its blocks one after the other, and its end.
pub struct MessagesStream {
    envelope: Envelope,
    usage: Usage,
    /// Key of the turn for when the client sends it back.
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
    /// The stream of `generation`, whose prompt has so many cached tokens as far as that is known.
    /// `begins_with_reasoning`: its first block is for reasoning and opened at once, even if there will be none.
    pub fn new(
        envelope: Envelope,
        generation: &GenerationStream,
        cached_tokens: usize,
        begins_with_reasoning: bool,
        request_id: String,
    ) -> Self {
        Self {
            envelope,
            usage: Usage { prompt_tokens: generation.prompt_tokens(), cached_tokens, ..Usage::default() },
            signature: generation.turn_id().to_owned(),
            begins_with_reasoning,
            request_id,
            open: None,
            next: 0,
            silent: 0,
        }
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
