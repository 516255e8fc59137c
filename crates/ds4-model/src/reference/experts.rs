//! Mixture of experts: routing by score or by token id, clamped SwiGLU, shared expert.

use super::ReferenceBackend;
use super::math::{sigmoid, softplus, top_k};
use crate::model::Routing;
use crate::{Buffer, Rows};

impl ReferenceBackend {
    /// Chooses the experts of each row and weighs them by `sqrt(softplus(router score))`.
    pub(super) fn choose_experts(&mut self, layer: usize, rows: &Rows) {
        let config = self.model.config();
        let tensors = &self.model.layers[layer];
        let scores: Vec<f32> =
            self.apply(&tensors.router, 0, self.get(Buffer::Input)).iter().map(|&l| softplus(l).sqrt()).collect();
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (scores, &token) in scores.chunks_exact(config.n_expert).zip(rows.tokens()) {
            let chosen: Vec<u32> = match &tensors.routing {
                Routing::ByToken(table) => self.model.experts_of_token(table, token),
                // The bias takes part in the choice only, not in the weights.
                Routing::ByScore(bias) => {
                    let biased: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
                    top_k(&biased, config.n_expert_used)
                }
            };
            let sum: f32 = chosen.iter().map(|&e| scores[e as usize]).sum();
            let scale = config.expert_weights_scale / sum.max(1e-20);
            weights.extend(chosen.iter().map(|&e| scores[e as usize] * scale));
            ids.extend(chosen.iter().map(|&e| e as f32));
        }
        self.set(Buffer::ExpertIds, ids);
        self.set(Buffer::ExpertWeights, weights);
    }

    /// Runs each row's experts and the shared expert, and sums.
    pub(super) fn run_experts(&mut self, layer: usize) {
        let config = self.model.config();
        let tensors = &self.model.layers[layer];
        let (used, limit) = (config.n_expert_used, config.swiglu_limit[layer]);
        let (ids, weights) = (self.get(Buffer::ExpertIds), self.get(Buffer::ExpertWeights));
        let mut output = Vec::new();
        for (row, x) in self.get(Buffer::Input).chunks_exact(config.n_embd).enumerate() {
            let mut y = vec![0.0; config.n_embd];
            for slot in row * used..(row + 1) * used {
                let expert = ids[slot] as usize;
                let gate = self.apply(&tensors.gate_exps, expert, x);
                let up = self.apply(&tensors.up_exps, expert, x);
                let mid: Vec<f32> = swiglu(&gate, &up, limit).map(|m| m * weights[slot]).collect();
                add(&mut y, &self.apply(&tensors.down_exps, expert, &mid));
            }
            let gate = self.apply(&tensors.gate_shexp, 0, x);
            let up = self.apply(&tensors.up_shexp, 0, x);
            let mid: Vec<f32> = swiglu(&gate, &up, limit).collect();
            add(&mut y, &self.apply(&tensors.down_shexp, 0, &mid));
            output.extend(y);
        }
        self.set(Buffer::Output, output);
    }
}

/// `silu(min(gate, limit)) * clamp(up, ±limit)`.
fn swiglu(gate: &[f32], up: &[f32], limit: f32) -> impl Iterator<Item = f32> {
    gate.iter().zip(up).map(move |(&g, &u)| {
        let g = g.min(limit);
        g * sigmoid(g) * u.clamp(-limit, limit)
    })
}

fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}
