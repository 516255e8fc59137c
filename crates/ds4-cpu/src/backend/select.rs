//! The lightning indexer's choice of compressed rows.

use std::cell::RefCell;

use ds4_model::{Rows, Sequence};

use super::CpuBackend;
use super::cached::decode_index;
use crate::kernels::{self, Isa, Matrix, OutCols, SharedOut, math, matmul_f32};

/// Indexer rows that one task scores.
const BLOCK: usize = 512;

thread_local! {
    /// A block of decoded indexer rows and their scores per head.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = RefCell::default();
}

impl CpuBackend {
    pub(super) fn select_rows(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) {
        self.work.selection.fill(None);
        let config = self.model.config();
        if self.model.layers[layer].indexer.is_none() {
            return;
        }
        let ratio = config.ratios[layer];
        // (row, sequence, number of visible rows) of every row that has to choose.
        let choosing: Vec<(usize, usize, usize)> = rows
            .spans()
            .iter()
            .flat_map(|span| span.rows().map(|(row, position)| (row, span.sequence, (position + 1) / ratio)))
            .filter(|&(_, _, visible)| visible > config.idx_topk)
            .collect();
        let Some(most) = choosing.iter().map(|&(_, _, visible)| visible).max() else {
            return;
        };
        let sequences: Vec<&Sequence> = sequences.iter().map(|sequence| &**sequence).collect();
        // Scores of all choosing rows at once would be large for a long context: a few rows at a time.
        const SCORES: usize = 1 << 24;
        for part in choosing.chunks((SCORES / most).max(1)) {
            let mut scores = vec![0.0; part.len() * most];
            self.score_rows(layer, part, &sequences, most, &mut scores);
            let chosen: Vec<Vec<u32>> = {
                let slots: Vec<std::sync::Mutex<Vec<u32>>> = part.iter().map(|_| Default::default()).collect();
                self.pool.run(part.len(), |i| {
                    let chosen = largest(&scores[i * most..][..part[i].2], config.idx_topk);
                    *slots[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = chosen;
                });
                slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(|p| p.into_inner())).collect()
            };
            for (&(row, _, _), chosen) in part.iter().zip(chosen) {
                self.work.selection[row] = Some(chosen);
            }
        }
    }

    /// `scores` [part, most]: the indexer's score of each visible row.
    fn score_rows(
        &self,
        layer: usize,
        part: &[(usize, usize, usize)],
        sequences: &[&Sequence],
        most: usize,
        scores: &mut [f32],
    ) {
        let config = self.model.config();
        let (heads, dim, isa, format) = (config.idx_heads, config.idx_dim, self.isa, self.layout.index_row);
        let blocks = most.div_ceil(BLOCK);
        let scores = SharedOut::new(scores, most);
        self.pool.run(part.len() * blocks, |task| {
            let (i, first) = (task / blocks, task % blocks * BLOCK);
            let (row, sequence, visible) = part[i];
            let end = (first + BLOCK).min(visible);
            if first >= end {
                return;
            }
            let query = &self.work.indexer_query[row * heads * dim..][..heads * dim];
            let weights = &self.work.indexer_weights[row * heads..][..heads];
            SCRATCH.with_borrow_mut(|(keys, products)| {
                keys.resize((end - first) * dim, 0.0);
                for (key, k) in keys.chunks_exact_mut(dim).zip(first..end) {
                    decode_index(isa, format, sequences[sequence].index_row(layer, k), key);
                }
                products.resize(heads * (end - first), 0.0);
                per_head(isa, keys, query, dim, products);
                // SAFETY: task (row, block) writes these columns of its own row only.
                let mut scores = unsafe { scores.columns(first..end) };
                let scores = scores.row_mut(i);
                scores.fill(0.0);
                for (products, &weight) in products.chunks_exact_mut(end - first).zip(weights) {
                    products.iter_mut().for_each(|p| *p = p.max(0.0));
                    math::axpy(isa, weight, products, scores);
                }
            });
        });
    }
}

/// `out[head][key] = <query[head], keys[key]>`.
fn per_head(isa: Isa, keys: &[f32], query: &[f32], dim: usize, out: &mut [f32]) {
    let n = keys.len() / dim;
    let keys = Matrix::from_f32(keys, dim);
    matmul_f32(isa, &keys, 0..n, query, kernels::Rows::All, &mut OutCols::whole(out, n));
}

/// The indices of the `k` largest scores, ascending; the lower index first among equals.
pub(super) fn largest(scores: &[f32], k: usize) -> Vec<u32> {
    // Adding zero makes -0 and +0 equal under the total order, which also puts up with NaN.
    let key = |i: u32| scores[i as usize] + 0.0;
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k, |&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
        order.truncate(k);
        order.sort_unstable();
    }
    order
}
