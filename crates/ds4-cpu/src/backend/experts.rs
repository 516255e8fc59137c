//! Mixture of experts: routing, routed experts over the rows that chose them, shared expert.

use ds4_model::{Routing, Rows};

use super::CpuBackend;
use super::linear::{self, Operand, Product, matrix, uses_int8};
use crate::kernels::{self, SharedOut, math};

impl CpuBackend {
    pub(super) fn choose_experts(&mut self, layer: usize, rows: &Rows) {
        let model = &*self.model;
        let config = model.config();
        let tensors = &model.layers[layer];
        let work = &mut self.work;
        let int8 = uses_int8(self.numerics.compute, &tensors.router);
        if int8 {
            work.quantized.quantize_in(&self.pool, self.isa, &work.input, config.n_embd);
        }
        let x = Operand { float: &work.input, int8: int8.then_some(&work.quantized) };
        linear::run_all(&self.pool, self.isa, model, x, vec![(&tensors.router, &mut work.scores)]);
        math::softplus(self.isa, &mut work.scores);
        work.scores.iter_mut().for_each(|s| *s = s.sqrt());
        let used = config.n_expert_used;
        let chosen = work.expert_ids.chunks_exact_mut(used).zip(work.expert_weights.chunks_exact_mut(used));
        for (((ids, weights), scores), &token) in
            chosen.zip(work.scores.chunks_exact(config.n_expert)).zip(rows.tokens())
        {
            match &tensors.routing {
                Routing::ByToken(table) => ids.copy_from_slice(&model.experts_of_token(table, token)),
                Routing::ByScore(bias) => best(scores, bias, ids),
            }
            let sum: f32 = ids.iter().map(|&e| scores[e as usize]).sum();
            let scale = config.expert_weights_scale / sum.max(1e-20);
            for (weight, &e) in weights.iter_mut().zip(ids.iter()) {
                *weight = scores[e as usize] * scale;
            }
        }
    }

    pub(super) fn run_experts(&mut self, layer: usize) {
        let model = &*self.model;
        let config = model.config();
        let tensors = &model.layers[layer];
        let (isa, compute, used) = (self.isa, self.numerics.compute, config.n_expert_used);
        let (n_embd, n_ff, limit) = (config.n_embd, config.n_ff, config.swiglu_limit[layer]);
        let work = &mut self.work;
        let n = work.rows;
        let slots = used + 1;

        // Row r has slots r * slots..: its chosen experts in order, then the shared expert.
        let mut groups: Vec<Group> = (0..=config.n_expert).map(|_| Group::default()).collect();
        for (choice, &expert) in work.expert_ids.iter().enumerate() {
            groups[expert as usize].push(choice / used, choice / used * slots + choice % used);
        }
        let shared = config.n_expert;
        (0..n).for_each(|row| groups[shared].push(row, row * slots + used));
        // The shared expert, which has every row, goes first: small pieces of work at the end let all threads end together.
        let active: Vec<(usize, &Group)> =
            groups.iter().enumerate().rev().filter(|(_, group)| !group.rows.is_empty()).collect();
        let pick = |expert: usize, routed, shared_tensor| {
            if expert == shared { matrix(model, shared_tensor, 0) } else { matrix(model, routed, expert) }
        };

        let inputs = [&tensors.gate_exps, &tensors.up_exps, &tensors.gate_shexp, &tensors.up_shexp];
        let int8 = inputs.iter().any(|tensor| uses_int8(compute, tensor));
        if int8 {
            work.quantized.quantize_in(&self.pool, isa, &work.input, n_embd);
        }
        let x = Operand { float: &work.input, int8: int8.then_some(&work.quantized) };
        {
            let (gate, up) = (SharedOut::new(&mut work.gate, n_ff), SharedOut::new(&mut work.up, n_ff));
            let products: Vec<Product> = active
                .iter()
                .flat_map(|&(expert, group)| {
                    let rows = kernels::Rows::Map { input: &group.rows, output: &group.slots };
                    [
                        (pick(expert, &tensors.gate_exps, &tensors.gate_shexp), &gate),
                        (pick(expert, &tensors.up_exps, &tensors.up_shexp), &up),
                    ]
                    .map(|(weight, y)| Product { weight, x, rows, y, column: 0 })
                })
                .collect();
            linear::run(&self.pool, isa, &products);
        }

        {
            let (gate, up, weights) = (&work.gate, &work.up, &work.expert_weights);
            let mid = SharedOut::new(&mut work.mid, n_ff);
            let activate = |slot: usize| {
                let (row, choice) = (slot / slots, slot % slots);
                let weight = if choice == used { 1.0 } else { weights[row * used + choice] };
                // SAFETY: each slot is touched once, in one task.
                let mut mid = unsafe { mid.columns(0..n_ff) };
                let (gate, up) = (&gate[slot * n_ff..][..n_ff], &up[slot * n_ff..][..n_ff]);
                math::swiglu(isa, gate, up, limit, weight, mid.row_mut(slot));
            };
            match n {
                1 => self.pool.run(slots, activate),
                _ => linear::for_rows(&self.pool, n, |row| (row * slots..(row + 1) * slots).for_each(&activate)),
            }
        }

        let int8 = [&tensors.down_exps, &tensors.down_shexp].iter().any(|tensor| uses_int8(compute, tensor));
        if int8 {
            work.quantized.quantize_in(&self.pool, isa, &work.mid, n_ff);
        }
        let x = Operand { float: &work.mid, int8: int8.then_some(&work.quantized) };
        {
            let down = SharedOut::new(&mut work.down, n_embd);
            let products: Vec<Product> = active
                .iter()
                .map(|&(expert, group)| Product {
                    weight: pick(expert, &tensors.down_exps, &tensors.down_shexp),
                    x,
                    rows: kernels::Rows::Map { input: &group.slots, output: &group.slots },
                    y: &down,
                    column: 0,
                })
                .collect();
            linear::run(&self.pool, isa, &products);
        }

        let down = &work.down;
        let output = SharedOut::new(&mut work.output, n_embd);
        linear::for_rows(&self.pool, n, |row| {
            // SAFETY: each row is touched once, in one task.
            let mut output = unsafe { output.columns(0..n_embd) };
            let output = output.row_mut(row);
            let mut parts = down[row * slots * n_embd..][..slots * n_embd].chunks_exact(n_embd);
            output.copy_from_slice(parts.next().unwrap_or_default());
            parts.for_each(|part| math::add(isa, part, output));
        });
    }
}

/// The rows that chose one expert, and the slot of each.
#[derive(Default)]
struct Group {
    rows: Vec<u32>,
    slots: Vec<u32>,
}

impl Group {
    fn push(&mut self, row: usize, slot: usize) {
        self.rows.push(row as u32);
        self.slots.push(slot as u32);
    }
}

/// The experts of largest score plus bias, in descending order, the lower number first among equals.
fn best(scores: &[f32], bias: &[f32], ids: &mut [u32]) {
    let key = |e: u32| scores[e as usize] + bias[e as usize] + 0.0;
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let descending = |a: &u32, b: &u32| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    if ids.len() < order.len() {
        order.select_nth_unstable_by(ids.len(), descending);
        order.truncate(ids.len());
    }
    order.sort_unstable_by(descending);
    ids.copy_from_slice(&order);
}
