//! What the parser reports.

/// Something that the parser has recognized. Deltas of one kind are to be concatenated; how the output is cut into
/// deltas depends on how it was fed, their concatenation does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More reasoning.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A tool call begins. Indices count from 0.
    CallStart {
        /// Place of the call in the turn.
        index: usize,
        /// Name of the tool, as the model wrote it.
        name: String,
    },
    /// More of a call's arguments: JSON text.
    Arguments {
        /// The call.
        index: usize,
        /// The text.
        delta: String,
    },
    /// A tool call is over.
    CallEnd {
        /// The call.
        index: usize,
        /// Whether it was written to its end. If not, the arguments are left unterminated, so that no client can take
        /// half a command for a whole one.
        complete: bool,
    },
    /// The output is over; nothing follows.
    Finished(FinishReason),
}

/// Why generation ended, as the engine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model or the parser ([`super::Parser::should_stop`]) ended it.
    Stop,
    /// The token limit or the context did.
    Length,
}

/// Why an output is over, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The answer is complete.
    Stop,
    /// A limit cut it off.
    Length,
    /// The model called tools.
    ToolCalls,
}

impl FinishReason {
    /// The name in OpenAI's chat API.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
        }
    }
}

/// Collects events, joining deltas that belong together.
#[derive(Debug, Default)]
pub(super) struct Events(Vec<Event>);

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        self.0.push(event);
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Reasoning(delta)) => delta.push_str(text),
            _ => self.0.push(Event::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Content(delta)) => delta.push_str(text),
            _ => self.0.push(Event::Content(text.to_owned())),
        }
    }

    pub(super) fn arguments(&mut self, index: usize, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Arguments { index: last, delta }) if *last == index => delta.push_str(text),
            _ => self.0.push(Event::Arguments { index, delta: text.to_owned() }),
        }
    }

    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.0)
    }
}
