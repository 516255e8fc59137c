//! What was measured of sessions together, as a table.

use serde::Serialize;

use crate::commands::bench::output::line;
use crate::units;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct SessionsReport {
    /// The model's weights, in words.
    pub weights: String,
    /// What it ran on.
    pub device: String,
    /// Numeric switches.
    pub compute: String,
    /// Numeric switches.
    pub kv_precision: String,
    /// Sessions that decode at once.
    pub together: Vec<Together>,
    /// A session that decodes beside another's long prompt.
    pub beside_prompt: BesidePrompt,
    /// Long prompts that go on where they ended.
    pub resumed: Vec<Resumed>,
    /// What keeping states on disk costs a session that decodes.
    pub writing: Writing,
}

/// Sessions that decode at once.
#[derive(Debug, Serialize)]
pub struct Together {
    /// How many.
    pub sessions: usize,
    /// Tokens per second of all of them, while all decode; the median of the rounds.
    pub decode: f64,
    /// Milliseconds between two tokens of one of them, likewise.
    pub gap_ms: f64,
}

/// A session that decodes beside another's long prompt.
#[derive(Debug, Serialize)]
pub struct BesidePrompt {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many of them were computed before the time was over.
    pub prefilled: usize,
    /// Seconds that it took.
    pub seconds: f64,
    /// Tokens that the other session decoded meanwhile.
    pub decoded: usize,
    /// Its usual gap between two tokens: the median without the prompt.
    pub usual_gap_ms: f64,
    /// The median gap beside the prompt.
    pub median_gap_ms: f64,
    /// The longest gap beside the prompt.
    pub worst_gap_ms: f64,
    /// The longest that a gap should be: 3 times the usual one or 250 ms.
    pub bound_ms: f64,
}

/// A conversation that goes on where it ended.
#[derive(Debug, Serialize)]
pub struct Resumed {
    /// Tokens of its first prompt.
    pub context: usize,
    /// Bytes of its state.
    pub state_bytes: u64,
    /// Seconds to the first token when nothing is known of it.
    pub new: f64,
    /// Seconds to the first token of the next turn from memory.
    pub memory: f64,
    /// Tokens that were in memory.
    pub memory_tokens: usize,
    /// Seconds to the first token of the next turn from disk, after a restart.
    pub disk: f64,
    /// Tokens that were on disk.
    pub disk_tokens: usize,
}

/// What keeping states on disk costs a session that decodes beside another whose states are kept.
#[derive(Debug, Serialize)]
pub struct Writing {
    /// Tokens per second with states in memory only; the median of the rounds.
    pub without: f64,
    /// Tokens per second with states on disk as well.
    pub with: f64,
    /// Bytes that were written meanwhile.
    pub bytes: u64,
}

impl Writing {
    /// The part of the speed that writing costs; below 0 if the measurements differ by chance the other way.
    pub fn cost(&self) -> f64 {
        1.0 - self.with / self.without
    }
}

/// Tables for people.
pub fn table(report: &SessionsReport) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("model      {}", report.weights));
    line(&mut text, format_args!("device     {}", report.device));
    line(&mut text, format_args!("numerics   compute {}, cache {}", report.compute, report.kv_precision));
    line(&mut text, format_args!(""));
    line(&mut text, format_args!("{:>9} {:>11} {:>9} {:>12}", "sessions", "decode", "", "gap"));
    line(&mut text, format_args!("{:>9} {:>11} {:>9} {:>12}", "together", "t/s in all", "", "ms"));
    let first = report.together.first().map_or(f64::NAN, |first| first.decode / first.sessions as f64);
    for together in &report.together {
        let Together { sessions, decode, gap_ms } = together;
        let times = format!("{:.2} ×", decode / first);
        line(&mut text, format_args!("{sessions:>9} {:>11} {times:>9} {gap_ms:>12.1}", units::rate(*decode)));
    }
    let BesidePrompt { prompt, prefilled, seconds, decoded, usual_gap_ms, median_gap_ms, worst_gap_ms, bound_ms } =
        &report.beside_prompt;
    line(&mut text, format_args!(""));
    line(
        &mut text,
        format_args!("A session decodes beside another's prompt of {} tokens:", units::grouped(*prompt as u64)),
    );
    line(
        &mut text,
        format_args!("  {} of them in {seconds:.1} s, {decoded} tokens decoded", units::grouped(*prefilled as u64)),
    );
    line(
        &mut text,
        format_args!(
            "  gap {usual_gap_ms:.1} ms alone; {median_gap_ms:.1} ms beside it, at worst {worst_gap_ms:.1} ms"
        ),
    );
    let verdict = if worst_gap_ms <= bound_ms { "below" } else { "above" };
    line(&mut text, format_args!("  {verdict} the bound of {bound_ms:.0} ms"));
    line(&mut text, format_args!(""));
    line(&mut text, format_args!("Seconds to the first token of a conversation:"));
    line(&mut text, format_args!("{:>9} {:>11} {:>9} {:>12} {:>12}", "context", "new", "memory", "disk", "state"));
    for resumed in &report.resumed {
        let Resumed { context, state_bytes, new, memory, disk, .. } = resumed;
        line(
            &mut text,
            format_args!("{context:>9} {new:>11.3} {memory:>9.3} {disk:>12.3} {:>12}", units::bytes(*state_bytes)),
        );
    }
    let writing = &report.writing;
    line(&mut text, format_args!(""));
    line(&mut text, format_args!("Decoding beside a session whose states are kept:"));
    line(
        &mut text,
        format_args!(
            "  {} t/s in memory, {} t/s on disk as well ({:+.1} %), {} written",
            units::rate(writing.without),
            units::rate(writing.with),
            -100.0 * writing.cost(),
            units::bytes(writing.bytes)
        ),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compares_with_one_session_and_with_the_bound() {
        let report = SessionsReport {
            weights: "test".to_owned(),
            device: "CPU".to_owned(),
            compute: "int8".to_owned(),
            kv_precision: "model".to_owned(),
            together: [(1, 10.0), (8, 35.0)]
                .map(|(sessions, decode)| Together { sessions, decode, gap_ms: 100.0 })
                .into(),
            beside_prompt: BesidePrompt {
                prompt: 32_768,
                prefilled: 1000,
                seconds: 60.0,
                decoded: 100,
                usual_gap_ms: 100.0,
                median_gap_ms: 200.0,
                worst_gap_ms: 301.0,
                bound_ms: 300.0,
            },
            resumed: vec![Resumed {
                context: 512,
                state_bytes: 6 << 20,
                new: 40.0,
                memory: 1.0,
                memory_tokens: 512,
                disk: 1.1,
                disk_tokens: 512,
            }],
            writing: Writing { without: 100.0, with: 98.0, bytes: 1 << 20 },
        };
        let text = table(&report);
        assert!(text.contains("3.50 ×") && text.contains("1.00 ×"), "{text}");
        assert!(text.contains("above the bound of 300 ms") && text.contains("-2.0 %"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!((report.writing.cost() - 0.02).abs() < 1e-9);
        let parsed: serde_json::Value =
            serde_json::from_str(&crate::commands::bench::output::json(&report)).expect("JSON");
        assert_eq!(parsed["together"][1]["sessions"], 8);
    }
}
