//! KV rows and compressors: what a batch adds to its sequences.

use ds4_model::model::CompressorTensors;
use ds4_model::rope::rotate;
use ds4_model::state::{Compressor, Frontier};
use ds4_model::{Rows, Sequence, Span};

use super::CpuBackend;
use crate::kernels::{Isa, SharedOut, math};

impl CpuBackend {
    /// Norm, rotation and rounding of the batch's KV rows, which are also kept in their stored form.
    pub(super) fn round_kv(&mut self, layer: usize) {
        let config = self.model.config();
        let norm = &self.model.layers[layer].kv_norm;
        let (isa, dim, format) = (self.isa, config.head_dim, self.layout.kv_row);
        let pairs = config.rope_dim / 2;
        let work = &mut self.work;
        let angles = &work.angles[usize::from(config.ratios[layer] != 0)];
        work.kv_stored.resize(work.rows * format.bytes(), 0);
        {
            let kv = SharedOut::new(&mut work.kv, dim);
            self.pool.run(work.rows, |row| {
                // SAFETY: task `row` touches row `row` only.
                let mut kv = unsafe { kv.columns(0..dim) };
                let kv = kv.row_mut(row);
                math::rms_norm(isa, kv, Some(norm), config.eps);
                rotate(kv, &angles[row * pairs..][..pairs]);
            });
        }
        for (kv, stored) in work.kv.chunks_exact_mut(dim).zip(work.kv_stored.chunks_exact_mut(format.bytes())) {
            format.encode(kv, stored);
            format.decode(stored, kv);
        }
    }

    /// Moves the batch's KV rows into the window rings, after attention has read the rows that they replace.
    pub(super) fn store_window(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        let (bytes, window) = (self.layout.kv_row.bytes(), self.layout.window);
        for span in rows.spans() {
            let stays = span.len.saturating_sub(window);
            for (row, position) in span.rows().skip(stays) {
                let slot = sequences[span.sequence].window_row_mut(layer, position);
                slot.copy_from_slice(&self.work.kv_stored[row * bytes..][..bytes]);
            }
        }
    }

    /// Feeds the batch into the layer's compressors and appends the rows that it completes.
    pub(super) fn compress(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        let tensors = &self.model.layers[layer];
        let work = &self.work;
        if let Some(tensors) = &tensors.compressor {
            let format = self.layout.kv_row;
            for span in rows.spans() {
                let sequence = &mut *sequences[span.sequence];
                let features = Features::of(&work.compressor_kv, &work.compressor_gate, tensors, span);
                for (window, row) in self.pool_windows(layer, sequence, Compressor::Attention, &features) {
                    format.encode(&row, sequence.compressed_row_mut(layer, window));
                }
            }
        }
        if let Some(indexer) = &tensors.indexer {
            let format = self.layout.index_row;
            for span in rows.spans() {
                let sequence = &mut *sequences[span.sequence];
                let features = Features::of(&work.indexer_kv, &work.indexer_gate, &indexer.compressor, span);
                for (window, mut row) in self.pool_windows(layer, sequence, Compressor::Indexer, &features) {
                    format.encode(&mut row, sequence.index_row_mut(layer, window));
                }
            }
        }
    }

    /// The rows, normalized and rotated, of the windows that a span closes, with their numbers. Advances the frontier.
    fn pool_windows(
        &self,
        layer: usize,
        sequence: &mut Sequence,
        which: Compressor,
        features: &Features<'_>,
    ) -> Vec<(usize, Vec<f32>)> {
        let config = self.model.config();
        let ratio = config.ratios[layer];
        let mut frontier = Frontier::of(sequence.frontier_mut(layer, which), ratio);
        let mut closed = match &mut frontier {
            Frontier::Overlapping { .. } => pool_overlapping(self.isa, ratio, &mut frontier, features),
            Frontier::Running { .. } => pool_running(self.isa, ratio, &mut frontier, features),
        };
        let frequencies = self.frequencies(layer);
        let mut angles = vec![(0.0, 0.0); frequencies.pairs()];
        for (window, row) in &mut closed {
            math::rms_norm(self.isa, row, Some(features.norm), config.eps);
            frequencies.angles(*window * ratio, &mut angles);
            rotate(row, &angles);
        }
        closed
    }
}

/// The compressor features of one span's tokens.
struct Features<'a> {
    span: &'a Span,
    width: usize,
    kv: &'a [f32],
    gate: &'a [f32],
    ape: &'a [f32],
    norm: &'a [f32],
}

impl<'a> Features<'a> {
    /// `kv`, `gate`: [rows of the batch, width].
    fn of(kv: &'a [f32], gate: &'a [f32], tensors: &'a CompressorTensors, span: &'a Span) -> Self {
        let width = tensors.kv.rows;
        let rows = span.first_row * width..(span.first_row + span.len) * width;
        Self { span, width, kv: &kv[rows.clone()], gate: &gate[rows], ape: &tensors.ape, norm: &tensors.norm }
    }

    /// Values of the token at `position`, which is in the span.
    fn kv(&self, position: usize) -> &'a [f32] {
        &self.kv[(position - self.span.first_position) * self.width..][..self.width]
    }

    /// Its gates with the position bias, added to `out`.
    fn gate_into(&self, position: usize, ratio: usize, out: &mut [f32]) {
        let gate = &self.gate[(position - self.span.first_position) * self.width..][..self.width];
        let ape = &self.ape[position % ratio * self.width..][..self.width];
        for ((out, gate), ape) in out.iter_mut().zip(gate).zip(ape) {
            *out = gate + ape;
        }
    }
}

/// Overlapping windows: each row pools the first half of the previous window's features and the second half of its own.
fn pool_overlapping(
    isa: Isa,
    ratio: usize,
    frontier: &mut Frontier<'_>,
    features: &Features<'_>,
) -> Vec<(usize, Vec<f32>)> {
    let Frontier::Overlapping { kv, gate, previous_kv, previous_gate } = frontier else {
        unreachable!("called for overlapping compressors");
    };
    let width = features.width;
    let dim = width / 2;
    let mut closed = Vec::new();
    for position in features.span.first_position..features.span.end_position() {
        let slot = position % ratio;
        kv[slot * width..][..width].copy_from_slice(features.kv(position));
        features.gate_into(position, ratio, &mut gate[slot * width..][..width]);
        if slot != ratio - 1 {
            continue;
        }
        let previous = previous_gate.chunks_exact(dim).zip(previous_kv.chunks_exact(dim));
        let current = gate.chunks_exact(width).zip(kv.chunks_exact(width)).map(|(g, k)| (&g[dim..], &k[dim..]));
        closed.push((position / ratio, softmax_pool(isa, dim, previous.chain(current))));
        for s in 0..ratio {
            previous_kv[s * dim..][..dim].copy_from_slice(&kv[s * width..][..dim]);
            previous_gate[s * dim..][..dim].copy_from_slice(&gate[s * width..][..dim]);
        }
        // A frontier's bytes depend on the tokens alone, so nothing of the closed window may stay behind.
        kv.fill(0.0);
        gate.fill(f32::NEG_INFINITY);
    }
    closed
}

/// Per channel: softmax of the slots' gates, weighted sum of their values.
fn softmax_pool<'a>(isa: Isa, dim: usize, slots: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone) -> Vec<f32> {
    let mut max = vec![f32::NEG_INFINITY; dim];
    for (gate, _) in slots.clone() {
        max.iter_mut().zip(gate).for_each(|(max, &gate)| *max = max.max(gate));
    }
    let (mut sum, mut pooled, mut weights) = (vec![0.0f32; dim], vec![0.0f32; dim], vec![0.0f32; dim]);
    for (gate, kv) in slots {
        weights.iter_mut().zip(gate).zip(&max).for_each(|((w, gate), max)| *w = gate - max);
        math::exp(isa, &mut weights);
        for d in 0..dim {
            sum[d] += weights[d];
            pooled[d] += weights[d] * kv[d];
        }
    }
    pooled.iter_mut().zip(&sum).for_each(|(pooled, sum)| *pooled /= sum);
    pooled
}

/// Separate windows: a running softmax per channel, token by token.
fn pool_running(
    isa: Isa,
    ratio: usize,
    frontier: &mut Frontier<'_>,
    features: &Features<'_>,
) -> Vec<(usize, Vec<f32>)> {
    let width = features.width;
    let (mut old, mut new) = (vec![0.0; width], vec![0.0; width]);
    let mut closed = Vec::new();
    for position in features.span.first_position..features.span.end_position() {
        let Frontier::Running { max, sum, weighted } = frontier else {
            unreachable!("called for compressors without overlap");
        };
        let kv = features.kv(position);
        features.gate_into(position, ratio, &mut new);
        for d in 0..width {
            let larger = max[d].max(new[d]);
            (old[d], new[d], max[d]) = (max[d] - larger, new[d] - larger, larger);
        }
        math::exp(isa, &mut old);
        math::exp(isa, &mut new);
        for d in 0..width {
            sum[d] = sum[d] * old[d] + new[d];
            weighted[d] = weighted[d] * old[d] + new[d] * kv[d];
        }
        if position % ratio == ratio - 1 {
            closed.push((position / ratio, weighted.iter().zip(sum.iter()).map(|(w, s)| w / s).collect()));
            frontier.reset();
        }
    }
    closed
}
