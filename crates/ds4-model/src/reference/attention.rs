//! Attention over a sliding window and compressed rows: projections, compressors, indexer, softmax.

use super::ReferenceBackend;
use super::math::{dot, rms, rms_weighted, top_k};
use crate::numerics::KvPrecision;
use crate::rope::{rotate, rotate_back};
use crate::rounding::round_index_row;
use crate::state::{Compressor, Frontier};
use crate::{Buffer, Rows, Sequence};

impl ReferenceBackend {
    /// Everything that is a matrix times the attention input.
    pub(super) fn project_attention_input(&mut self, layer: usize) {
        let tensors = &self.model.layers[layer];
        let x = self.get(Buffer::Input);
        let mut made =
            vec![(Buffer::QueryLatent, self.apply(&tensors.q_a, 0, x)), (Buffer::Kv, self.apply(&tensors.kv, 0, x))];
        if let Some(compressor) = &tensors.compressor {
            made.push((Buffer::CompressorKv, self.apply(&compressor.kv, 0, x)));
            made.push((Buffer::CompressorGate, self.apply(&compressor.gate, 0, x)));
        }
        if let Some(indexer) = &tensors.indexer {
            made.push((Buffer::IndexerKv, self.apply(&indexer.compressor.kv, 0, x)));
            made.push((Buffer::IndexerGate, self.apply(&indexer.compressor.gate, 0, x)));
            let scale = ((self.config().idx_heads * self.config().idx_dim) as f32).powf(-0.5);
            let weights = self.apply(&indexer.weights, 0, x).iter().map(|v| v * scale).collect();
            made.push((Buffer::IndexerWeights, weights));
        }
        for (buffer, values) in made {
            self.set(buffer, values);
        }
    }

    /// Query latent and queries. Heads get a norm without weight before the rotation; indexer heads get none.
    pub(super) fn make_queries(&mut self, layer: usize, rows: &Rows) {
        let config = self.model.config();
        let tensors = &self.model.layers[layer];
        let mut latent = self.get(Buffer::QueryLatent).to_vec();
        for r in latent.chunks_exact_mut(config.q_rank) {
            rms_weighted(r, &tensors.q_a_norm, config.eps);
        }
        let mut query = self.apply(&tensors.q_b, 0, &latent);
        let mut angles = vec![(0.0, 0.0); config.rope_dim / 2];
        for (heads, &position) in query.chunks_exact_mut(config.n_head * config.head_dim).zip(rows.positions()) {
            self.frequencies(layer).angles(position, &mut angles);
            for head in heads.chunks_exact_mut(config.head_dim) {
                rms(head, config.eps);
                rotate(head, &angles);
            }
        }
        if let Some(indexer) = &tensors.indexer {
            let mut query = self.apply(&indexer.q_b, 0, &latent);
            for (heads, &position) in query.chunks_exact_mut(config.idx_heads * config.idx_dim).zip(rows.positions()) {
                self.frequencies(layer).angles(position, &mut angles);
                for head in heads.chunks_exact_mut(config.idx_dim) {
                    rotate(head, &angles);
                    if self.kv == KvPrecision::Model {
                        round_index_row(head);
                    }
                }
            }
            self.set(Buffer::IndexerQuery, query);
        }
        self.set(Buffer::QueryLatent, latent);
        self.set(Buffer::Query, query);
    }

    /// The raw row of each token, rounded as it will be cached; and the compressors, token by token.
    pub(super) fn append_rows(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        let config = self.model.config();
        let tensors = &self.model.layers[layer];
        let frequencies = self.frequencies(layer);
        let format = self.layout.kv_row;
        let mut angles = vec![(0.0, 0.0); config.rope_dim / 2];
        let mut stored = vec![0; format.bytes()];
        let mut kv = self.get(Buffer::Kv).to_vec();
        for (row, &position) in kv.chunks_exact_mut(config.head_dim).zip(rows.positions()) {
            rms_weighted(row, &tensors.kv_norm, config.eps);
            frequencies.angles(position, &mut angles);
            rotate(row, &angles);
            format.encode(row, &mut stored);
            format.decode(&stored, row);
        }

        let ratio = config.ratios[layer];
        for span in rows.spans() {
            let sequence = &mut sequences[span.sequence];
            for (row, position) in span.rows() {
                let window = position / ratio.max(1);
                frequencies.angles(window * ratio, &mut angles);
                if let Some(compressor) = &tensors.compressor {
                    let frontier = sequence.frontier_mut(layer, Compressor::Attention);
                    let features = (self.get(Buffer::CompressorKv), self.get(Buffer::CompressorGate));
                    if let Some(mut pooled) = push(frontier, ratio, position, row, features, &compressor.ape) {
                        rms_weighted(&mut pooled, &compressor.norm, config.eps);
                        rotate(&mut pooled, &angles);
                        format.encode(&pooled, sequence.compressed_row_mut(layer, window));
                    }
                }
                if let Some(indexer) = &tensors.indexer {
                    let frontier = sequence.frontier_mut(layer, Compressor::Indexer);
                    let features = (self.get(Buffer::IndexerKv), self.get(Buffer::IndexerGate));
                    if let Some(mut pooled) = push(frontier, ratio, position, row, features, &indexer.compressor.ape) {
                        rms_weighted(&mut pooled, &indexer.compressor.norm, config.eps);
                        rotate(&mut pooled, &angles);
                        self.layout.index_row.encode(&mut pooled, sequence.index_row_mut(layer, window));
                    }
                }
            }
        }
        self.set(Buffer::Kv, kv);
    }

    /// The indexer's choice, for rows that see more compressed rows than it keeps.
    pub(super) fn select_rows(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        self.selection = vec![None; rows.len()];
        let config = self.model.config();
        if self.model.layers[layer].indexer.is_none() {
            return;
        }
        let (heads, dim) = (config.idx_heads, config.idx_dim);
        let mut key = vec![0.0; dim];
        for span in rows.spans() {
            for (row, position) in span.rows() {
                let visible = (position + 1) / config.ratios[layer];
                if visible <= config.idx_topk {
                    continue;
                }
                let query = &self.get(Buffer::IndexerQuery)[row * heads * dim..][..heads * dim];
                let weights = &self.get(Buffer::IndexerWeights)[row * heads..][..heads];
                let scores: Vec<f32> = (0..visible)
                    .map(|k| {
                        self.layout.index_row.decode(sequences[span.sequence].index_row(layer, k), &mut key);
                        let head = |h: usize| weights[h] * dot(&query[h * dim..][..dim], &key).max(0.0);
                        (0..heads).map(head).sum()
                    })
                    .collect();
                let mut chosen = top_k(&scores, config.idx_topk);
                chosen.sort_unstable();
                self.selection[row] = Some(chosen);
            }
        }
    }

    /// Attention of each token over its window and compressed rows, with the sink; then the batch's rows enter the ring.
    pub(super) fn attend_rows(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        let config = self.model.config();
        let (heads, dim, ratio) = (config.n_head, config.head_dim, config.ratios[layer]);
        let sinks = &self.model.layers[layer].sinks;
        let (format, kv, query) = (self.layout.kv_row, self.get(Buffer::Kv), self.get(Buffer::Query));
        let scale = (dim as f32).powf(-0.5);
        let mut angles = vec![(0.0, 0.0); config.rope_dim / 2];
        let mut attended = Vec::with_capacity(query.len());
        for span in rows.spans() {
            let sequence = &*sequences[span.sequence];
            for (row, position) in span.rows() {
                let mut keys: Vec<Vec<f32>> = Vec::new();
                for p in (position + 1).saturating_sub(config.window)..=position {
                    if p >= span.first_position {
                        let row = span.first_row + (p - span.first_position);
                        keys.push(kv[row * dim..][..dim].to_vec());
                    } else {
                        keys.push(decoded(sequence.window_row(layer, p), dim, |b, k| format.decode(b, k)));
                    }
                }
                let visible = (position + 1).checked_div(ratio).unwrap_or(0) as u32;
                let chosen = self.selection[row].clone().unwrap_or_else(|| (0..visible).collect());
                for k in chosen {
                    let bytes = sequence.compressed_row(layer, k as usize);
                    keys.push(decoded(bytes, dim, |b, k| format.decode(b, k)));
                }

                self.frequencies(layer).angles(position, &mut angles);
                for h in 0..heads {
                    let q = &query[(row * heads + h) * dim..][..dim];
                    let scores: Vec<f32> = keys.iter().map(|k| dot(q, k) * scale).collect();
                    let max = scores.iter().copied().fold(sinks[h], f32::max);
                    let weights: Vec<f64> = scores.iter().map(|s| f64::from(s - max).exp()).collect();
                    let total = f64::from(sinks[h] - max).exp() + weights.iter().sum::<f64>();
                    let mut out: Vec<f32> = (0..dim)
                        .map(|d| {
                            let sum: f64 = weights.iter().zip(&keys).map(|(w, k)| w * f64::from(k[d])).sum();
                            (sum / total) as f32
                        })
                        .collect();
                    rotate_back(&mut out, &angles);
                    attended.extend(out);
                }
            }
        }
        for span in rows.spans() {
            for (row, position) in span.rows() {
                let slot = sequences[span.sequence].window_row_mut(layer, position);
                format.encode(&kv[row * dim..][..dim], slot);
            }
        }
        self.set(Buffer::Attended, attended);
    }

    /// Grouped output: each group of heads through its own rows of `out_a`, all results through `out_b`.
    pub(super) fn project_attention_output(&mut self, layer: usize) {
        let config = self.model.config();
        let tensors = &self.model.layers[layer];
        let width = config.n_head * config.head_dim / config.o_groups;
        let attended = self.get(Buffer::Attended);
        let n = attended.len() / (config.n_head * config.head_dim);
        let mut low = vec![0.0; n * config.o_groups * config.o_rank];
        for (o, w) in self.decoded(&tensors.out_a, 0).chunks_exact(width).enumerate() {
            let group = o / config.o_rank;
            for row in 0..n {
                let x = &attended[(row * config.o_groups + group) * width..][..width];
                low[row * config.o_groups * config.o_rank + o] = dot(w, x);
            }
        }
        let output = self.apply(&tensors.out_b, 0, &low);
        self.set(Buffer::Output, output);
    }
}

fn decoded(bytes: &[u8], dim: usize, decode: impl Fn(&[u8], &mut [f32])) -> Vec<f32> {
    let mut row = vec![0.0; dim];
    decode(bytes, &mut row);
    row
}

/// Feeds row `row` of the features (values, gates) into a compressor at `position`; the pooled row if that closes
/// a window. `ape`: position bias [ratio, width of the features].
fn push(
    frontier: &mut [f32],
    ratio: usize,
    position: usize,
    row: usize,
    (kv, gate): (&[f32], &[f32]),
    ape: &[f32],
) -> Option<Vec<f32>> {
    let width = ape.len() / ratio;
    let slot = position % ratio;
    let k = &kv[row * width..][..width];
    let g: Vec<f32> = gate[row * width..][..width].iter().zip(&ape[slot * width..]).map(|(g, a)| g + a).collect();
    let closes = slot == ratio - 1;
    let mut memory = Frontier::of(frontier, ratio);
    match &mut memory {
        Frontier::Overlapping { kv, gate, previous_kv, previous_gate } => {
            kv[slot * width..][..width].copy_from_slice(k);
            gate[slot * width..][..width].copy_from_slice(&g);
            if !closes {
                return None;
            }
            let dim = width / 2;
            let pooled = (0..dim)
                .map(|d| {
                    let previous = (0..ratio).map(|s| (previous_gate[s * dim + d], previous_kv[s * dim + d]));
                    let current = (0..ratio).map(|s| (gate[s * width + dim + d], kv[s * width + dim + d]));
                    softmax_pool(previous.chain(current))
                })
                .collect();
            for s in 0..ratio {
                previous_kv[s * dim..][..dim].copy_from_slice(&kv[s * width..][..dim]);
                previous_gate[s * dim..][..dim].copy_from_slice(&gate[s * width..][..dim]);
            }
            kv.fill(0.0);
            gate.fill(f32::NEG_INFINITY);
            Some(pooled)
        }
        Frontier::Running { max, sum, weighted } => {
            for d in 0..width {
                let new_max = max[d].max(g[d]);
                let (old, new) = ((max[d] - new_max).exp(), (g[d] - new_max).exp());
                max[d] = new_max;
                sum[d] = sum[d] * old + new;
                weighted[d] = weighted[d] * old + new * k[d];
            }
            if !closes {
                return None;
            }
            let pooled = weighted.iter().zip(sum.iter()).map(|(w, s)| w / s).collect();
            memory.reset();
            Some(pooled)
        }
    }
}

/// Softmax of the gates, weighted sum of the values, for one channel.
fn softmax_pool(slots: impl Iterator<Item = (f32, f32)> + Clone) -> f32 {
    let max = slots.clone().fold(f32::NEG_INFINITY, |max, (gate, _)| max.max(gate));
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    for (gate, value) in slots {
        let weight = f64::from(gate - max).exp();
        sum += weight;
        weighted += weight * f64::from(value);
    }
    (weighted / sum) as f32
}
