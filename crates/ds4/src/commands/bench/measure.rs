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
    pub prefill_chunk: usize,
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
    /// Measured read bandwidth, bytes per second.
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
    /// Tokens per second of the prefill that led from the length before to this one.
    pub prefill: Option<f64>,
    /// Tokens per second of decoding here: of the median token.
    pub decode: f64,
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

/// Joins what [`Profiled`] saw while prefilling and decoding so many tokens.
fn operations(
    prefill: (Vec<(&'static str, Duration)>, usize),
    decode: (Vec<(&'static str, Duration)>, usize),
) -> Vec<OperationTime> {
    let per_token = |times: &[(&str, Duration)], tokens: usize, operation: &str| {
        let time = times.iter().find(|(name, _)| *name == operation).map_or(0.0, |(_, time)| time.as_secs_f64());
        time * 1e3 / tokens.max(1) as f64
    };
    let mut names: Vec<&'static str> = prefill.0.iter().chain(&decode.0).map(|&(name, _)| name).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let time = |operation| OperationTime {
        operation,
        prefill_ms: per_token(&prefill.0, prefill.1, operation),
        decode_ms: per_token(&decode.0, decode.1, operation),
    };
    names.into_iter().map(time).collect()
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

/// Runs the plan. `None` after Ctrl-C.
///
/// # Errors
/// The backend fails.
pub fn measure<B: Backend>(
    backend: &mut B,
    device: String,
    bandwidth: Option<f64>,
    plan: &Plan,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Report>> {
    let layout = StateLayout::new(backend.model().config(), backend.numerics().kv);
    let vocab = backend.model().config().n_vocab;
    let token = |position: usize| (position.wrapping_mul(2_654_435_761) % vocab) as u32;
    let warm_up = plan.contexts.first().copied().unwrap_or(0).clamp(1, plan.prefill_chunk);
    let tokens: usize = warm_up + plan.contexts.last().copied().unwrap_or(0) + plan.contexts.len() * plan.generate;
    let progress = Progress::new("measuring", tokens as u64, Unit::Tokens);
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
    for &context in &plan.contexts {
        let (mut seconds, from) = (0.0, sequence.len());
        while sequence.len() < context {
            let n = plan.prefill_chunk.min(context - sequence.len());
            seconds += step(backend, &mut sequence, n)?;
            if interrupt.is_pressed() {
                return Ok(None);
            }
        }
        let prefill = (context > from).then(|| (context - from) as f64 / seconds);
        let prefilled = (backend.take(), context - from);

        let mut decoding = sequence.fork();
        let mut times = Vec::with_capacity(plan.generate);
        for _ in 0..plan.generate {
            times.push(step(backend, &mut decoding, 1)?);
            if interrupt.is_pressed() {
                return Ok(None);
            }
        }
        times.sort_by(f64::total_cmp);
        let decode = 1.0 / times[times.len() / 2];
        let operations = operations(prefilled, (backend.take(), times.len()));
        let cost = ReadCost::of(backend.model(), &layout, context);
        let roofline = bandwidth.map(|bandwidth| bandwidth / cost.total() as f64);
        points.push(Point {
            context,
            prefill,
            decode,
            weight_bytes: cost.weights,
            cache_bytes: cost.cache,
            state_bytes: layout.sequence_bytes(context) as u64,
            roofline,
            fraction: roofline.map(|roofline| decode / roofline),
            operations,
        });
    }
    Ok(Some(Report {
        weights: String::new(),
        device,
        compute: backend.numerics().compute.to_string(),
        kv_precision: backend.numerics().kv.to_string(),
        bandwidth,
        points,
        scaling: Vec::new(),
    }))
}
