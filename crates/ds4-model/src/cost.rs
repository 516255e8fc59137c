//! What one decoded token has to read: the denominator of every honest speed figure.

use crate::model::{CompressorTensors, HyperConnection};
use crate::state::OVERLAPPING_RATIO;
use crate::{LayerTensors, Model, Routing, StateLayout, Tensor};

/// Bytes that decoding one token reads at a context length, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCost {
    /// Weights: everything but the experts that the token does not use.
    pub weights: u64,
    /// Rows of the KV cache.
    pub cache: u64,
}

impl ReadCost {
    /// The cost of the token that follows `context` others.
    pub fn of(model: &Model, layout: &StateLayout, context: usize) -> Self {
        Self { weights: weight_bytes(model, context), cache: cache_bytes(model, layout, context) }
    }

    /// Weights and cache.
    pub fn total(&self) -> u64 {
        self.weights + self.cache
    }
}

/// Whether the token after `context` others makes the indexer of a ratio-4 layer choose.
fn indexer_chooses(model: &Model, context: usize) -> bool {
    (context + 1) / OVERLAPPING_RATIO > model.config().idx_topk
}

fn weight_bytes(model: &Model, context: usize) -> u64 {
    let config = model.config();
    let all = |tensor: &Tensor| model.bytes(tensor).len() as u64;
    let one_row = |tensor: &Tensor| all(tensor) / tensor.rows as u64;
    let hyper = |h: &HyperConnection| all(&h.project) + vectors(&[&h.base, &h.scale]);
    let compressor = |c: &CompressorTensors| all(&c.kv) + all(&c.gate) + vectors(&[&c.ape, &c.norm]);
    let layer = |t: &LayerTensors| {
        let routed = all(&t.gate_exps) + all(&t.up_exps) + all(&t.down_exps);
        let routing = match &t.routing {
            Routing::ByToken(table) => one_row(table),
            Routing::ByScore(bias) => vectors(&[bias]),
        };
        let indexer = t.indexer.as_ref().map_or(0, |indexer| {
            let choosing = if indexer_chooses(model, context) { all(&indexer.q_b) } else { 0 };
            compressor(&indexer.compressor) + all(&indexer.weights) + choosing
        });
        [&t.q_a, &t.q_b, &t.kv, &t.out_a, &t.out_b, &t.router, &t.gate_shexp, &t.up_shexp, &t.down_shexp]
            .into_iter()
            .map(all)
            .sum::<u64>()
            + vectors(&[&t.attn_norm, &t.ffn_norm, &t.q_a_norm, &t.kv_norm, &t.sinks])
            + hyper(&t.hc_attn)
            + hyper(&t.hc_ffn)
            + t.compressor.as_ref().map_or(0, compressor)
            + indexer
            + routing
            + routed * config.n_expert_used as u64 / config.n_expert as u64
    };
    one_row(&model.token_embd)
        + all(&model.output)
        + vectors(&[&model.output_norm])
        + hyper(&model.output_hc)
        + model.layers.iter().map(layer).sum::<u64>()
}

/// Vectors are kept in float32.
fn vectors(list: &[&[f32]]) -> u64 {
    list.iter().map(|v| v.len() as u64 * 4).sum()
}

fn cache_bytes(model: &Model, layout: &StateLayout, context: usize) -> u64 {
    let config = model.config();
    let (kv, index) = (layout.kv_row.bytes() as u64, layout.index_row.bytes() as u64);
    let window = (context + 1).min(config.window) as u64;
    let layer = |&ratio: &usize| {
        let rows = (context + 1).checked_div(ratio).unwrap_or(0) as u64;
        if config.has_indexer(ratio) && indexer_chooses(model, context) {
            (window + config.idx_topk as u64) * kv + rows * index
        } else {
            (window + rows) * kv
        }
    };
    config.ratios.iter().map(layer).sum()
}
