//! How many rows of prompts a step may compute beside sequences that decode.
//!
//! Whoever reads an answer should not notice that somebody else's prompt is being computed: the time between two tokens
//! stays below [`LONGEST_GAP`] or [`SLOWEST`] times the usual, whichever is more. How long a row takes depends on the device, on the model, on
//! how many rows share a step and on how long the context is; so it is measured, step by step.

use std::time::Duration;

/// A gap between two tokens that nobody minds.
const LONGEST_GAP: Duration = Duration::from_millis(250);
/// How many times longer than without prompts a gap may be.
const SLOWEST: f64 = 3.0;
/// The part of the bound that is aimed at: a step is only known when it is over.
const AIM: f64 = 0.6;
/// Rows of the first step beside decoding sequences, before anything is known.
const FIRST: f64 = 16.0;
/// Most that the number of rows grows by from one step to the next.
const GROWTH: f64 = 1.5;

/// The pace of prompts.
#[derive(Debug)]
pub(super) struct Pace {
    /// Seconds of a step that only decodes, on average.
    decode: Option<f64>,
    /// Rows of the next step beside decoding sequences.
    rows: f64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { decode: None, rows: FIRST }
    }

    /// Rows of prompts for a step in which `decoding` sequences decode; at most `most`, at least one.
    pub(super) fn rows(&self, decoding: usize, most: usize) -> usize {
        if decoding == 0 { most } else { (self.rows as usize).clamp(1, most) }
    }

    /// A step of these rows took this long.
    pub(super) fn observe(&mut self, decoding: usize, prefill: usize, took: Duration) {
        let took = took.as_secs_f64();
        match (decoding, prefill) {
            (0, _) => {}
            (_, 0) => self.decode = Some(self.decode.map_or(took, |mean| mean * 0.8 + took * 0.2)),
            _ => {
                let change = (self.aim() / took.max(1e-6)).clamp(0.1, GROWTH);
                let next = prefill as f64 * change;
                // A step that had few rows to compute says nothing against more.
                if change < 1.0 || next > self.rows {
                    self.rows = next.clamp(1.0, 1e6);
                }
            }
        }
    }

    /// Seconds that a step should take.
    fn aim(&self) -> f64 {
        AIM * (self.decode.unwrap_or(0.0) * SLOWEST).max(LONGEST_GAP.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps on a device where a step takes `fixed` and each row `row` more. Returns the longest, after the first.
    fn longest(pace: &mut Pace, fixed: f64, row: impl Fn(usize) -> f64, steps: usize) -> (f64, usize) {
        for _ in 0..20 {
            pace.observe(1, 0, Duration::from_secs_f64(fixed));
        }
        let (mut longest, mut computed) = (0.0_f64, 0);
        for step in 0..steps {
            let rows = pace.rows(1, 512);
            let took = fixed + row(step) * rows as f64;
            pace.observe(1, rows, Duration::from_secs_f64(took));
            longest = longest.max(took);
            computed += rows;
        }
        (longest, computed)
    }

    #[test]
    fn gaps_stay_below_the_bound_on_quick_and_slow_devices() {
        // Quick: everything fits in a step of full size.
        let (gap, rows) = longest(&mut Pace::new(), 0.02, |_| 1e-4, 100);
        assert!(gap < 0.25 && rows > 100 * 400, "{gap} {rows}");
        // A processor: 200 ms for a token, 5 ms for each row of a prompt.
        let (gap, rows) = longest(&mut Pace::new(), 0.2, |_| 5e-3, 100);
        assert!(gap < 0.6 && rows > 100 * 25, "{gap} {rows}");
        // Rows that become dearer as the context grows.
        let (gap, _) = longest(&mut Pace::new(), 0.03, |step| 1e-3 + 1e-5 * step as f64, 1000);
        assert!(gap < 0.25, "{gap}");
        // Slower than the bound with a single row: one row it is.
        let mut pace = Pace::new();
        longest(&mut pace, 0.1, |_| 2.0, 50);
        assert_eq!(pace.rows(1, 512), 1);
    }

    #[test]
    fn alone_a_prompt_gets_everything_and_short_prompts_teach_nothing() {
        let mut pace = Pace::new();
        assert_eq!(pace.rows(0, 512), 512);
        longest(&mut pace, 0.02, |_| 1e-4, 100);
        let before = pace.rows(3, 512);
        pace.observe(3, 2, Duration::from_millis(21));
        assert_eq!(pace.rows(3, 512), before);
    }
}
