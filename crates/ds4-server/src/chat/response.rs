//! The response of a chat completion, and the parts that its stream shares.

use serde_json::{Value, json};

use crate::generation::{FinishReason, Turn, Usage};
use crate::openai::{logprob_entries, usage};
use crate::state::{AppState, unix_seconds};

/// What all chunks of an answer have in common.
#[derive(Clone, Debug)]
pub struct Envelope {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

impl Envelope {
    /// The envelope of a new answer. `model` is the name that the client used.
    pub fn new(state: &AppState, model: String) -> Self {
        Self {
            id: state.ids().next("chatcmpl-"),
            created: unix_seconds(),
            model,
            fingerprint: state.fingerprint().to_owned(),
        }
    }

    /// An answer as a whole.
    pub fn completion(&self, turn: &Turn, thinking: bool, logprobs: bool) -> Value {
        let mut message = json!({ "role": "assistant", "content": turn.text });
        if turn.text.is_empty() && !turn.calls.is_empty() {
            message["content"] = Value::Null;
        }
        if thinking {
            message["reasoning_content"] = json!(turn.reasoning);
        }
        if !turn.calls.is_empty() {
            let calls = turn.calls.iter().map(|call| {
                json!({
                    "id": call.id,
                    "type": "function",
                    "function": { "name": call.name, "arguments": call.arguments },
                })
            });
            message["tool_calls"] = calls.collect();
        }
        let logprobs = logprobs.then(|| {
            let mut report = json!({ "content": logprob_entries(&turn.logprobs) });
            if thinking {
                report["reasoning_content"] = json!(logprob_entries(&turn.reasoning_logprobs));
            }
            report
        });
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": [{
                "index": 0,
                "finish_reason": finish_reason(&turn.finish.reason),
                "logprobs": logprobs,
                "message": message,
            }],
            "usage": usage(&turn.finish.usage),
        })
    }

    /// A chunk of a stream.
    pub fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    /// The chunk that holds nothing but the usage.
    pub fn usage_chunk(&self, counts: &Usage) -> Value {
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = usage(counts);
        chunk
    }
}

/// The name of a reason.
pub fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::StopSequence(_) => "stop",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length => "length",
    }
}
