//! Attention over the window and compressed rows.

use std::cell::RefCell;

use ds4_model::rope::rotate_back;
use ds4_model::{Rows, Sequence, Span};

use super::CpuBackend;
use super::select::per_head;
use super::workspace::Angle;
use crate::kernels::{Isa, SharedOut, math};

/// Heads that one task computes when rows alone would not occupy the threads.
const HEADS: usize = 8;
/// Keys that one task decodes then.
const KEYS: usize = 32;

thread_local! {
    /// Decoded keys of one row, and weights per head.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = RefCell::default();
}

/// A row of the batch and the keys that it sees.
struct Seen<'a> {
    row: usize,
    position: usize,
    span: &'a Span,
    sequence: &'a Sequence,
    /// First window position.
    first: usize,
    /// Compressed rows, all visible ones or those selected.
    compressed: Compressed<'a>,
}

enum Compressed<'a> {
    All(usize),
    Selected(&'a [u32]),
}

impl Seen<'_> {
    fn window(&self) -> usize {
        self.position + 1 - self.first
    }

    /// Number of keys: window rows, then compressed rows, both ascending.
    fn keys(&self) -> usize {
        self.window()
            + match self.compressed {
                Compressed::All(n) => n,
                Compressed::Selected(rows) => rows.len(),
            }
    }
}

impl CpuBackend {
    pub(super) fn attend_rows(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        let config = self.model.config();
        let (heads, dim, ratio) = (config.n_head, config.head_dim, config.ratios[layer]);
        let mut attended = std::mem::take(&mut self.work.attended);
        let seen: Vec<Seen> = rows
            .spans()
            .iter()
            .flat_map(|span| span.rows().map(move |(row, position)| (span, row, position)))
            .map(|(span, row, position)| Seen {
                row,
                position,
                span,
                sequence: sequences[span.sequence],
                first: (position + 1).saturating_sub(config.window),
                compressed: match &self.work.selection[row] {
                    Some(chosen) => Compressed::Selected(chosen),
                    None => Compressed::All((position + 1).checked_div(ratio).unwrap_or(0)),
                },
            })
            .collect();

        if seen.len() >= 2 * self.pool.threads() {
            let out = SharedOut::new(&mut attended, heads * dim);
            self.pool.run(seen.len(), |i| {
                // SAFETY: task i writes the row of `seen[i]` only.
                let mut out = unsafe { out.columns(0..heads * dim) };
                SCRATCH.with_borrow_mut(|(keys, weights)| {
                    keys.resize(seen[i].keys() * dim, 0.0);
                    self.decode_keys(layer, &seen[i], 0, keys);
                    self.attend_heads(layer, &seen[i], 0, keys, weights, out.row_mut(seen[i].row));
                });
            });
        } else {
            let mut keys = Vec::new();
            for seen in &seen {
                keys.resize(seen.keys() * dim, 0.0);
                let shared = SharedOut::new(&mut keys, dim);
                self.pool.run(seen.keys().div_ceil(KEYS), |task| {
                    // SAFETY: task i writes keys i * KEYS.. only.
                    let mut out = unsafe { shared.columns(0..dim) };
                    for k in task * KEYS..((task + 1) * KEYS).min(seen.keys()) {
                        self.decode_keys(layer, seen, k, out.row_mut(k));
                    }
                });
                let out = SharedOut::new(&mut attended[seen.row * heads * dim..][..heads * dim], heads * dim);
                self.pool.run(heads.div_ceil(HEADS), |task| {
                    let range = task * HEADS..((task + 1) * HEADS).min(heads);
                    // SAFETY: tasks have disjoint heads.
                    let mut out = unsafe { out.columns(range.start * dim..range.end * dim) };
                    SCRATCH.with_borrow_mut(|(_, weights)| {
                        self.attend_heads(layer, seen, range.start, &keys, weights, out.row_mut(0));
                    });
                });
            }
        }
        drop(seen);
        self.work.attended = attended;
    }

    /// Decodes keys of a row from number `from` on, as many as `keys` [n, dim] has room for.
    fn decode_keys(&self, layer: usize, seen: &Seen<'_>, from: usize, keys: &mut [f32]) {
        let (dim, format) = (self.config().head_dim, self.layout.kv_row);
        for (key, k) in keys.chunks_exact_mut(dim).zip(from..) {
            let position = seen.first + k;
            if k >= seen.window() {
                let k = k - seen.window();
                let row = match seen.compressed {
                    Compressed::All(_) => k,
                    Compressed::Selected(rows) => rows[k] as usize,
                };
                format.decode(seen.sequence.compressed_row(layer, row), key);
            } else if position >= seen.span.first_position {
                // Rows of this batch are not in the ring yet; they would displace rows that others still need.
                let row = seen.span.first_row + position - seen.span.first_position;
                key.copy_from_slice(&self.work.kv[row * dim..][..dim]);
            } else {
                format.decode(seen.sequence.window_row(layer, position), key);
            }
        }
    }

    /// Attention of the heads from `first` on, as many as `out` [heads, dim] has room for.
    fn attend_heads(
        &self,
        layer: usize,
        seen: &Seen<'_>,
        first: usize,
        keys: &[f32],
        weights: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let config = self.model.config();
        let dim = config.head_dim;
        let n_heads = out.len() / dim;
        let query = &self.work.query[(seen.row * config.n_head + first) * dim..][..out.len()];
        let pairs = config.rope_dim / 2;
        let angles: &[Angle] = &self.work.angles[usize::from(config.ratios[layer] != 0)][seen.row * pairs..][..pairs];
        let n = seen.keys();
        weights.resize(n_heads * n, 0.0);
        per_head(self.isa, keys, query, dim, weights);
        let scale = (dim as f32).sqrt().recip();
        out.fill(0.0);
        let mut totals = Vec::with_capacity(n_heads);
        for (weights, &sink) in weights.chunks_exact_mut(n).zip(&self.model.layers[layer].sinks[first..]) {
            totals.push(softmax_with_sink(self.isa, weights, scale, sink));
        }
        math::weighted_sum(self.isa, weights, n, keys, dim, out);
        for (head, total) in out.chunks_exact_mut(dim).zip(totals) {
            math::scale(self.isa, total.recip(), head);
            rotate_back(head, angles);
        }
    }
}

/// Turns scores into `e^(scale * score - max)` and returns the sum, the sink's share included.
fn softmax_with_sink(isa: Isa, scores: &mut [f32], scale: f32, sink: f32) -> f32 {
    math::scale(isa, scale, scores);
    let max = math::max(isa, scores).max(sink);
    let mut sink = [sink - max];
    math::exp(isa, &mut sink);
    math::exp_sum(isa, scores, max) + sink[0]
}
