//! How many rows of prompts a step may compute beside sequences that decode.
//!
//! Whoever reads an answer should not notice that somebody else's prompt is being computed: the time between two tokens
//! stays below [`LONGEST_GAP`] or [`SLOWEST`] times the usual, whichever is more. How long a row takes depends on the device, on the model, on
//! how many rows share a step and on how long the context is; so it is measured, step by step.

use std::collections::BTreeMap;
use std::time::Duration;

/// A gap between two tokens that nobody minds.
const LONGEST_GAP: Duration = Duration::from_millis(250);
/// How many times longer than without prompts a gap may be.
const SLOWEST: f64 = 3.0;
/// The part of the bound that is aimed at: a step is only known when it is over.
const AIM: f64 = 0.6;
/// Most rows of the first step beside decoding sequences, before anything is known of prompts.
const FIRST: f64 = 16.0;
/// Most that the number of rows grows by from one step to the next, or one row.
const GROWTH: f64 = 1.5;
/// Most that it shrinks by: one step that took long may have had other reasons.
const SHRINKING: f64 = 0.1;

/// The pace of prompts.
#[derive(Debug)]
pub(super) struct Pace {
    /// Seconds of a step that only decodes, on average, by the number of sequences.
    decode: BTreeMap<usize, f64>,
    /// Rows of the next step beside decoding sequences, once there was one.
    rows: Option<f64>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { decode: BTreeMap::new(), rows: None }
    }

    /// Rows of prompts for a step in which `decoding` sequences decode; at most `most`, at least one.
    pub(super) fn rows(&self, decoding: usize, most: usize) -> usize {
        let rows = self.rows.unwrap_or_else(|| self.first(decoding));
        if decoding == 0 { most } else { (rows as usize).clamp(1, most) }
    }

    /// Rows of the first step: a row of a prompt takes no longer than a token alone.
    fn first(&self, decoding: usize) -> f64 {
        let decode = self.decode(decoding);
        if decode > 0.0 { ((self.aim(decoding) - decode) / decode).clamp(1.0, FIRST) } else { 1.0 }
    }

    /// Seconds of a step in which so many sequences decode and nothing else is done; 0 if nothing is known. If it was not seen, not
    /// more than it can be.
    fn decode(&self, decoding: usize) -> f64 {
        let fewer = self.decode.range(..=decoding).next_back().map(|(_, &took)| took);
        let more = || self.decode.range(decoding..).next().map(|(&n, &took)| took * decoding as f64 / n as f64);
        fewer.or_else(more).unwrap_or(0.0)
    }

    /// A step of these rows took this long.
    pub(super) fn observe(&mut self, decoding: usize, prefill: usize, took: Duration) {
        let took = took.as_secs_f64();
        match (decoding, prefill) {
            (0, _) => {}
            (_, 0) => {
                self.decode.entry(decoding).and_modify(|mean| *mean = *mean * 0.8 + took * 0.2).or_insert(took);
            }
            _ => {
                // What the rows added, and what may be added. Rows share their weights, so further ones add no more than these.
                let decode = self.decode(decoding).min(took);
                let (prefill, each) = (prefill as f64, (took - decode).max(1e-6) / prefill as f64);
                let fitting = (self.aim(decoding) - decode) / each;
                let next = fitting.clamp(SHRINKING * prefill, (GROWTH * prefill).max(prefill + 1.0)).clamp(1.0, 1e6);
                // A step that had few rows to compute says nothing against more.
                if next < prefill || self.rows.is_none_or(|rows| next > rows) {
                    self.rows = Some(next);
                }
            }
        }
    }

    /// Seconds that a step should take.
    fn aim(&self, decoding: usize) -> f64 {
        AIM * (self.decode(decoding) * SLOWEST).max(LONGEST_GAP.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps on a device where a step takes `fixed` and each row `row` more. Returns the longest, and the rows of all.
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
        // A processor: 200 ms for a token, 5 ms for each row of a prompt; and one whose rows are as dear as tokens.
        let (gap, rows) = longest(&mut Pace::new(), 0.2, |_| 5e-3, 100);
        assert!(gap < 0.6 && rows > 100 * 25, "{gap} {rows}");
        let (gap, rows) = longest(&mut Pace::new(), 0.4, |_| 0.15, 100);
        assert!(gap < 1.2 && rows >= 190, "{gap} {rows}");
        // Rows that become dearer as the context grows.
        let (gap, _) = longest(&mut Pace::new(), 0.03, |step| 1e-3 + 1e-5 * step as f64, 1000);
        assert!(gap < 0.25, "{gap}");
        // Slower than the bound with a single row: one row it is.
        let mut pace = Pace::new();
        longest(&mut pace, 0.1, |_| 2.0, 50);
        assert_eq!(pace.rows(1, 512), 1);
    }

    #[test]
    fn a_moment_in_which_everything_stood_still_is_forgotten() {
        for (fixed, row) in [(0.001, 1e-4), (0.2, 5e-3), (0.4, 0.1)] {
            let mut pace = Pace::new();
            let (_, undisturbed) = longest(&mut pace, fixed, |_| row, 200);
            for _ in 0..3 {
                let rows = pace.rows(1, 512);
                pace.observe(1, rows, Duration::from_secs(60));
            }
            assert!(pace.rows(1, 512) <= 8);
            let (_, rows) = longest(&mut pace, fixed, |_| row, 200);
            assert!(rows * 10 > undisturbed * 8, "{rows} after, {undisturbed} before");
        }
    }

    #[test]
    fn the_usual_time_is_that_of_as_many_sequences() {
        let mut pace = Pace::new();
        assert_eq!(pace.rows(1, 512), 1, "nothing is known");
        pace.observe(8, 0, Duration::from_secs(2));
        assert!(pace.aim(8) > 3.5 && (pace.aim(4) - pace.aim(8) / 2.0).abs() < 1e-9);
        pace.observe(1, 0, Duration::from_millis(400));
        assert!(pace.aim(1) < 0.8 && pace.aim(4) < 0.8 && pace.aim(8) > 3.5);
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
