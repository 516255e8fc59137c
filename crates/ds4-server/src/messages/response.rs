//! The response of a message, and the parts that its stream shares.

use ds4_chat::json::Json;
use serde_json::{Value, json};

use crate::generation::{FinishReason, Turn, Usage};
use crate::state::AppState;

/// What the first event of a stream and a whole message have in common.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub(super) id: String,
    pub(super) model: String,
}

impl Envelope {
    /// The envelope of a new answer. `model` is the name that the client used.
    pub fn new(state: &AppState, model: String) -> Self {
        Self { id: state.ids().next("msg_"), model }
    }

    /// A message as it begins.
    pub fn opened(&self, counts: &Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage(counts),
        })
    }

    /// A message as a whole. `reasons`: whether it began with reasoning, which then has its block even if it is empty: the
    /// block's signature brings the turn's tokens back. A call that was cut off is left out; the stop reason says why.
    pub fn message(&self, turn: &Turn, reasons: bool) -> Json {
        let mut message = self.opened(&turn.finish.usage);
        let (reason, sequence) = stop_reason(&turn.finish.reason);
        message["stop_reason"] = json!(reason);
        message["stop_sequence"] = json!(sequence);
        let mut content = Vec::new();
        if reasons || !turn.reasoning.is_empty() {
            let block = json!({ "type": "thinking", "thinking": turn.reasoning, "signature": turn.turn_id });
            content.push(Json::from(&block));
        }
        if !turn.text.is_empty() {
            content.push(Json::from(&json!({ "type": "text", "text": turn.text })));
        }
        for call in turn.calls.iter().filter(|call| call.complete) {
            // Not through serde_json, which rounds large integers.
            let Ok(input) = Json::parse(&call.arguments) else { continue };
            content.push(Json::Object(vec![
                ("type".to_owned(), "tool_use".into()),
                ("id".to_owned(), call.id.as_str().into()),
                ("name".to_owned(), call.name.as_str().into()),
                ("input".to_owned(), input),
            ]));
        }
        let mut message = Json::from(&message);
        if let Json::Object(entries) = &mut message
            && let Some((_, slot)) = entries.iter_mut().find(|(key, _)| key == "content")
        {
            *slot = Json::Array(content);
        }
        message
    }
}

/// Token counts. Clients add the three kinds of input up.
pub fn usage(counts: &Usage) -> Value {
    json!({
        "input_tokens": counts.prompt_tokens.saturating_sub(counts.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
        "service_tier": "standard",
    })
}

/// The name of a reason, and the stop sequence if it is one.
pub fn stop_reason(reason: &FinishReason) -> (&'static str, Option<&str>) {
    match reason {
        FinishReason::Stop => ("end_turn", None),
        FinishReason::StopSequence(sequence) => ("stop_sequence", Some(sequence)),
        FinishReason::ToolCalls => ("tool_use", None),
        FinishReason::Length => ("max_tokens", None),
    }
}
