//! The report for people.

use std::fmt::Write;

use super::report::{ClassSum, Report, Shape, TensorLine};
use crate::terminal::{Style, columns, join_parts, printable, wrap};
use crate::units::{bytes, count, counted, grouped};

/// Width of the column of labels.
const LABEL: usize = 15;

/// The report in lines of at most `width` columns, as far as names and sentences in it allow.
pub fn write(report: &Report, list_tensors: bool, width: usize, style: Style) -> String {
    let mut page = Page { text: String::new(), width, style };
    page.head(report);
    if let Some(shape) = &report.shape {
        page.shape(shape);
    }
    page.classes(report);
    if list_tensors {
        page.tensors(&report.tensors);
    }
    page.state(report);
    page.reads(report);
    page.fit(report);
    page.verdict(report);
    page.text
}

/// A text being written. Writing to a `String` cannot fail, so results of `write!` are not looked at.
struct Page {
    text: String,
    width: usize,
    style: Style,
}

impl Page {
    fn head(&mut self, report: &Report) {
        let notes = &report.metadata;
        self.line(&self.style.bold(&printable(notes.name.as_deref().unwrap_or(&report.file))));
        let summary = [
            printable(&report.file).into_owned(),
            bytes(report.file_bytes),
            format!("{} parameters", count(report.parameters)),
            counted(report.tensors.len() as u64, "tensor"),
        ];
        let summary = join_parts(&summary, self.width);
        self.line(&self.style.dim(&summary));
        self.line("");
        self.field("architecture", notes.architecture.as_deref().unwrap_or("not stated"));
        self.field("license", notes.license.as_deref().unwrap_or("not stated"));
        match (notes.file_type, notes.file_type_name) {
            (Some(_), Some(name)) => self.field("file type", &format!("mostly {name}")),
            (Some(number), None) => self.field("file type", &format!("number {number}")),
            (None, _) => {}
        }
        if let Some(model) = &notes.tokenizer_model {
            let mut parts = vec![model.clone()];
            parts.extend(notes.tokenizer_pre.clone());
            parts.extend(notes.tokens.map(|n| counted(n as u64, "token")));
            parts.extend(notes.merges.map(|n| counted(n as u64, "merge")));
            self.field("tokenizer", &parts.join(", "));
        }
    }

    fn shape(&mut self, shape: &Shape) {
        self.heading("Shape");
        let layers = |ratio: usize| shape.ratios.iter().filter(|&&r| r == ratio).count();
        let mut kinds: Vec<usize> = shape.ratios.clone();
        kinds.sort_unstable();
        kinds.dedup();
        let kinds: Vec<String> = kinds
            .into_iter()
            .map(|ratio| match ratio {
                0 => format!("{} window only", layers(0)),
                ratio => format!("{} of ratio {ratio}", layers(ratio)),
            })
            .collect();
        self.field("layers", &format!("{} ({})", shape.n_layer, kinds.join(", ")));
        self.field("hidden width", &format!("{} in {} streams", grouped(shape.n_embd as u64), shape.hc));
        self.field("heads", &format!("{} x {} ({} rotary)", shape.n_head, shape.head_dim, shape.rope_dim));
        let output = format!("output {} in {} groups", shape.o_rank, shape.o_groups);
        self.field("ranks", &format!("query {}, {output}", shape.q_rank));
        self.field("window", &counted(shape.window as u64, "token"));
        self.field("indexer", &format!("{} heads x {}, keeps {} rows", shape.idx_heads, shape.idx_dim, shape.idx_topk));
        let experts = format!("{} + 1 shared, {} used", shape.n_expert, shape.n_expert_used);
        self.field("experts", &format!("{experts}, inner width {}", grouped(shape.n_ff as u64)));
        let by_score = shape.n_layer.saturating_sub(shape.n_hash_layer);
        self.field("routing", &format!("{} layers by token id, {by_score} by score", shape.n_hash_layer));
        self.field("vocabulary", &counted(shape.n_vocab as u64, "token"));
        self.field("context", &counted(shape.context_length as u64, "token"));
    }

    fn classes(&mut self, report: &Report) {
        self.heading("Tensors");
        let heads = table_line("role", "type", "count", "params", "size");
        self.line(&self.style.dim(&heads));
        for ClassSum { class, ty, tensors, parameters, bytes: size } in &report.classes {
            let cells = [grouped(*tensors), count(*parameters), bytes(*size)];
            self.line(&table_line(class.label(), ty.name(), &cells[0], &cells[1], &cells[2]));
        }
        let cells = [grouped(report.tensors.len() as u64), count(report.parameters), bytes(report.tensor_bytes)];
        let total = table_line("total", "", &cells[0], &cells[1], &cells[2]);
        self.line(&self.style.bold(&total));
        if report.stored_tensor_bytes < report.tensor_bytes {
            let stored = bytes(report.stored_tensor_bytes);
            self.line(&format!("  Tensors share data: the file stores {stored} of it."));
        }
    }

    fn tensors(&mut self, tensors: &[TensorLine]) {
        self.line("");
        let widest = tensors.iter().map(|tensor| columns(&tensor.name)).max().unwrap_or(0);
        // Name, type, size and shape; a name that leaves no room for the rest gets a line of its own.
        let name_width = widest.min(self.width.saturating_sub(38)).max(12);
        for tensor in tensors {
            let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
            let name = printable(&tensor.name);
            if columns(&name) > name_width {
                self.line(&format!("  {name}"));
                self.line(&format!("  {:name_width$} {:7} {:>10}  {shape}", "", tensor.ty, bytes(tensor.bytes)));
            } else {
                self.line(&format!("  {name:name_width$} {:7} {:>10}  {shape}", tensor.ty, bytes(tensor.bytes)));
            }
        }
    }

    fn state(&mut self, report: &Report) {
        if report.state.is_empty() {
            return;
        }
        self.heading("Memory of a conversation");
        let mut head = format!("  {:LABEL$}", "--kv-precision");
        for state in &report.state {
            let _ = write!(head, "{:>14}", state.kv_precision);
        }
        self.line(&self.style.dim(&head));
        self.state_line("per token", report.state.iter().map(|state| bytes(state.bytes_per_token.round() as u64)));
        self.state_line("fixed", report.state.iter().map(|state| bytes(state.fixed_bytes)));
        let lengths: Vec<usize> = report.state[0].at.iter().map(|at| at.tokens).collect();
        for (index, tokens) in lengths.into_iter().enumerate() {
            self.state_line(&context(tokens), report.state.iter().map(|state| bytes(state.at[index].bytes)));
        }
    }

    fn state_line(&mut self, label: &str, cells: impl Iterator<Item = String>) {
        let mut line = format!("  {label:LABEL$}");
        cells.for_each(|cell| {
            let _ = write!(line, "{cell:>14}");
        });
        self.line(&line);
    }

    fn reads(&mut self, report: &Report) {
        if report.reads.is_empty() {
            return;
        }
        self.heading("Read for each decoded token");
        let head = format!("  {:LABEL$}{:>14}{:>14}", "context", "weights", "cache");
        self.line(&self.style.dim(&head));
        for reads in &report.reads {
            self.state_line(&context(reads.tokens), [reads.weight_bytes, reads.cache_bytes].into_iter().map(bytes));
        }
    }

    fn fit(&mut self, report: &Report) {
        let Some(fit) = &report.fit else { return };
        self.heading("On this machine");
        let weights = bytes(fit.bytes);
        let context = counted(fit.context as u64, "token");
        match fit.in_memory {
            true => self.marked(true, &format!("the weights ({weights}) and {context} of context fit into memory")),
            false => self.marked(
                false,
                &format!(
                    "the weights ({weights}) are larger than the memory available now: parts of them are read from \
                     disk for every token, which is slow"
                ),
            ),
        }
        for card in &report.cards {
            let (fits, sentence) = card.sentence();
            self.marked(fits, &printable(&sentence));
        }
    }

    fn verdict(&mut self, report: &Report) {
        self.heading("Check");
        match report.problems.as_slice() {
            [] => self.marked(true, "ds4 can run this file"),
            problems => problems.iter().for_each(|problem| self.marked(false, &printable(problem))),
        }
        let Some(deep) = &report.deep else {
            if report.runs {
                let note = "  Only the header was read; --deep reads every block.";
                self.line(&self.style.dim(note));
            }
            return;
        };
        match deep.bad_tensors.as_slice() {
            [] => self.marked(true, &format!("every block is sound ({} read)", bytes(deep.bytes))),
            bad => bad.iter().for_each(|bad| self.marked(false, &printable(&bad.problem))),
        }
    }

    fn marked(&mut self, good: bool, sentence: &str) {
        let mark = if good { self.style.good("ok") } else { self.style.error("!!") };
        let indent = 5;
        let lines = wrap(sentence, self.width.saturating_sub(indent));
        for (index, line) in lines.iter().enumerate() {
            match index {
                0 => self.line(&format!("  {mark} {line}")),
                _ => self.line(&format!("     {line}")),
            }
        }
    }

    fn heading(&mut self, title: &str) {
        self.line("");
        self.line(&self.style.bold(title));
    }

    fn field(&mut self, label: &str, value: &str) {
        let value = printable(value);
        let lines = wrap(&value, self.width.saturating_sub(LABEL + 3));
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.line(&format!("  {} {line}", self.style.dim(&format!("{label:LABEL$}"))));
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// A line of the table of classes; 58 columns.
fn table_line(role: &str, ty: &str, tensors: &str, parameters: &str, size: &str) -> String {
    format!("  {role:22}{ty:9}{tensors:>6}{parameters:>9}{size:>10}")
}

/// A length of context.
fn context(tokens: usize) -> String {
    match tokens {
        t if t.is_multiple_of(1 << 20) => format!("{} Mi tokens", t >> 20),
        t => format!("{} Ki tokens", t >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_source::ModelSource;
    use crate::terminal::{Stream, style};

    #[test]
    fn a_narrow_terminal_is_not_exceeded() {
        let report = Report::new(&ModelSource::Demo.open().unwrap(), Some(24 << 30));
        for width in [60, 80] {
            let text = write(&report, false, width, style(Stream::Output));
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(width), "{text}");
        }
    }
}
