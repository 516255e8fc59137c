//! The response object, and how a response comes to its end.

use std::sync::Arc;

use ds4_chat::json::Json;
use serde_json::{Value, json};

use super::output::{Output, OutputEvent};
use super::request::ResponsesRequest;
use super::store::StoredResponse;
use crate::error::ApiError;
use crate::generation::{Finish, FinishReason, GenerationEvent, GenerationStream, Usage};
use crate::state::{AppState, unix_seconds};

/// A response that is being made.
pub struct Response {
    state: AppState,
    id: String,
    created: u64,
    model: String,
    echo: Value,
    output: Output,
    /// What is kept with the response, if it is kept.
    kept: Option<Kept>,
}

struct Kept {
    input: Vec<Json>,
    previous: Option<Arc<StoredResponse>>,
}

impl Response {
    /// The response to `request`, which `generation` answers.
    pub fn new(state: &AppState, request: ResponsesRequest, generation: &GenerationStream) -> Self {
        let ResponsesRequest { model, tools, store, echo, extras, input, previous, .. } = request;
        let seal = Arc::clone(state.seal());
        Self {
            id: state.ids().next("resp_"),
            created: unix_seconds(),
            model,
            echo,
            output: Output::new(generation.turn_id(), tools, extras, state.ids().clone(), seal),
            kept: store.then_some(Kept { input, previous }),
            state: state.clone(),
        }
    }

    /// Takes the next event of the generation, and says what becomes of it in a stream: the end included, keepalives
    /// not. A response that came to its end is kept.
    pub fn take(&mut self, event: &GenerationEvent) -> Vec<OutputEvent> {
        let mut events = self.output.take(event);
        match event {
            GenerationEvent::Finished(finish) => {
                let name = match finish.reason {
                    FinishReason::Length => "response.incomplete",
                    _ => "response.completed",
                };
                let response = self.finished(finish);
                self.keep(&response);
                events.push((name, json!({ "response": response })));
            }
            GenerationEvent::Failed(error) => {
                events.push(("response.failed", json!({ "response": self.failed(error) })));
            }
            _ => {}
        }
        events
    }

    /// The object as long as nothing is decided.
    pub fn in_progress(&self) -> Value {
        self.object("in_progress")
    }

    /// The object at the end.
    fn finished(&self, finish: &Finish) -> Value {
        let is_cut = finish.reason == FinishReason::Length;
        let mut object = self.object(if is_cut { "incomplete" } else { "completed" });
        if is_cut {
            object["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        } else {
            object["completed_at"] = json!(unix_seconds());
        }
        object["output"] = json!(self.output.items());
        object["usage"] = usage(&finish.usage);
        object
    }

    fn failed(&self, error: &ApiError) -> Value {
        let mut object = self.object("failed");
        let code = error.kind.openai_code().unwrap_or("server_error");
        object["error"] = json!({ "code": code, "message": error.message });
        object["output"] = json!(self.output.items());
        object
    }

    fn object(&self, status: &str) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": null,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": [],
            "usage": null,
        });
        if let (Value::Object(object), Value::Object(echo)) = (&mut object, &self.echo) {
            object.extend(echo.clone());
        }
        object
    }

    fn keep(&mut self, response: &Value) {
        let Some(Kept { input, previous }) = self.kept.take() else { return };
        let input = input.into_iter().map(|item| Arc::new(self.with_id(item))).collect();
        // Half a call would be half a command.
        let is_half_call = |item: &&Value| item["status"] == "incomplete" && item["call_id"].is_string();
        let output = self.output.items().iter().filter(|item| !is_half_call(item));
        // What is written as JSON is valid JSON, and no deeper than what the parser reads.
        let output = output.filter_map(|item| Json::parse(&item.to_string()).ok()).map(Arc::new).collect();
        self.state.responses().insert(&self.id, response.clone(), input, output, previous);
    }

    /// Items of the input can be listed, and for that each needs an id.
    fn with_id(&self, mut item: Json) -> Json {
        let has_id = item.get("id").is_some_and(|id| id.as_str().is_some_and(|id| !id.is_empty()));
        let prefix = match item.get("type").and_then(Json::as_str) {
            None | Some("message") => "msg_",
            Some("reasoning") => "rs_",
            Some("function_call") => "fc_",
            Some("function_call_output") => "fco_",
            Some("custom_tool_call") => "ctc_",
            Some("custom_tool_call_output") => "ctco_",
            Some(_) => "item_",
        };
        if let Json::Object(entries) = &mut item
            && !has_id
        {
            entries.retain(|(name, _)| name != "id");
            entries.insert(0, ("id".to_owned(), Json::String(self.state.ids().next(prefix))));
        }
        item
    }
}

/// Token counts as responses report them.
fn usage(usage: &Usage) -> Value {
    let written = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.cached_tokens, "cache_write_tokens": written },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
