//! The response of a completion and its stream.

use serde_json::{Value, json};

use crate::error::Family;
use crate::generation::{FinishReason, GenerationEvent, TokenLogprob, Turn};
use crate::openai::{logprob, usage};
use crate::sse::{Frames, StreamFormat};
use crate::state::{AppState, unix_seconds};

/// Writes the answer, at once or in chunks.
pub struct CompletionStream {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    include_usage: bool,
    logprobs: bool,
    /// Characters told so far.
    offset: usize,
}

impl CompletionStream {
    /// A new answer. `model` is the name that the client used.
    pub fn new(state: &AppState, model: String, include_usage: bool, logprobs: bool) -> Self {
        Self {
            id: state.ids().next("cmpl-"),
            created: unix_seconds(),
            model,
            fingerprint: state.fingerprint().to_owned(),
            include_usage,
            logprobs,
            offset: 0,
        }
    }

    /// An answer as a whole.
    pub fn completion(&mut self, turn: &Turn) -> Value {
        let choice = self.choice(&turn.text, &turn.logprobs, Some(finish_reason(&turn.finish.reason)));
        let mut body = self.envelope(json!([choice]));
        body["usage"] = usage(&turn.finish.usage);
        body
    }

    fn envelope(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    /// A chunk that says nothing.
    fn empty(&self, frames: &mut Frames) {
        let choice = json!({ "text": "", "index": 0, "logprobs": null, "finish_reason": null });
        frames.data(&self.envelope(json!([choice])));
    }

    fn choice(&mut self, text: &str, tokens: &[TokenLogprob], reason: Option<&str>) -> Value {
        let logprobs = self.logprobs.then(|| self.report(tokens));
        json!({ "text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason })
    }

    /// Log-probabilities in columns, as this API has them.
    fn report(&mut self, tokens: &[TokenLogprob]) -> Value {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut offsets = Vec::with_capacity(tokens.len());
        for token in tokens {
            offsets.push(self.offset);
            self.offset += text(&token.token.bytes).chars().count();
        }
        let top = |token: &TokenLogprob| {
            let entries = token.top.iter().map(|top| (text(&top.bytes), json!(logprob(top.logprob))));
            Value::Object(entries.collect())
        };
        json!({
            "tokens": tokens.iter().map(|token| text(&token.token.bytes)).collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(|token| logprob(token.token.logprob)).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

impl StreamFormat for CompletionStream {
    /// This API has no opening chunk; one without text shows the client at once that it was heard. Clients of this API
    /// read the first choice without looking whether there is one.
    fn open(&mut self, frames: &mut Frames) {
        self.empty(frames);
    }

    fn event(&mut self, event: GenerationEvent, frames: &mut Frames) {
        match event {
            GenerationEvent::Text(delta) => {
                let choice = self.choice(&delta.text, &delta.logprobs, None);
                frames.data(&self.envelope(json!([choice])));
            }
            GenerationEvent::KeepAlive => self.empty(frames),
            GenerationEvent::Finished(finish) => {
                let choice =
                    json!({ "text": "", "index": 0, "logprobs": null, "finish_reason": finish_reason(&finish.reason) });
                let mut chunk = self.envelope(json!([choice]));
                if !self.include_usage {
                    chunk["usage"] = usage(&finish.usage);
                }
                frames.data(&chunk);
                if self.include_usage {
                    let mut chunk = self.envelope(json!([]));
                    chunk["usage"] = usage(&finish.usage);
                    frames.data(&chunk);
                }
                frames.done();
            }
            GenerationEvent::Failed(error) => frames.data(&error.body(Family::OpenAi, "")),
            // Raw text has neither reasoning nor calls.
            GenerationEvent::Started { .. }
            | GenerationEvent::Reasoning(_)
            | GenerationEvent::CallStart { .. }
            | GenerationEvent::CallArguments { .. }
            | GenerationEvent::CallEnd { .. } => {}
        }
    }
}

fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::StopSequence(_) | FinishReason::ToolCalls => "stop",
    }
}
