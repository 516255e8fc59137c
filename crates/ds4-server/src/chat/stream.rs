//! The stream of a chat completion.

use serde_json::{Value, json};

use super::response::{Envelope, finish_reason};
use crate::error::Family;
use crate::generation::{Delta, GenerationEvent};
use crate::openai::{logprob_entries, usage};
use crate::sse::{Frames, StreamFormat};

/// Writes chunks: the role, one field per delta, the end, the usage, and the end mark.
pub struct ChatStream {
    envelope: Envelope,
    thinking: bool,
    include_usage: bool,
}

impl ChatStream {
    /// A stream. `include_usage`: the usage comes in a chunk of its own, and otherwise with the end; never in both, for some
    /// clients add them up.
    pub fn new(envelope: Envelope, thinking: bool, include_usage: bool) -> Self {
        Self { envelope, thinking, include_usage }
    }

    fn delta(&self, delta: Value, frames: &mut Frames) {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": null });
        frames.data(&self.envelope.chunk(json!([choice])));
    }

    fn text(&self, field: &str, logprobs_field: &str, delta: Delta, frames: &mut Frames) {
        let mut choice = json!({ "index": 0, "delta": { field: delta.text } });
        if !delta.logprobs.is_empty() {
            choice["logprobs"] = json!({ logprobs_field: logprob_entries(&delta.logprobs) });
        }
        choice["finish_reason"] = Value::Null;
        frames.data(&self.envelope.chunk(json!([choice])));
    }
}

impl StreamFormat for ChatStream {
    fn open(&mut self, frames: &mut Frames) {
        let delta = if self.thinking {
            json!({ "role": "assistant", "content": null, "reasoning_content": "" })
        } else {
            json!({ "role": "assistant", "content": "" })
        };
        self.delta(delta, frames);
    }

    fn event(&mut self, event: GenerationEvent, frames: &mut Frames) {
        match event {
            GenerationEvent::Started { .. } | GenerationEvent::CallEnd { .. } => {}
            GenerationEvent::Reasoning(delta) => self.text("reasoning_content", "reasoning_content", delta, frames),
            GenerationEvent::Text(delta) => self.text("content", "content", delta, frames),
            GenerationEvent::CallStart { index, id, name } => {
                let function = json!({ "name": name, "arguments": "" });
                let call = json!({ "index": index, "id": id, "type": "function", "function": function });
                self.delta(json!({ "tool_calls": [call] }), frames);
            }
            GenerationEvent::CallArguments { index, delta } => {
                let call = json!({ "index": index, "function": { "arguments": delta } });
                self.delta(json!({ "tool_calls": [call] }), frames);
            }
            // Comments do not count for the idle timers of several clients; a chunk without choices does for all of them.
            GenerationEvent::KeepAlive => frames.data(&self.envelope.chunk(json!([]))),
            GenerationEvent::Finished(finish) => {
                let reason = finish_reason(&finish.reason);
                let choice = json!({ "index": 0, "delta": {}, "finish_reason": reason });
                let mut chunk = self.envelope.chunk(json!([choice]));
                if !self.include_usage {
                    chunk["usage"] = usage(&finish.usage);
                }
                frames.data(&chunk);
                if self.include_usage {
                    frames.data(&self.envelope.usage_chunk(&finish.usage));
                }
                frames.done();
            }
            GenerationEvent::Failed(error) => frames.data(&error.body(Family::OpenAi, "")),
        }
    }
}
