//! The measurement.

use std::time::{Duration, Instant};

use ds4_cpu::bandwidth::read_bandwidth;
use ds4_cpu::pool::Pool;
use ds4_model::profile::Profiled;
use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, ReadCost, Rows, StateLayout, forward};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::terminal::{Progress, Unit};

/// What to measure.
pub struct Plan {
    /// Context lengths, ascending.
    pub contexts: Vec<usize>,
    /// Tokens to decode at each.
    pub generate: usize,
    /// Tokens per prefill step.
    pub prefill_chunk: Option<usize>,
    /// How often each context is measured, at least once; medians count.
    pub passes: usize,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model's weights, in words.
    pub weights: String,
    /// What it ran on.
    pub device: String,
    /// Numeric switches.
    pub compute: String,
    /// Numeric switches.
    pub kv_precision: String,
    /// Measured read bandwidth, bytes per second: the median of all measurements.
    pub bandwidth: Option<f64>,
    /// One entry per context length.
    pub points: Vec<Point>,
    /// What other numbers of threads reach, where they were asked for; `points` are those of the last.
    pub scaling: Vec<Scaling>,
}

/// Speed with a number of threads.
#[derive(Debug, Serialize)]
pub struct Scaling {
    /// CPU threads.
    pub threads: usize,
    /// Measured read bandwidth, bytes per second.
    pub bandwidth: Option<f64>,
    /// Tokens per second of the prefill up to the longest context.
    pub prefill: Option<f64>,
    /// Tokens per second of decoding there.
    pub decode: f64,
}

impl Scaling {
    /// What a report of a run with so many threads says.
    pub fn of(report: &Report, threads: usize) -> Option<Scaling> {
        let point = report.points.last()?;
        Some(Scaling { threads, bandwidth: report.bandwidth, prefill: point.prefill, decode: point.decode })
    }
}

/// Figures at one context length.
#[derive(Debug, Serialize)]
pub struct Point {
    /// Tokens of context.
    pub context: usize,
    /// Tokens per second of the prefill that led from the length before to this one: the median pass.
    pub prefill: Option<f64>,
    /// Tokens per second of decoding here: the median pass.
    pub decode: f64,
    /// Read bandwidth just before and after that, bytes per second: the median pass.
    pub bandwidth: Option<f64>,
    /// Bytes that a decoded token has to read: weights.
    pub weight_bytes: u64,
    /// Bytes that a decoded token has to read: cache.
    pub cache_bytes: u64,
    /// Bytes of state of one sequence.
    pub state_bytes: u64,
    /// Tokens per second that the bandwidth allows.
    pub roofline: Option<f64>,
    /// Share of it that was reached.
    pub fraction: Option<f64>,
    /// Where the time went, in the order of the time that prefill (else decoding) spends.
    pub operations: Vec<OperationTime>,
    /// What each pass measured.
    pub passes: Vec<Pass>,
}

/// One measurement at one context length.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pass {
    /// Tokens per second.
    pub prefill: Option<f64>,
    /// Tokens per second: of the median token.
    pub decode: f64,
    /// Read bandwidth, bytes per second: the mean of before and after.
    pub bandwidth: Option<f64>,
}

/// Milliseconds per token of one operation, over all layers.
#[derive(Debug, Serialize)]
pub struct OperationTime {
    /// Name of the operation, a method of `ds4_model::Backend`.
    pub operation: &'static str,
    /// While prefilling up to this context; 0 where nothing was prefilled.
    pub prefill_ms: f64,
    /// While decoding, the mean of the tokens.
    pub decode_ms: f64,
}

/// What [`Profiled`] saw of some tokens.
#[derive(Default)]
struct Seen {
    times: Vec<(&'static str, Duration)>,
    tokens: usize,
}

impl Seen {
    /// Adds what was seen of further tokens.
    fn add(&mut self, times: Vec<(&'static str, Duration)>, tokens: usize) {
        self.tokens += tokens;
        for (name, time) in times {
            match self.times.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => *total += time,
                None => self.times.push((name, time)),
            }
        }
        self.times.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
    }

    fn per_token_ms(&self, operation: &str) -> f64 {
        let time = self.times.iter().find(|(name, _)| *name == operation).map_or(0.0, |(_, time)| time.as_secs_f64());
        time * 1e3 / self.tokens.max(1) as f64
    }
}

/// Joins what was seen while prefilling and while decoding.
fn operations(prefill: &Seen, decode: &Seen) -> Vec<OperationTime> {
    let mut names: Vec<&'static str> = prefill.times.iter().chain(&decode.times).map(|&(name, _)| name).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let time = |operation| OperationTime {
        operation,
        prefill_ms: prefill.per_token_ms(operation),
        decode_ms: decode.per_token_ms(operation),
    };
    names.into_iter().map(time).collect()
}

/// The middle one; of an even number the mean of both.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n.is_multiple_of(2) => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// Read bandwidth, measured on the model's own largest weights: memory of the kind that decoding reads.
pub fn bandwidth(pool: &Pool, model: &Model) -> f64 {
    /// Enough to be several times any cache.
    const ENOUGH: u64 = 1 << 30;
    let gguf = model.gguf();
    let largest = gguf.tensors().iter().max_by_key(|info| info.size);
    match largest.filter(|info| info.size >= ENOUGH / 4) {
        Some(info) => {
            let data = gguf.data(info);
            read_bandwidth(pool, &data[..data.len().min(ENOUGH as usize)])
        }
        // A small model fits a cache; the figure is for memory all the same. Written once so that it is backed.
        None => read_bandwidth(pool, &vec![1; ENOUGH as usize / 2]),
    }
}

/// Runs the plan. `None` after Ctrl-C. `bandwidth` measures what the device reads, if that can be measured: before and after
/// each pass, since on a machine that others use it changes from one minute to the next.
///
/// # Errors
/// The backend fails.
pub fn measure<B: Backend>(
    backend: &mut B,
    device: String,
    mut bandwidth: impl FnMut(&mut B) -> anyhow::Result<Option<f64>>,
    plan: &Plan,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Report>> {
    let layout = StateLayout::new(backend.model().config(), backend.numerics().kv);
    let vocab = backend.model().config().n_vocab;
    let token = |position: usize| (position.wrapping_mul(2_654_435_761) % vocab) as u32;
    let chunk = plan.prefill_chunk.unwrap_or_else(|| backend.prefill_rows());
    let warm_up = plan.contexts.first().copied().unwrap_or(0).clamp(1, chunk);
    let a_pass = plan.contexts.last().copied().unwrap_or(0) + plan.contexts.len() * plan.generate;
    let progress = Progress::new("measuring", (warm_up + plan.passes * a_pass) as u64, Unit::Tokens);
    let mut done = 0;

    let backend = &mut Profiled::new(backend);
    let mut step = |backend: &mut Profiled<'_, B>, sequence: &mut B::Sequence, n: usize| -> anyhow::Result<f64> {
        let part: Vec<u32> = (sequence.len()..sequence.len() + n).map(token).collect();
        let mut rows = Rows::new();
        rows.push(0, sequence.len(), &part, Wanted::Last);
        let started = Instant::now();
        forward(backend, &rows, &mut [sequence])?;
        // A token is there when its logits are: devices may work behind the calls.
        backend.read(Buffer::Logits)?;
        done += n as u64;
        progress.set(done);
        Ok(started.elapsed().as_secs_f64())
    };

    // The first pass brings weights from disk and memory into use; it is nobody's speed. Only a whole prefill step meets
    // all experts.
    let mut warm = backend.new_sequence();
    step(backend, &mut warm, warm_up)?;
    drop(warm);
    if interrupt.is_pressed() {
        return Ok(None);
    }
    backend.take();

    let mut sequence = backend.new_sequence();
    let mut points = Vec::new();
    let mut bandwidths = Vec::new();
    for &context in &plan.contexts {
        let from = sequence.len();
        let (mut prefilled, mut decoded) = (Seen::default(), Seen::default());
        let mut passes = Vec::new();
        let mut reached = sequence.fork();
        for _ in 0..plan.passes {
            let before = bandwidth(backend.backend())?;
            reached = sequence.fork();
            let mut seconds = 0.0;
            while reached.len() < context {
                let n = chunk.min(context - reached.len());
                seconds += step(backend, &mut reached, n)?;
                if interrupt.is_pressed() {
                    return Ok(None);
                }
            }
            let prefill = (context > from).then(|| (context - from) as f64 / seconds);
            prefilled.add(backend.take(), context - from);

            let mut decoding = reached.fork();
            let mut times = Vec::with_capacity(plan.generate);
            for _ in 0..plan.generate {
                times.push(step(backend, &mut decoding, 1)?);
                if interrupt.is_pressed() {
                    return Ok(None);
                }
            }
            decoded.add(backend.take(), times.len());
            let decode = median(times).map_or(0.0, |seconds| 1.0 / seconds);
            let after = bandwidth(backend.backend())?;
            bandwidths.extend(before.into_iter().chain(after));
            let bandwidth = before.zip(after).map(|(before, after)| (before + after) / 2.0);
            passes.push(Pass { prefill, decode, bandwidth });
        }
        sequence = reached;
        let decode = median(passes.iter().map(|pass| pass.decode)).unwrap_or(0.0);
        let bandwidth = median(passes.iter().filter_map(|pass| pass.bandwidth));
        let cost = ReadCost::of(backend.model(), &layout, context);
        let roofline = bandwidth.map(|bandwidth| bandwidth / cost.total() as f64);
        points.push(Point {
            context,
            prefill: median(passes.iter().filter_map(|pass| pass.prefill)),
            decode,
            bandwidth,
            weight_bytes: cost.weights,
            cache_bytes: cost.cache,
            state_bytes: layout.sequence_bytes(context) as u64,
            roofline,
            fraction: roofline.map(|roofline| decode / roofline),
            operations: operations(&prefilled, &decoded),
            passes,
        });
    }
    Ok(Some(Report {
        weights: String::new(),
        device,
        compute: backend.numerics().compute.to_string(),
        kv_precision: backend.numerics().kv.to_string(),
        bandwidth: median(bandwidths),
        points,
        scaling: Vec::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn times_of_passes_are_joined() {
        let mut seen = Seen::default();
        seen.add(vec![("moe", Duration::from_millis(30)), ("head", Duration::from_millis(20))], 10);
        seen.add(vec![("head", Duration::from_millis(40))], 10);
        assert_eq!(seen.times[0].0, "head");
        assert_eq!(seen.per_token_ms("head"), 3.0);
        assert_eq!(seen.per_token_ms("moe"), 1.5);
        assert_eq!(seen.per_token_ms("route"), 0.0);
    }
}
