//! The matrices of the attention sublayer: inputs, queries, grouped output.

use ds4_model::KvPrecision;
use ds4_model::rope::rotate;
use ds4_model::rounding::round_index_row;

use super::CpuBackend;
use super::linear::{self, Operand, Product, matrix_rows, uses_int8};
use crate::kernels::{Rows, SharedOut, math};

/// Heads that one task normalizes and rotates.
const HEADS: usize = 8;

impl CpuBackend {
    pub(super) fn project_input(&mut self, layer: usize) {
        let model = &*self.model;
        let config = model.config();
        let tensors = &model.layers[layer];
        let work = &mut self.work;
        let mut targets = vec![(&tensors.q_a, &mut work.query_latent), (&tensors.kv, &mut work.kv)];
        if let Some(compressor) = &tensors.compressor {
            targets.push((&compressor.kv, &mut work.compressor_kv));
            targets.push((&compressor.gate, &mut work.compressor_gate));
        }
        if let Some(indexer) = &tensors.indexer {
            targets.push((&indexer.compressor.kv, &mut work.indexer_kv));
            targets.push((&indexer.compressor.gate, &mut work.indexer_gate));
            targets.push((&indexer.weights, &mut work.indexer_weights));
        }
        let int8 = targets.iter().any(|(tensor, _)| uses_int8(self.numerics.compute, tensor));
        if int8 {
            work.quantized.quantize_in(&self.pool, self.isa, &work.input, config.n_embd);
        }
        let x = Operand { float: &work.input, int8: int8.then_some(&work.quantized) };
        let sized = targets.into_iter().map(|(tensor, y)| {
            y.resize(work.rows * tensor.rows, 0.0);
            (tensor, y.as_mut_slice())
        });
        linear::run_all(&self.pool, self.isa, model, x, sized.collect());
        if tensors.indexer.is_some() {
            let scale = ((config.idx_heads * config.idx_dim) as f32).sqrt().recip();
            math::scale(self.isa, scale, &mut work.indexer_weights);
        }
    }

    pub(super) fn make_queries(&mut self, layer: usize, rows: &ds4_model::Rows) {
        let model = &*self.model;
        let config = model.config();
        let tensors = &model.layers[layer];
        let isa = self.isa;
        let work = &mut self.work;
        {
            let latent = SharedOut::new(&mut work.query_latent, config.q_rank);
            linear::for_rows(&self.pool, work.rows, |row| {
                // SAFETY: each row is touched once, in one task.
                let mut latent = unsafe { latent.columns(0..config.q_rank) };
                math::rms_norm(isa, latent.row_mut(row), Some(&tensors.q_a_norm), config.eps);
            });
        }
        let mut targets = vec![(&tensors.q_b, work.query.as_mut_slice())];
        // While every visible row is attended, nobody asks the indexer.
        let ratio = config.ratios[layer];
        let chooses = |&position: &usize| (position + 1) / ratio > config.idx_topk;
        let indexer = tensors.indexer.as_ref().filter(|_| rows.positions().iter().any(chooses));
        if let Some(indexer) = indexer {
            targets.push((&indexer.q_b, &mut work.indexer_query));
        }
        let int8 = targets.iter().any(|(tensor, _)| uses_int8(self.numerics.compute, tensor));
        if int8 {
            work.quantized.quantize_in(&self.pool, isa, &work.query_latent, config.q_rank);
        }
        let x = Operand { float: &work.query_latent, int8: int8.then_some(&work.quantized) };
        linear::run_all(&self.pool, isa, model, x, targets);

        let pairs = config.rope_dim / 2;
        let angles = &work.angles[usize::from(config.ratios[layer] != 0)];
        let rounds = self.numerics.kv == KvPrecision::Model;
        let mut kinds = vec![(&mut work.query, config.n_head, config.head_dim, true)];
        if indexer.is_some() {
            kinds.push((&mut work.indexer_query, config.idx_heads, config.idx_dim, false));
        }
        for (query, n_head, dim, attention) in kinds {
            let heads = SharedOut::new(query, dim);
            let pieces = n_head.div_ceil(HEADS);
            self.pool.run(work.rows * pieces, |task| {
                let (row, first) = (task / pieces, task % pieces * HEADS);
                // SAFETY: task (row, piece) touches its own heads only.
                let mut heads = unsafe { heads.columns(0..dim) };
                let angles = &angles[row * pairs..][..pairs];
                for h in first..(first + HEADS).min(n_head) {
                    let head = heads.row_mut(row * n_head + h);
                    if attention {
                        math::rms_norm(isa, head, None, config.eps);
                    }
                    rotate(head, angles);
                    if !attention && rounds {
                        round_index_row(head);
                    }
                }
            });
        }
    }

    pub(super) fn project_output(&mut self, layer: usize) {
        let model = &*self.model;
        let config = model.config();
        let tensors = &model.layers[layer];
        let (isa, groups, rank) = (self.isa, config.o_groups, config.o_rank);
        let width = config.n_head * config.head_dim / groups;
        let work = &mut self.work;
        let int8 = uses_int8(self.numerics.compute, &tensors.out_a);
        if int8 {
            work.quantized.quantize_in(&self.pool, isa, &work.attended, width);
        }
        let x = Operand { float: &work.attended, int8: int8.then_some(&work.quantized) };
        // Seen as rows of one group each, row r of the batch has its group g at r * groups + g.
        let output: Vec<u32> = (0..work.rows as u32).collect();
        let inputs: Vec<Vec<u32>> =
            (0..groups as u32).map(|g| output.iter().map(|row| row * groups as u32 + g).collect()).collect();
        let low = SharedOut::new(&mut work.low, groups * rank);
        let products: Vec<_> = inputs
            .iter()
            .enumerate()
            .map(|(g, input)| Product {
                weight: matrix_rows(model, &tensors.out_a, g * rank..(g + 1) * rank),
                x,
                rows: Rows::Map { input, output: &output },
                y: &low,
                column: g * rank,
            })
            .collect();
        linear::run(&self.pool, isa, &products);
        drop(products);

        let int8 = uses_int8(self.numerics.compute, &tensors.out_b);
        if int8 {
            work.quantized.quantize_in(&self.pool, isa, &work.low, groups * rank);
        }
        let x = Operand { float: &work.low, int8: int8.then_some(&work.quantized) };
        linear::run_all(&self.pool, isa, model, x, vec![(&tensors.out_b, &mut work.output)]);
    }
}
