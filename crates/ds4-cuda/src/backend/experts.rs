//! Mixture of experts.

use bytemuck::Zeroable;

use super::executor::Executor;
use super::is_int8;
use super::linear::{Linear, TILE_MEMORY};
use crate::device::DeviceError;
use crate::params;
use crate::tensors::DeviceLayer;
use crate::weights::{DeviceWeight, Storage};

/// Rows of the batch up to which weights are read once for eight columns of an expert.
const FEW: usize = 64;

/// The kernels by storage type of the routed experts.
const GATE_UP: [&str; 8] = [
    "",
    "",
    "",
    "expert_gate_up_q8_0",
    "expert_gate_up_q2_k",
    "expert_gate_up_q4_k",
    "expert_gate_up_iq2_xxs",
    "expert_gate_up_mxfp4",
];
const DOWN: [&str; 8] = [
    "",
    "",
    "",
    "expert_down_q8_0",
    "expert_down_q2_k",
    "expert_down_q4_k",
    "expert_down_iq2_xxs",
    "expert_down_mxfp4",
];
const GATE_UP_ONE: [&str; 8] = [
    "",
    "",
    "",
    "expert_gate_up_one_q8_0",
    "expert_gate_up_one_q2_k",
    "expert_gate_up_one_q4_k",
    "expert_gate_up_one_iq2_xxs",
    "expert_gate_up_one_mxfp4",
];
const DOWN_ONE: [&str; 8] = [
    "",
    "",
    "",
    "expert_down_one_q8_0",
    "expert_down_one_q2_k",
    "expert_down_one_q4_k",
    "expert_down_one_iq2_xxs",
    "expert_down_one_mxfp4",
];
const TILE: [&str; 8] = [
    "",
    "",
    "",
    "expert_tile_q8_0",
    "expert_tile_q2_k",
    "expert_tile_q4_k",
    "expert_tile_iq2_xxs",
    "expert_tile_mxfp4",
];

impl Executor {
    /// Expert choice and weights.
    pub(super) fn route(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        self.products(&work.input, self.batch.rows, &[Linear::new(tensors.router, work.router.address())])?;
        let route = params::Route {
            scores: work.router.address(),
            bias: tensors.bias,
            table: tensors.table,
            rows: work.row_info.address(),
            ids: work.expert_ids.address(),
            weights: work.expert_weights.address(),
            n_expert: config.n_expert as u32,
            used: config.n_expert_used as u32,
            scale: config.expert_weights_scale,
            pad: 0,
        };
        self.launch("route", [self.batch.rows as u32, 1, 1], 256, &route)
    }

    /// Routed and shared experts.
    pub(super) fn experts(&self, layer: usize) -> Result<(), DeviceError> {
        let tensors = &self.tensors.layers[layer];
        if self.experts_are_fast(tensors) {
            if self.batch.rows == 1 {
                return self.one_row(layer);
            }
            if self.batch.rows <= FEW { self.few_experts(layer)? } else { self.many_experts(layer)? }
        } else {
            self.float_experts(layer)?;
        }
        let config = self.model.config();
        let combine = params::Combine {
            parts: self.work.down.address(),
            output: self.work.output.address(),
            n_embd: config.n_embd as u32,
            slots: self.slots() as u32,
        };
        let grid = [config.n_embd.div_ceil(256) as u32, self.batch.rows as u32, 1];
        self.launch("combine_slots", grid, 256, &combine)
    }

    /// Slots of a row: its experts, then the shared one.
    fn slots(&self) -> usize {
        self.model.config().n_expert_used + 1
    }

    /// Whether the experts run on matrix instructions.
    fn experts_are_fast(&self, t: &DeviceLayer) -> bool {
        let routed = [&t.gate_exps, &t.up_exps, &t.down_exps];
        let shared = [&t.gate_shexp, &t.up_shexp, &t.down_shexp];
        is_int8(self.numerics.compute)
            && routed.iter().all(|w| w.storage.is_quantized())
            && t.gate_exps.storage == t.up_exps.storage
            && t.gate_shexp.storage == t.up_shexp.storage
            && shared.iter().all(|w| self.is_fast(w))
    }

    /// Sorts the batch's slots by expert, in runs of at most `columns`; the most runs that can come of it.
    fn group(&self, columns: usize) -> Result<u32, DeviceError> {
        let config = self.model.config();
        let work = &self.work;
        let rows = self.batch.rows;
        let group = params::GroupSlots {
            ids: work.expert_ids.address(),
            list: work.slot_list.address(),
            items: work.items.address(),
            item_count: work.item_count.address(),
            rows: rows as u32,
            used: config.n_expert_used as u32,
            n_expert: config.n_expert as u32,
            columns: columns as u32,
        };
        self.launch("group_slots", [1, 1, 1], 1024, &group)?;
        let choices = rows * config.n_expert_used;
        // Every expert in use may have one run that is not full.
        let routed = choices.min(choices / columns + config.n_expert);
        Ok((rows.div_ceil(columns) + routed) as u32)
    }

    fn has_halves(weight: &DeviceWeight) -> bool {
        weight.storage == Storage::F16
    }

    fn few_experts(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        let items = self.group(8)?;
        self.prepare(&work.input, self.batch.rows, true, Self::has_halves(&t.gate_shexp))?;
        let gate_up = params::ExpertGateUp {
            gate: t.gate_exps.params,
            up: t.up_exps.params,
            shared_gate: t.gate_shexp.params,
            shared_up: t.up_shexp.params,
            x: work.input.params,
            mid: work.mid.params,
            items: work.items.address(),
            item_count: work.item_count.address(),
            list: work.slot_list.address(),
            weights: work.expert_weights.address(),
            n_expert: config.n_expert as u32,
            used: config.n_expert_used as u32,
            limit: config.swiglu_limit[layer],
            halves: u32::from(Self::has_halves(&t.down_shexp)),
        };
        let grid = [config.n_ff.div_ceil(32) as u32, items, 1];
        self.launch(GATE_UP[t.gate_exps.storage.index()], grid, 256, &gate_up)?;
        let down = params::ExpertDown {
            routed: t.down_exps.params,
            shared: t.down_shexp.params,
            x: work.mid.params,
            items: work.items.address(),
            item_count: work.item_count.address(),
            list: work.slot_list.address(),
            y: work.down.address(),
            n_expert: config.n_expert as u32,
            y_stride: config.n_embd as u32,
        };
        let grid = [config.n_embd.div_ceil(32) as u32, items, 1];
        self.launch(DOWN[t.down_exps.storage.index()], grid, 256, &down)
    }

    fn one_row(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        self.prepare(&work.input, 1, true, Self::has_halves(&t.gate_shexp))?;
        let gate_up = params::ExpertOne {
            gate: t.gate_exps.params,
            up: t.up_exps.params,
            shared_gate: t.gate_shexp.params,
            shared_up: t.up_shexp.params,
            x: work.input.params,
            mid: work.mid.params,
            ids: work.expert_ids.address(),
            weights: work.expert_weights.address(),
            used: config.n_expert_used as u32,
            limit: config.swiglu_limit[layer],
            halves: u32::from(Self::has_halves(&t.down_shexp)),
            pad: 0,
        };
        let grid = [config.n_ff.div_ceil(32) as u32, self.slots() as u32, 1];
        self.launch(GATE_UP_ONE[t.gate_exps.storage.index()], grid, 256, &gate_up)?;
        let down = params::DownOne {
            routed: t.down_exps.params,
            shared: t.down_shexp.params,
            x: work.mid.params,
            ids: work.expert_ids.address(),
            y: work.output.address(),
            used: config.n_expert_used as u32,
            pad: 0,
        };
        // Sums of the segments of two tiles, per slot.
        let shared = (self.slots() * 2 * 8 * 16 * 4) as u32;
        let grid = [config.n_embd.div_ceil(32) as u32, 1, 1];
        self.launch_with(DOWN_ONE[t.down_exps.storage.index()], grid, 512, shared, &down)
    }

    fn many_experts(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        let items = self.group(64)?;
        self.prepare(&work.input, self.batch.rows, true, Self::has_halves(&t.gate_shexp))?;
        let tile = |routed: &DeviceWeight, shared: &DeviceWeight, x: params::Rows, y: u64, by_slot: bool| {
            let tile = params::ExpertTile {
                routed: routed.params,
                shared: shared.params,
                x,
                y,
                items: work.items.address(),
                item_count: work.item_count.address(),
                list: work.slot_list.address(),
                y_stride: routed.rows(),
                n_expert: config.n_expert as u32,
                slots: self.slots() as u32,
                by_slot: u32::from(by_slot),
            };
            let grid = [routed.rows().div_ceil(128), items, 1];
            self.launch_with(TILE[routed.storage.index()], grid, 256, TILE_MEMORY, &tile)
        };
        tile(&t.gate_exps, &t.gate_shexp, work.input.params, work.gate.address(), false)?;
        tile(&t.up_exps, &t.up_shexp, work.input.params, work.up.address(), false)?;
        self.swiglu(layer, true, Self::has_halves(&t.down_shexp))?;
        tile(&t.down_exps, &t.down_shexp, work.mid.params, work.down.address(), true)
    }

    fn swiglu(&self, layer: usize, integers: bool, halves: bool) -> Result<(), DeviceError> {
        let config = self.model.config();
        let work = &self.work;
        let swiglu = params::Swiglu {
            gate: work.gate.address(),
            up: work.up.address(),
            weights: work.expert_weights.address(),
            mid: work.mid.params,
            n_ff: config.n_ff as u32,
            used: config.n_expert_used as u32,
            limit: config.swiglu_limit[layer],
            integers: u32::from(integers),
            halves: u32::from(halves),
            pad: 0,
        };
        let grid = [work.mid.params.blocks, (self.batch.rows * self.slots()) as u32, 1];
        self.launch("swiglu_slots", grid, 256, &swiglu)
    }

    fn float_experts(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        let slots = (self.batch.rows * self.slots()) as u32;
        let float = |routed: &DeviceWeight, shared: &DeviceWeight, x: params::Rows, y: u64, by_slot: bool| {
            let float = params::ExpertFloat {
                routed: routed.params,
                shared: shared.params,
                x: x.f,
                y,
                ids: work.expert_ids.address(),
                x_stride: x.stride,
                y_stride: routed.rows(),
                used: config.n_expert_used as u32,
                rows: self.batch.rows as u32,
                by_slot: u32::from(by_slot),
                ..params::ExpertFloat::zeroed()
            };
            self.launch("expert_float", [routed.rows().div_ceil(8), slots, 1], 256, &float)
        };
        float(&t.gate_exps, &t.gate_shexp, work.input.params, work.gate.address(), false)?;
        float(&t.up_exps, &t.up_shexp, work.input.params, work.up.address(), false)?;
        self.swiglu(layer, false, false)?;
        float(&t.down_exps, &t.down_shexp, work.mid.params, work.down.address(), true)
    }
}
