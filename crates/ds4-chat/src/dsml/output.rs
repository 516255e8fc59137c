//! A whole output, put together from events.

use super::event::{Event, FinishReason};

/// What a model's turn consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedOutput {
    /// The reasoning, without its tags.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The calls in order.
    pub tool_calls: Vec<ParsedCall>,
    /// Why the output is over; `None` while it is not.
    pub finish_reason: Option<FinishReason>,
}

/// A tool call in a model's turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedCall {
    /// Name of the tool.
    pub name: String,
    /// JSON text of an object if `complete`, else the beginning of one.
    pub arguments: String,
    /// Whether the call was written to its end.
    pub complete: bool,
}

impl ParsedOutput {
    /// Adds what an event reports.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Reasoning(delta) => self.reasoning.push_str(delta),
            Event::Content(delta) => self.content.push_str(delta),
            Event::CallStart { name, .. } => {
                self.tool_calls.push(ParsedCall { name: name.clone(), ..ParsedCall::default() });
            }
            Event::Arguments { index, delta } => {
                if let Some(call) = self.tool_calls.get_mut(*index) {
                    call.arguments.push_str(delta);
                }
            }
            Event::CallEnd { index, complete } => {
                if let Some(call) = self.tool_calls.get_mut(*index) {
                    call.complete = *complete;
                }
            }
            Event::Finished(reason) => self.finish_reason = Some(*reason),
        }
    }

    /// Adds what several events report.
    pub fn apply_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) {
        for event in events {
            self.apply(event);
        }
    }
}
