//! Hyper-connections: four residual streams, mixed before and after each sublayer; and the output head.

use super::ReferenceBackend;
use super::math::{rms, rms_weighted, sigmoid};
use crate::{Buffer, Rows, Sublayer};

impl ReferenceBackend {
    /// Before a sublayer: how much each stream gives (`a`) and takes (`b`), how the streams mix (`C`), and the
    /// sublayer's normalized input.
    pub(super) fn mix_streams(&mut self, layer: usize, sublayer: Sublayer) {
        let config = self.model.config();
        let (hc, n_embd, eps) = (config.hc, config.n_embd, config.hc_eps);
        let tensors = &self.model.layers[layer];
        let (connection, norm) = match sublayer {
            Sublayer::Attention => (&tensors.hc_attn, &tensors.attn_norm),
            Sublayer::Experts => (&tensors.hc_ffn, &tensors.ffn_norm),
        };
        let (mut inputs, mut posts, mut combs) = (Vec::new(), Vec::new(), Vec::new());
        for streams in self.get(Buffer::Streams).chunks_exact(hc * n_embd) {
            let mut u = streams.to_vec();
            rms(&mut u, config.eps);
            let m = self.apply(&connection.project, 0, &u);
            let value = |i: usize, scale: usize| m[i] * connection.scale[scale] + connection.base[i];

            let a: Vec<f32> = (0..hc).map(|i| sigmoid(value(i, 0)) + eps).collect();
            posts.extend((0..hc).map(|i| 2.0 * sigmoid(value(hc + i, 1))));
            let mut c: Vec<f32> = (0..hc * hc).map(|i| value(2 * hc + i, 2)).collect();
            sinkhorn(&mut c, hc, config.sinkhorn_iterations, eps);
            combs.extend(c);

            let mut x: Vec<f32> = (0..n_embd).map(|d| (0..hc).map(|i| a[i] * streams[i * n_embd + d]).sum()).collect();
            rms_weighted(&mut x, norm, config.eps);
            inputs.extend(x);
        }
        self.set(Buffer::Input, inputs);
        self.set(Buffer::Post, posts);
        self.set(Buffer::Comb, combs);
    }

    /// After a sublayer: `S'_k = b_k y + sum_j C_jk S_j`. The sum runs over C's first index.
    pub(super) fn merge_streams(&mut self) {
        let (hc, n_embd) = (self.config().hc, self.config().n_embd);
        let (post, comb, output) = (self.get(Buffer::Post), self.get(Buffer::Comb), self.get(Buffer::Output));
        let mut merged = Vec::new();
        for (row, streams) in self.get(Buffer::Streams).chunks_exact(hc * n_embd).enumerate() {
            let (b, c) = (&post[row * hc..], &comb[row * hc * hc..]);
            let y = &output[row * n_embd..];
            for k in 0..hc {
                merged.extend((0..n_embd).map(|d| {
                    let mixed: f32 = (0..hc).map(|j| c[j * hc + k] * streams[j * n_embd + d]).sum();
                    b[k] * y[d] + mixed
                }));
            }
        }
        self.set(Buffer::Streams, merged);
    }

    /// The head: streams collapsed, normalized, multiplied with the output matrix.
    pub(super) fn output_head(&mut self, rows: &Rows) {
        let config = self.model.config();
        let (hc, n_embd) = (config.hc, config.n_embd);
        let head = &self.model.output_hc;
        let mut collapsed = Vec::new();
        for &row in rows.wanted() {
            let streams = &self.get(Buffer::Streams)[row * hc * n_embd..][..hc * n_embd];
            let mut u = streams.to_vec();
            rms(&mut u, config.eps);
            let m = self.apply(&head.project, 0, &u);
            let a: Vec<f32> = (0..hc).map(|i| sigmoid(m[i] * head.scale[0] + head.base[i]) + config.hc_eps).collect();
            let mut y: Vec<f32> = (0..n_embd).map(|d| (0..hc).map(|i| a[i] * streams[i * n_embd + d]).sum()).collect();
            rms_weighted(&mut y, &self.model.output_norm, config.eps);
            collapsed.extend(y);
        }
        let logits = self.apply(&self.model.output, 0, &collapsed);
        self.set(Buffer::Logits, logits);
    }
}

/// Makes `c` [n, n] nearly doubly stochastic: row softmax, then alternating normalizations that end on columns.
fn sinkhorn(c: &mut [f32], n: usize, iterations: usize, eps: f32) {
    for row in c.chunks_exact_mut(n) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v = *v / sum + eps);
    }
    let normalize_columns = |c: &mut [f32]| {
        for k in 0..n {
            let sum: f32 = (0..n).map(|j| c[j * n + k]).sum();
            (0..n).for_each(|j| c[j * n + k] /= sum + eps);
        }
    };
    normalize_columns(c);
    for _ in 1..iterations {
        for row in c.chunks_exact_mut(n) {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum + eps);
        }
        normalize_columns(c);
    }
}
