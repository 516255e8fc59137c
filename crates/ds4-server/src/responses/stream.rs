//! The stream of a response.

use serde_json::{Value, json};

use super::response::Response;
use crate::generation::GenerationEvent;
use crate::sse::{Frames, StreamFormat};

/// Writes events with their names and numbers: the response is created, items grow one after the other, one event ends it.
pub struct ResponseStream {
    response: Response,
    next_number: u64,
}

impl ResponseStream {
    /// A stream of nothing yet.
    pub fn new(response: Response) -> Self {
        Self { response, next_number: 0 }
    }

    fn send(&mut self, name: &'static str, fields: Value, frames: &mut Frames) {
        let mut event = json!({ "type": name, "sequence_number": self.next_number });
        self.next_number += 1;
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        frames.event(name, &event);
    }

    fn in_progress(&mut self, name: &'static str, frames: &mut Frames) {
        let response = self.response.in_progress();
        self.send(name, json!({ "response": response }), frames);
    }
}

impl StreamFormat for ResponseStream {
    fn open(&mut self, frames: &mut Frames) {
        self.in_progress("response.created", frames);
        self.in_progress("response.in_progress", frames);
    }

    fn event(&mut self, event: GenerationEvent, frames: &mut Frames) {
        // Comments do not count for the idle timers of several clients. The same event again does for all of them.
        if matches!(event, GenerationEvent::KeepAlive) {
            return self.in_progress("response.in_progress", frames);
        }
        for (name, fields) in self.response.take(&event) {
            self.send(name, fields, frames);
        }
    }
}
