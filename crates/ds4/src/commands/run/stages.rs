//! How long the stages of the start take.

use std::time::{Duration, Instant};

/// Marks on the way to the first token.
pub struct Stages {
    started: Instant,
    marks: Vec<(&'static str, Duration)>,
}

impl Stages {
    /// Stages since `started`.
    pub fn new(started: Instant) -> Stages {
        Stages { started, marks: Vec::new() }
    }

    /// A stage is over.
    pub fn mark(&mut self, stage: &'static str) {
        self.marks.push((stage, self.started.elapsed()));
    }

    /// The time that each stage took, and all of them together.
    pub fn text(&self) -> String {
        let mut before = Duration::ZERO;
        let mut parts = Vec::new();
        for &(stage, at) in &self.marks {
            parts.push(format!("{stage} {:.1} ms", (at - before).as_secs_f64() * 1e3));
            before = at;
        }
        parts.push(format!("together {:.1} ms", before.as_secs_f64() * 1e3));
        parts.join(", ")
    }
}
