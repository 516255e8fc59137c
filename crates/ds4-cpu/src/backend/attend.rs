//! Attention over the window and compressed rows.

use std::cell::RefCell;
use std::ops::Range;

use ds4_model::rope::rotate_back;
use ds4_model::{Rows, Sequence};

use super::CpuBackend;
use super::cached::decode_kv;
use super::linear;
use super::workspace::Angle;
use crate::kernels::{self, AlignedVec, Isa, Matrix, OutCols, SharedOut, math, matmul_f32};

/// Heads that one task computes when rows alone would not occupy the threads.
const HEADS: usize = 8;
/// Keys that one task decodes.
const KEYS: usize = 32;

thread_local! {
    /// Decoded keys of one row, and weights per head.
    static SCRATCH: RefCell<(AlignedVec<f32>, Vec<f32>)> = RefCell::default();
}

/// A row of the batch and the keys that it sees: window rows, then compressed rows, both ascending.
struct Seen<'a> {
    row: usize,
    sequence: &'a Sequence,
    /// Window keys, as rows of the shared keys.
    window: Range<usize>,
    compressed: Compressed<'a>,
}

enum Compressed<'a> {
    /// Rows of the shared keys.
    Shared(Range<usize>),
    /// Rows of the cache, which the task decodes for itself.
    Own(&'a [u32]),
}

/// One row of the keys that the rows of a batch share: where it comes from.
#[derive(Clone, Copy)]
enum Key<'a> {
    /// A row of the batch. These are not in the ring yet; they would displace rows that others still need.
    Batch(usize),
    /// Position in the window ring.
    Window(&'a Sequence, usize),
    /// Compressed row.
    Compressed(&'a Sequence, usize),
}

/// The keys of a batch: those that rows share are decoded once.
struct Keys<'a> {
    shared: Vec<Key<'a>>,
    seen: Vec<Seen<'a>>,
}

impl CpuBackend {
    pub(super) fn attend_rows(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        let config = self.model.config();
        let (heads, dim) = (config.n_head, config.head_dim);
        let mut attended = std::mem::take(&mut self.work.attended);
        let mut keys = std::mem::take(&mut self.work.keys);
        let sequences: Vec<&Sequence> = sequences.iter().map(|sequence| &**sequence).collect();
        // With enough rows each is a task; else the keys and heads of each are divided.
        let many = rows.len() >= 2 * self.pool.threads();
        let plan = self.plan_keys(layer, rows, &sequences, many);
        // Sequences share no keys with each other: where each has one row, its task decodes its own, which stay with its thread.
        let alone = many && plan.seen.len() == rows.spans().len();
        if !alone {
            keys.resize(plan.shared.len() * dim);
            let shared = SharedOut::new(keys.as_mut_slice(), dim);
            self.pool.run(plan.shared.len().div_ceil(KEYS), |task| {
                // SAFETY: task i writes keys i * KEYS.. only.
                let mut out = unsafe { shared.columns(0..dim) };
                for k in task * KEYS..((task + 1) * KEYS).min(plan.shared.len()) {
                    self.load_key(layer, plan.shared[k], out.row_mut(k));
                }
            });
        }
        let group = if many { heads } else { HEADS };
        let pieces = heads.div_ceil(group);
        let out = SharedOut::new(&mut attended, heads * dim);
        let attend = |piece: usize| {
            let (seen, first) = (&plan.seen[piece / pieces], piece % pieces * group);
            let range = first..(first + group).min(heads);
            // SAFETY: pieces have disjoint heads, or write the rows of different `seen`.
            let mut out = unsafe { out.columns(range.start * dim..range.end * dim) };
            SCRATCH.with_borrow_mut(|(own, weights)| {
                let chosen: Vec<Key> = match &seen.compressed {
                    Compressed::Own(chosen) => {
                        chosen.iter().map(|&k| Key::Compressed(seen.sequence, k as usize)).collect()
                    }
                    Compressed::Shared(range) if alone => plan.shared[range.clone()].to_vec(),
                    Compressed::Shared(_) => Vec::new(),
                };
                let window = if alone { &plan.shared[seen.window.clone()] } else { &[] };
                own.resize((window.len() + chosen.len()) * dim);
                for (key, &from) in own.as_mut_slice().chunks_exact_mut(dim).zip(window.iter().chain(&chosen)) {
                    self.load_key(layer, from, key);
                }
                let (window, own) = own.as_slice().split_at(window.len() * dim);
                let shared = |range: &Range<usize>| &keys.as_slice()[range.start * dim..range.end * dim];
                let window = if alone { window } else { shared(&seen.window) };
                let compressed = match &seen.compressed {
                    Compressed::Shared(range) if !alone => shared(range),
                    _ => own,
                };
                self.attend_heads(layer, seen.row, first, [window, compressed], weights, out.row_mut(seen.row));
            });
        };
        match many {
            true => linear::for_rows(&self.pool, plan.seen.len(), attend),
            false => self.pool.run(plan.seen.len() * pieces, attend),
        }
        drop(plan);
        (self.work.attended, self.work.keys) = (attended, keys);
    }

    /// What every row of the batch sees. Rows that chose compressed rows decode them for themselves if `own`: with many rows,
    /// all their choices at once would be large.
    fn plan_keys<'a>(&'a self, layer: usize, rows: &'a Rows, sequences: &[&'a Sequence], own: bool) -> Keys<'a> {
        let config = self.model.config();
        let ratio = config.ratios[layer];
        let mut keys = Keys { shared: Vec::new(), seen: Vec::with_capacity(rows.len()) };
        for span in rows.spans() {
            let sequence = sequences[span.sequence];
            let first = window_start(span.first_position, config.window);
            let window = keys.shared.len();
            keys.shared.extend((first..span.first_position).map(|position| Key::Window(sequence, position)));
            keys.shared.extend(span.rows().map(|(row, _)| Key::Batch(row)));
            let visible = |position: usize| (position + 1).checked_div(ratio).unwrap_or(0);
            let all = keys.shared.len();
            let shared = span.rows().filter(|&(row, _)| self.work.selection[row].is_none());
            let most = shared.map(|(_, position)| visible(position)).max().unwrap_or(0);
            keys.shared.extend((0..most).map(|k| Key::Compressed(sequence, k)));
            for (row, position) in span.rows() {
                let compressed = match &self.work.selection[row] {
                    None => Compressed::Shared(all..all + visible(position)),
                    Some(chosen) if own => Compressed::Own(chosen),
                    Some(chosen) => {
                        let from = keys.shared.len();
                        keys.shared.extend(chosen.iter().map(|&k| Key::Compressed(sequence, k as usize)));
                        Compressed::Shared(from..keys.shared.len())
                    }
                };
                let window = window + window_start(position, config.window) - first..window + position + 1 - first;
                keys.seen.push(Seen { row, sequence, window, compressed });
            }
        }
        keys
    }

    fn load_key(&self, layer: usize, key: Key<'_>, out: &mut [f32]) {
        let format = self.layout.kv_row;
        match key {
            Key::Batch(row) => out.copy_from_slice(&self.work.kv[row * out.len()..][..out.len()]),
            Key::Window(sequence, position) => decode_kv(self.isa, format, sequence.window_row(layer, position), out),
            Key::Compressed(sequence, k) => decode_kv(self.isa, format, sequence.compressed_row(layer, k), out),
        }
    }

    /// Attention of the heads from `first` on, as many as `out` [heads, dim] has room for, over `keys`, each part [n, dim].
    fn attend_heads(
        &self,
        layer: usize,
        row: usize,
        first: usize,
        keys: [&[f32]; 2],
        weights: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let config = self.model.config();
        let dim = config.head_dim;
        let n_heads = out.len() / dim;
        let query = &self.work.query[(row * config.n_head + first) * dim..][..out.len()];
        let pairs = config.rope_dim / 2;
        let angles: &[Angle] = &self.work.angles[usize::from(config.ratios[layer] != 0)][row * pairs..][..pairs];
        let [n_window, n_compressed] = keys.map(|keys| keys.len() / dim);
        let n = n_window + n_compressed;
        weights.resize(n_heads * n, 0.0);
        for (keys, columns) in keys.into_iter().zip([0..n_window, n_window..n]) {
            let scores = &mut OutCols::of(weights, n, columns);
            matmul_f32(self.isa, &Matrix::from_f32(keys, dim), 0..keys.len() / dim, query, kernels::Rows::All, scores);
        }
        let scale = (dim as f32).sqrt().recip();
        out.fill(0.0);
        let mut totals = Vec::with_capacity(n_heads);
        for (weights, &sink) in weights.chunks_exact_mut(n).zip(&self.model.layers[layer].sinks[first..]) {
            totals.push(softmax_with_sink(self.isa, weights, scale, sink));
        }
        // Sums that are begun over the window continue over the compressed rows.
        math::weighted_sum(self.isa, weights, n, keys[0], dim, out);
        math::weighted_sum(self.isa, &weights[n_window..], n, keys[1], dim, out);
        for (head, total) in out.chunks_exact_mut(dim).zip(totals) {
            math::scale(self.isa, total.recip(), head);
            rotate_back(head, angles);
        }
    }
}

/// The first window position that a token sees.
fn window_start(position: usize, window: usize) -> usize {
    (position + 1).saturating_sub(window)
}

/// Turns scores into `e^(scale * score - max)` and returns the sum, the sink's share included.
fn softmax_with_sink(isa: Isa, scores: &mut [f32], scale: f32, sink: f32) -> f32 {
    math::scale(isa, scale, scores);
    let max = math::max(isa, scores).max(sink);
    let mut sink = [sink - max];
    math::exp(isa, &mut sink);
    math::exp_sum(isa, scores, max) + sink[0]
}
