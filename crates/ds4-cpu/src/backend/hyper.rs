//! Hyper-connections and the output head.

use ds4_model::{Config, Rows, Sublayer};

use super::CpuBackend;
use super::linear::{self, Operand, Product, matrix, uses_int8};
use crate::kernels::{self, SharedOut, math};

impl CpuBackend {
    pub(super) fn mix_streams(&mut self, layer: usize, sublayer: Sublayer) {
        let model = &*self.model;
        let config = model.config();
        let tensors = &model.layers[layer];
        let (connection, norm) = match sublayer {
            Sublayer::Attention => (&tensors.hc_attn, &tensors.attn_norm),
            Sublayer::Experts => (&tensors.hc_ffn, &tensors.ffn_norm),
        };
        let work = &mut self.work;
        let outputs = connection.project.rows;
        // The projection runs on the streams as they are; their norm is a factor on its result.
        let x = Operand { float: &work.streams, int8: None };
        linear::run_all(&self.pool, self.isa, model, x, vec![(&connection.project, &mut work.mixes)]);

        let (hc, n_embd, isa) = (config.hc, config.n_embd, self.isa);
        let input = SharedOut::new(&mut work.input, n_embd);
        let post = SharedOut::new(&mut work.post, hc);
        let comb = SharedOut::new(&mut work.comb, hc * hc);
        let (streams, mixes) = (&work.streams, &work.mixes);
        linear::for_rows(&self.pool, work.rows, |row| {
            // SAFETY: each row is touched once, in one task.
            let (mut input, mut post, mut comb) =
                unsafe { (input.columns(0..n_embd), post.columns(0..hc), comb.columns(0..hc * hc)) };
            let (input, post, comb) = (input.row_mut(row), post.row_mut(row), comb.row_mut(row));
            let streams = &streams[row * hc * n_embd..][..hc * n_embd];
            let factor = math::rms_factor(isa, streams, config.eps);
            let value = |i: usize, scale: usize| {
                mixes[row * outputs + i] * factor * connection.scale[scale] + connection.base[i]
            };
            let mut give = [0.0; 16];
            let give = &mut give[..hc];
            give.iter_mut().enumerate().for_each(|(i, a)| *a = value(i, 0));
            math::sigmoid(isa, give);
            give.iter_mut().for_each(|a| *a += config.hc_eps);
            post.iter_mut().enumerate().for_each(|(i, b)| *b = value(hc + i, 1));
            math::sigmoid(isa, post);
            post.iter_mut().for_each(|b| *b *= 2.0);
            comb.iter_mut().enumerate().for_each(|(i, c)| *c = value(2 * hc + i, 2));
            sinkhorn(isa, comb, config);
            collapse(isa, streams, give, input);
            math::rms_norm(isa, input, Some(norm), config.eps);
        });
    }

    pub(super) fn merge_streams(&mut self) {
        let (hc, n_embd, isa) = (self.config().hc, self.config().n_embd, self.isa);
        let work = &mut self.work;
        let (post, comb, output) = (&work.post, &work.comb, &work.output);
        let streams = SharedOut::new(&mut work.streams, hc * n_embd);
        linear::for_rows(&self.pool, work.rows, |row| {
            // SAFETY: each row is touched once, in one task.
            let mut streams = unsafe { streams.columns(0..hc * n_embd) };
            let (post, comb) = (&post[row * hc..][..hc], &comb[row * hc * hc..][..hc * hc]);
            math::merge_streams(isa, &output[row * n_embd..][..n_embd], post, comb, streams.row_mut(row));
        });
    }

    pub(super) fn output_head(&mut self, rows: &Rows) {
        let model = &*self.model;
        let config = model.config();
        let (hc, n_embd, isa) = (config.hc, config.n_embd, self.isa);
        let work = &mut self.work;
        let wanted = rows.wanted();
        let map: Vec<u32> = wanted.iter().map(|&row| row as u32).collect();
        let slots: Vec<u32> = (0..map.len() as u32).collect();
        linear::run(
            &self.pool,
            isa,
            &[Product {
                weight: matrix(model, &model.output_hc.project, 0),
                x: Operand { float: &work.streams, int8: None },
                rows: kernels::Rows::Map { input: &map, output: &slots },
                y: &SharedOut::new(&mut work.mixes, hc),
                column: 0,
            }],
        );
        let head = SharedOut::new(&mut work.head, n_embd);
        let (streams, mixes, parameters) = (&work.streams, &work.mixes, &model.output_hc);
        self.pool.run(wanted.len(), |slot| {
            // SAFETY: task `slot` touches row `slot` only.
            let mut head = unsafe { head.columns(0..n_embd) };
            let streams = &streams[wanted[slot] * hc * n_embd..][..hc * n_embd];
            let factor = math::rms_factor(isa, streams, config.eps);
            let mut give: Vec<f32> =
                (0..hc).map(|i| mixes[slot * hc + i] * factor * parameters.scale[0] + parameters.base[i]).collect();
            math::sigmoid(isa, &mut give);
            give.iter_mut().for_each(|a| *a += config.hc_eps);
            let head = head.row_mut(slot);
            collapse(isa, streams, &give, head);
            math::rms_norm(isa, head, Some(&model.output_norm), config.eps);
        });
        let int8 = uses_int8(self.numerics.compute, &model.output);
        if int8 {
            work.quantized.quantize_in(&self.pool, isa, &work.head, n_embd);
        }
        let x = Operand { float: &work.head, int8: int8.then_some(&work.quantized) };
        linear::run_all(&self.pool, isa, model, x, vec![(&model.output, &mut work.logits)]);
    }
}

/// `out = sum_i give_i S_i`, streams in order.
fn collapse(isa: kernels::Isa, streams: &[f32], give: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (stream, &a) in streams.chunks_exact(out.len()).zip(give) {
        math::axpy(isa, a, stream, out);
    }
}

/// Makes `c` [hc, hc] nearly doubly stochastic: row softmax, then alternating normalizations that end on columns.
fn sinkhorn(isa: kernels::Isa, c: &mut [f32], config: &Config) {
    let (n, eps) = (config.hc, config.hc_eps);
    for row in c.chunks_exact_mut(n) {
        let max = math::max(isa, row);
        let sum = math::exp_sum(isa, row, max);
        row.iter_mut().for_each(|v| *v = *v / sum + eps);
    }
    let normalize_columns = |c: &mut [f32]| {
        for k in 0..n {
            let sum: f32 = (0..n).map(|j| c[j * n + k]).sum();
            (0..n).for_each(|j| c[j * n + k] /= sum + eps);
        }
    };
    normalize_columns(c);
    for _ in 1..config.sinkhorn_iterations {
        for row in c.chunks_exact_mut(n) {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum + eps);
        }
        normalize_columns(c);
    }
}
