//! The report for people.

use super::Report;
use super::adapter::Adapter;
use super::advice::{self, Advice};
use super::self_test::{Check, ModeResult};
use crate::fit::Fit;
use crate::machine::Machine;
use crate::terminal::{Style, columns, join_parts, printable};
use crate::units::{bytes, counted, grouped, rate};

/// Width of the column of labels.
const LABEL: usize = 14;

/// The report in lines of at most `width` columns, as far as names in it allow.
pub fn write(report: &Report, width: usize, style: Style) -> String {
    let mut page = Page { text: String::new(), width, style };
    page.machine(&report.machine, &report.adapters);
    for card in &report.cuda {
        page.field("CUDA", &card.facts());
        page.field("", &card.uses());
    }
    page.models(report);
    page.advice(report);
    if let Some(modes) = &report.self_test {
        page.self_test(modes);
    }
    page.text
}

struct Page {
    text: String,
    width: usize,
    style: Style,
}

impl Page {
    fn machine(&mut self, machine: &Machine, adapters: &[Adapter]) {
        self.heading("Machine");
        let threads = format!("{} used", counted(machine.threads as u64, "thread"));
        let cores = match machine.cores {
            Some(cores) => format!("{}, {threads}", counted(cores as u64, "core")),
            None => threads,
        };
        self.field("processor", &[printable(&machine.processor).into_owned(), cores]);
        let best = machine.instruction_sets.last().cloned().unwrap_or_default();
        self.field("instructions", &[machine.instruction_sets.join(", "), format!("{best} is used")]);
        let memory = machine.memory;
        let mut parts = vec![bytes(memory.total), format!("{} available", bytes(memory.available))];
        parts.extend(memory.limit.map(|limit| format!("limited to {}", bytes(limit))));
        self.field("memory", &parts);
        let bandwidth = format!("{:.1} GB/s", machine.bandwidth / 1e9);
        self.field("bandwidth", &[bandwidth, "measured reading".to_owned()]);
        let rooms = machine.disks.iter().map(|disk| (disk.free, disk.total));
        for (i, (free, total)) in rooms.clone().enumerate() {
            // Folders with as much room to the byte lie on the same disk, which is named once.
            if rooms.clone().take(i).any(|room| room == (free, total)) {
                continue;
            }
            let mut parts = vec![format!("{} free of {}", bytes(free), bytes(total))];
            let same = machine.disks.iter().filter(|disk| (disk.free, disk.total) == (free, total));
            parts.extend(same.map(|disk| disk.purpose.to_owned()));
            self.field("disk", &parts);
        }
        for adapter in adapters {
            self.field("graphics", &adapter.facts());
            self.field("", &adapter.uses());
        }
        if adapters.is_empty() {
            let mut parts: Vec<String> = machine.gpus.iter().map(|gpu| printable(gpu).into_owned()).collect();
            parts.push(match parts.is_empty() {
                true => "none seen".to_owned(),
                false => "out of reach: no Vulkan driver was found, so the processor computes".to_owned(),
            });
            self.field("graphics", &parts);
        }
    }

    fn models(&mut self, report: &Report) {
        self.heading("Models");
        for fit in report.published.iter().chain(&report.file) {
            let name = printable(&fit.name).into_owned();
            let size = format!("{:>9}", bytes(fit.bytes));
            self.field(&name, &[vec![size], verdict(fit)].concat());
        }
        let context = report.published.first().map_or(0, |fit| fit.context_of_speed);
        self.note(&format!(
            "Speeds are rooflines: what the bandwidth allows at {} tokens of context. `ds4 bench --synthetic v4-flash-q2 \
             --alias` measures what is reached, without a download.",
            grouped(context as u64)
        ));
    }

    fn advice(&mut self, report: &Report) {
        self.heading("Advice");
        let Some(advice) = Advice::new(&report.published, &report.cuda, &report.adapters) else { return };
        let best = advice.model;
        if let Some(card) = advice.card {
            self.note(&format!("{} holds {}.", printable(card), best.name));
        } else if !best.in_memory {
            let needed = bytes(best.bytes + (2 << 30));
            self.note(&format!(
                "No published model fits into memory here; the smallest, {}, wants {needed} available. It runs all the same, \
                 from disk: have a fast one.",
                best.name
            ));
        }
        if let Some(disk) = report.machine.disks.first().filter(|disk| disk.free < best.bytes) {
            self.note(&format!(
                "There is no room for {} in this folder: {} are missing. Download to another disk with --dir.",
                best.name,
                bytes(best.bytes - disk.free)
            ));
        }
        if let Some((fit, command)) = advice::after_raising_the_limit(&report.published, &report.adapters) {
            self.note(&format!(
                "The card would hold {} with more of this machine's memory. Until the next start, macOS allows that after:",
                fit.name
            ));
            self.command(&command);
        }
        self.command(&format!("ds4 pull {}", best.name));
        self.command(&format!("ds4 run -m FILE{}", advice.flags));
        if let Some(file) = &report.file {
            let on_card = report.file_on_card.as_ref().and_then(advice::of_card);
            let flags = on_card.unwrap_or_else(|| advice::of_processor(file));
            let word = crate::commands::pull::shell_word(std::path::Path::new(&file.name));
            self.command(&format!("ds4 run -m {}{flags}", printable(&word)));
        }
        self.note("Threads, instruction set and numerics need no flags: the defaults are right here.");
    }

    fn self_test(&mut self, modes: &[ModeResult]) {
        self.heading("Self-test");
        for mode in modes {
            let name = format!("compute {}, cache {}", mode.compute, mode.kv_precision);
            let failed = mode.checks.iter().filter(|check| !check.passed).count();
            let verdict = match failed {
                0 => self.style.good("passed").into_owned(),
                n => self.style.error(&format!("{n} of {} FAILED", mode.checks.len())).into_owned(),
            };
            self.line(&format!("  {name:<30} {verdict}"));
        }
        self.line("");
        let head = format!("  {:<13} {:<17} {:>8} {:>8}  {}", "operation", "result", "error", "allowed", "mode");
        self.line(&self.style.dim(&head));
        for (mode, check) in worst(modes) {
            let line = check_line(mode, check);
            self.line(&if check.passed { line } else { self.style.error(&line).into_owned() });
        }
        if modes.iter().any(|mode| mode.speed.is_some()) {
            self.line("");
            self.line(&self.style.dim("  tokens/s on the demo model        prefill    decode"));
        }
        for mode in modes {
            let Some(speed) = &mode.speed else { continue };
            let name = format!("compute {}, cache {}", mode.compute, mode.kv_precision);
            self.line(&format!("  {name:<30} {:>10.0} {:>9.1}", speed.prefill, speed.decode));
        }
        match modes.iter().all(ModeResult::passed) {
            true => self.note("All operations agree with the reference, and the logits with an independent program's."),
            false => self.note(
                "This machine, or this build on it, computes wrongly: do not trust its answers. Please report this output; \
                 `--cpu-features scalar` or `--backend reference` may still work.",
            ),
        }
    }

    fn heading(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.line("");
        }
        self.line(&self.style.bold(title));
    }

    /// A label and parts, in as many lines as they take.
    fn field(&mut self, label: &str, parts: &[String]) {
        let room = self.width.saturating_sub(LABEL + 2);
        let mut first = format!("  {label:<LABEL$}");
        if columns(label) >= LABEL {
            self.line(&first);
            first = format!("  {:LABEL$}", "");
        }
        for (index, line) in join_parts(parts, room).lines().enumerate() {
            match index {
                0 => self.line(&format!("{first}{line}")),
                _ => self.line(&format!("  {:LABEL$}{line}", "")),
            }
        }
    }

    fn command(&mut self, command: &str) {
        self.line(&format!("  {command}"));
    }

    /// A sentence, broken at blanks.
    fn note(&mut self, sentence: &str) {
        let mut line = String::from(" ");
        for word in sentence.split(' ') {
            if line.trim().is_empty() || columns(&line) + 1 + columns(word) <= self.width {
                line.push(' ');
            } else {
                let full = std::mem::replace(&mut line, String::from("  "));
                self.line(&self.style.dim(&full));
            }
            line.push_str(word);
        }
        self.line(&self.style.dim(&line));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

fn verdict(fit: &Fit) -> Vec<String> {
    let context = format!("{} of context", grouped(fit.context as u64));
    match (fit.in_memory, fit.roofline) {
        (true, Some(roofline)) => vec!["fits".to_owned(), context, format!("at most {} t/s", rate(roofline))],
        _ => vec!["runs from disk, slow".to_owned(), format!("{:.1} GB a token", fit.read_bytes as f64 / 1e9)],
    }
}

/// Of every comparison the mode in which it used the largest share of what is allowed.
fn worst(modes: &[ModeResult]) -> Vec<(&ModeResult, &Check)> {
    let share = |check: &Check| match (check.error, check.bound) {
        (error, _) if error.is_nan() => f64::INFINITY,
        (0.0, _) => 0.0,
        (error, bound) => error / bound,
    };
    let mut found: Vec<(&ModeResult, &Check)> = Vec::new();
    for mode in modes {
        for check in &mode.checks {
            let known = found.iter_mut().find(|(_, k)| k.operation == check.operation && k.result == check.result);
            match known {
                Some(known) if share(check) > share(known.1) => *known = (mode, check),
                Some(_) => {}
                None => found.push((mode, check)),
            }
        }
    }
    found
}

fn check_line(mode: &ModeResult, check: &Check) -> String {
    let number = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") };
    format!(
        "  {:<13} {:<17} {:>8} {:>8}  {}",
        check.operation,
        check.result,
        number(check.error),
        number(check.bound),
        format_args!("{} {}", mode.compute, mode.kv_precision)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(error: f64) -> ModeResult {
        let check = Check {
            operation: "moe".to_owned(),
            result: "Output".to_owned(),
            error,
            bound: 0.1,
            worst_at: 3,
            passed: error <= 0.1,
        };
        ModeResult { compute: "f32".to_owned(), kv_precision: "exact".to_owned(), checks: vec![check], speed: None }
    }

    #[test]
    fn the_worst_mode_is_shown_and_no_number_is_worst_of_all() {
        let error_shown = |errors: [f64; 3]| worst(&errors.map(mode))[0].1.error;
        assert_eq!(error_shown([0.01, 0.05, 0.02]), 0.05);
        assert!(error_shown([0.01, f64::NAN, 10.0]).is_nan());
        assert!(!mode(f64::NAN).passed());
    }
}
