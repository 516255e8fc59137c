//! What the answers of a session have cost.

use std::time::Duration;

use crate::summary::Counts;
use crate::units::{counted, grouped, rate};

/// Sums over all answers, and the last one.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    answers: usize,
    sum: Counts,
    /// Tokens that took a step each: all but the first of each answer.
    steps: usize,
    last: Counts,
}

impl Stats {
    /// Counts an answer.
    pub fn add(&mut self, counts: &Counts) {
        self.answers += 1;
        self.sum.prompt += counts.prompt;
        self.sum.reused += counts.reused;
        self.sum.answer += counts.answer;
        self.sum.prefill += counts.prefill;
        self.sum.decode += counts.decode;
        self.steps += counts.answer.saturating_sub(1);
        self.last = *counts;
    }

    /// The figures, one line each. `context` in tokens.
    pub fn lines(&self, context: usize) -> Vec<String> {
        if self.answers == 0 {
            return vec!["no answers yet".to_owned()];
        }
        let Stats { sum, last, .. } = self;
        let speed = |tokens: usize, time: Duration| match time.is_zero() {
            true => String::new(),
            false => format!(", {} t/s", rate(tokens as f64 / time.as_secs_f64())),
        };
        let prompt = |counts: &Counts| {
            let computed = counts.prompt - counts.reused;
            format!("{}{}", counted(counts.prompt as u64, "token"), speed(computed, counts.prefill))
        };
        let reuse = |counts: &Counts| {
            let share = 100.0 * counts.reused as f64 / counts.prompt.max(1) as f64;
            let computed = grouped((counts.prompt - counts.reused) as u64);
            format!("{} reused ({share:.0} %), {computed} computed", grouped(counts.reused as u64))
        };
        let used = last.prompt + last.answer;
        vec![
            format!("last prompt  {}", prompt(last)),
            format!("             {}", reuse(last)),
            format!(
                "last answer  {}{}",
                counted(last.answer as u64, "token"),
                speed(last.answer.saturating_sub(1), last.decode)
            ),
            format!("all prompts  {}", prompt(sum)),
            format!("             {}", reuse(sum)),
            format!(
                "{} {}{}",
                match self.answers {
                    1 => "one answer  ".to_owned(),
                    n => format!("{:<12}", format!("{n} answers")),
                },
                counted(sum.answer as u64, "token"),
                speed(self.steps, sum.decode)
            ),
            format!("context      {} of {} tokens", grouped(used as u64), grouped(context as u64)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_the_last_answer_are_told_apart() {
        let mut stats = Stats::default();
        assert_eq!(stats.lines(100), ["no answers yet"]);
        let (prefill, decode) = (Duration::from_secs(1), Duration::from_secs(2));
        stats.add(&Counts { prompt: 10, reused: 0, answer: 5, prefill, decode });
        stats.add(&Counts { prompt: 30, reused: 20, answer: 9, prefill, decode });
        assert_eq!(
            stats.lines(1000),
            [
                "last prompt  30 tokens, 10.0 t/s",
                "             20 reused (67 %), 10 computed",
                "last answer  9 tokens, 4.00 t/s",
                "all prompts  40 tokens, 10.0 t/s",
                "             20 reused (50 %), 20 computed",
                "2 answers    14 tokens, 3.00 t/s",
                "context      39 of 1 000 tokens",
            ]
        );
    }
}
