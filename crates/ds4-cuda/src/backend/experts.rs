//! Mixture of experts.

use bytemuck::Zeroable;

use super::executor::Executor;
use super::hyper::Merged;
use super::is_int8;
use super::linear::{GROUP_MEMORY, Linear, STAGE, TILE_THREADS};
use super::linear_one::{Into, One, Outcome, Source};
use crate::device::{DeviceError, Memory};
use crate::params;
use crate::tensors::DeviceLayer;
use crate::weights::{DeviceWeight, Storage};

/// Most slots of an item of the kernels for larger batches, and rows of a matrix that a block computes.
const TILE_COLUMNS: usize = 64;
const TILE_ROWS: u32 = 256;
/// Rows of a matrix that a block of the kernels on warpgroup instructions computes, and its threads.
const GROUP_ROWS: u32 = 192;
const GROUP_THREADS: u32 = 512;
/// Bytes of shared memory of these (`ExpertMemory`), where a block can have as much, and elsewhere.
const TILE_MEMORY: [u32; 2] = [113 << 10, 89 << 10];

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
const GROUP: [&str; 8] = [
    "",
    "",
    "",
    "expert_wgmma_q8_0",
    "expert_wgmma_q2_k",
    "expert_wgmma_q4_k",
    "expert_wgmma_iq2_xxs",
    "expert_wgmma_mxfp4",
];

/// Bytes of shared memory that the kernels for one row have beside their stages, at most: tables and sums.
const ONE_TABLES: usize = 19 << 10;

/// Most columns of an item of a small batch: those of the matrix instruction; and where four tiles share an accumulator.
const SMALL_COLUMNS: usize = 8;
const PAIR_COLUMNS: usize = 2;
/// Bytes of shared memory that the kernels for pairs of slots have beside their queue (`GateUpMemory`, `DownMemory`), at most.
const PAIR_MEMORY: [usize; 2] = [60_736, 106_240];

/// The queue's bytes, behind these: two numbers, items, slots.
fn queue_memory(items: u32, slots: usize) -> usize {
    (16 + items as usize * 8 + slots * 2).next_multiple_of(16)
}

/// Bytes of shared memory that the kernels for one row have beside what follows, at most: tables, sums, scores.
const QUAD_GATE_TABLES: usize = 46 << 10;
const QUAD_DOWN_TABLES: usize = 256;

/// Bytes of shared memory of gate and up with one row where four tiles share an accumulator: twelve warps have the columns of every
/// fourth segment.
fn quad_gate_memory(weight: &DeviceWeight) -> usize {
    let blocks = weight.params.blocks as usize;
    let per = blocks.div_ceil(8);
    12 * blocks.div_ceil(per).div_ceil(4) * per * 288
}

/// The same of down: 24 warps have four blocks of the matrix and three of columns; sums of 32 rows per slot and segment, and per slot.
fn quad_down_memory(weight: &DeviceWeight, slots: usize) -> usize {
    24 * (4 * block_bytes(weight) + 3 * 352) + slots * (8 + 1) * 32 * 4
}

/// Bytes of a tile's block of a matrix.
fn block_bytes(weight: &DeviceWeight) -> usize {
    weight.storage.tile_bytes().unwrap_or_default().iter().sum()
}

/// Bytes of the stages of gate and up with one row: 16 warps have a block of both in each.
fn one_gate_memory(weight: &DeviceWeight) -> usize {
    let block = block_bytes(weight);
    16 * 2 * block * if block > 1500 { 1 } else { 2 }
}

/// The same of down: eight warps have several stages, one for the shared expert; then the sums of a tile's segments, per slot.
fn one_down_memory(weight: &DeviceWeight, slots: usize) -> usize {
    let block = block_bytes(weight);
    8 * (block * if block > 2000 { 3 } else { 6 } + STAGE) + slots * 8 * 16 * 4
}

impl Executor {
    /// Expert choice and weights; `with_shared`: the experts follow, so the shared one's gate and up, too, if
    /// [`has_one_row`](Self::has_one_row).
    /// `streamed`: what their input comes of, if it is still to be made (see [`routes_from_streams`](Self::routes_from_streams)).
    pub(super) fn route(
        &self,
        layer: usize,
        with_shared: bool,
        streamed: Option<params::HyperFinish>,
    ) -> Result<(), DeviceError> {
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        let router = Linear::new(tensors.router, work.router.address());
        if with_shared && self.has_one_row(layer) {
            if self.is_fast(&tensors.router) {
                self.shared_gate_up(layer, Some(router), streamed)?;
            } else {
                self.products(&work.input, self.batch.rows, &[router])?;
                self.shared_gate_up(layer, None, None)?;
            }
        } else {
            self.products(&work.input, self.batch.rows, &[router])?;
        }
        self.launch("route", [self.batch.rows as u32, 1, 1], 256, &self.choice(layer))
    }

    /// What chooses a layer's experts.
    fn choice(&self, layer: usize) -> params::Route {
        let config = self.model.config();
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        params::Route {
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
        }
    }

    /// Whether the routed experts' formats are those of the 2-bit files, and the shared expert's Q8_0.
    fn is_two_bit(t: &DeviceLayer) -> bool {
        let shared = [&t.gate_shexp, &t.up_shexp, &t.down_shexp];
        t.gate_exps.storage == Storage::Iq2Xxs
            && t.down_exps.storage == Storage::Q2K
            && shared.iter().all(|w| w.storage == Storage::Q8_0)
    }

    /// Whether a batch of one row runs on the kernels where four tiles share an accumulator.
    fn has_quads(&self, t: &DeviceLayer) -> bool {
        let most = (quad_gate_memory(&t.gate_exps) + QUAD_GATE_TABLES)
            .max(quad_down_memory(&t.down_exps, self.slots()) + QUAD_DOWN_TABLES);
        Self::is_two_bit(t) && most <= self.device.shared_memory_limit()
    }

    /// The same of small batches.
    fn has_pairs(&self, t: &DeviceLayer) -> bool {
        let slots = self.batch.rows * self.slots();
        let most = PAIR_MEMORY[1] + queue_memory(self.most_items(PAIR_COLUMNS), slots);
        Self::is_two_bit(t) && most <= self.device.shared_memory_limit()
    }

    /// Whether router and shared expert, in one launch, can make their input of the streams.
    pub(super) fn routes_from_streams(&self, layer: usize) -> bool {
        self.has_one_row(layer) && self.is_fast(&self.tensors.layers[layer].router)
    }

    /// Whether the experts run on the kernels for one row.
    fn has_one_row(&self, layer: usize) -> bool {
        let t = &self.tensors.layers[layer];
        let most = one_gate_memory(&t.gate_exps).max(one_down_memory(&t.down_exps, self.slots())) + ONE_TABLES;
        let input = Linear::new(t.gate_shexp, 0);
        self.batch.rows == 1
            && self.experts_are_fast(t)
            && most <= self.device.shared_memory_limit()
            && self.one_fits(&self.work.input, &[Linear::new(t.router, 0), input])
    }

    /// Gate, up and SwiGLU of the shared expert, and the router, which takes the same input.
    fn shared_gate_up(
        &self,
        layer: usize,
        router: Option<Linear>,
        streamed: Option<params::HyperFinish>,
    ) -> Result<(), DeviceError> {
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        let gate = Linear { outcome: Outcome::Gated, ..Linear::new(t.gate_shexp, 0) };
        let list: Vec<Linear> = router.into_iter().chain([gate, Linear::new(t.up_shexp, 0)]).collect();
        let into = Into {
            rows: work.mid.params,
            row: self.slots() - 1,
            limit: self.model.config().swiglu_limit[layer],
            halves: Self::has_halves(&t.down_shexp),
        };
        let source = streamed.map_or(Source::Row, Source::Streamed);
        if streamed.is_some() {
            // Others take it, too.
            work.input.set_forms(true, true);
        }
        self.one_products(&work.input, &list, One { source, into: Some(into), cache: None })
    }

    /// Routed and shared experts; `shared_done`: the shared expert's gate and up came with the choice. `in_parts`: whether their
    /// outputs may be left to be added. Says what is there.
    pub(super) fn experts(&self, layer: usize, shared_done: bool, in_parts: bool) -> Result<Merged, DeviceError> {
        let tensors = &self.tensors.layers[layer];
        if self.has_one_row(layer) {
            if !shared_done {
                self.shared_gate_up(layer, None, None)?;
            }
            self.one_row(layer)?;
            return Ok(Merged::Output);
        }
        if !self.experts_are_fast(tensors) {
            self.float_experts(layer)?;
        } else if self.is_small() {
            self.few_experts(layer)?;
        } else {
            self.many_experts(layer)?;
        }
        // In large batches adding them up is a kernel's work.
        if in_parts && self.is_small() {
            return Ok(Merged::Parts);
        }
        let config = self.model.config();
        let combine = params::Combine {
            parts: self.work.down.address(),
            output: self.work.output.address(),
            n_embd: config.n_embd as u32,
            slots: self.slots() as u32,
        };
        let grid = [config.n_embd.div_ceil(256) as u32, self.batch.rows as u32, 1];
        self.launch("combine_slots", grid, 256, &combine)?;
        Ok(Merged::Output)
    }

    /// Slots of a row: its experts, then the shared one.
    pub(super) fn slots(&self) -> usize {
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

    /// Sorts the batch's slots by expert, in runs of at most `columns`, the shared expert's of at most [`SMALL_COLUMNS`]; the most runs that
    /// can come of it.
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
        Ok(self.most_items(columns))
    }

    /// Most runs of at most `columns` slots of one expert that a small batch has.
    fn most_items(&self, columns: usize) -> u32 {
        let config = self.model.config();
        let choices = self.batch.rows * config.n_expert_used;
        // Every expert in use may have one run that is not full.
        let routed = choices.min(choices / columns + config.n_expert);
        (self.batch.rows.div_ceil(SMALL_COLUMNS) + routed) as u32
    }

    pub(super) fn has_halves(weight: &DeviceWeight) -> bool {
        weight.storage == Storage::F16
    }

    fn few_experts(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        let pairs = self.has_pairs(t);
        let items = self.group(if pairs { PAIR_COLUMNS } else { SMALL_COLUMNS })?;
        let slots = self.batch.rows * self.slots();
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
            slots: slots as u32,
            most_items: items,
        };
        let queue = queue_memory(items, slots);
        // Two blocks per multiprocessor take units until none is left.
        let blocks = [self.device.multiprocessors() * 2, 1, 1];
        let grid = [config.n_ff.div_ceil(32) as u32, items, 1];
        if pairs {
            let shared = (PAIR_MEMORY[0] + queue) as u32;
            self.launch_with("expert_gate_up_pairs", blocks, 256, shared, &gate_up)?;
        } else {
            self.launch(GATE_UP[t.gate_exps.storage.index()], grid, 256, &gate_up)?;
        }
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
            slots: slots as u32,
            most_items: items,
        };
        if pairs {
            let shared = (PAIR_MEMORY[1] + queue) as u32;
            return self.launch_with("expert_down_pairs", blocks, 256, shared, &down);
        }
        let grid = [config.n_embd.div_ceil(32) as u32, items, 1];
        self.launch(DOWN[t.down_exps.storage.index()], grid, 256, &down)
    }

    fn one_row(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        self.prepare(&work.input, 1, true, false)?;
        let gate_up = params::ExpertOne {
            gate: t.gate_exps.params,
            up: t.up_exps.params,
            x: work.input.params,
            mid: work.mid.params,
            ids: work.expert_ids.address(),
            weights: work.expert_weights.address(),
            used: config.n_expert_used as u32,
            limit: config.swiglu_limit[layer],
            halves: u32::from(Self::has_halves(&t.down_shexp)),
            pad: 0,
        };
        let units = (config.n_ff.div_ceil(32) * config.n_expert_used) as u32;
        let grid = [units.min(self.device.multiprocessors()), 1, 1];
        let down = params::DownOne {
            routed: t.down_exps.params,
            shared: t.down_shexp.params,
            x: work.mid.params,
            ids: work.expert_ids.address(),
            y: work.output.address(),
            used: config.n_expert_used as u32,
            pad: 0,
        };
        if self.has_quads(t) {
            let shared = quad_gate_memory(&t.gate_exps) as u32;
            self.launch_with("expert_gate_up_quads", grid, 384, shared, &gate_up)?;
            let shared = quad_down_memory(&t.down_exps, self.slots()) as u32;
            let grid = [config.n_embd.div_ceil(32) as u32, 1, 1];
            return self.launch_with("expert_down_quads", grid, 768, shared, &down);
        }
        let shared = one_gate_memory(&t.gate_exps) as u32;
        self.launch_with(GATE_UP_ONE[t.gate_exps.storage.index()], grid, 512, shared, &gate_up)?;
        let shared = one_down_memory(&t.down_exps, self.slots()) as u32;
        let grid = [config.n_embd.div_ceil(16) as u32, 1, 1];
        self.launch_with(DOWN_ONE[t.down_exps.storage.index()], grid, 256, shared, &down)
    }

    /// Sorts the batch's routed slots by expert, in runs for large tiles; the most runs that can come of it.
    fn sort(&self) -> Result<u32, DeviceError> {
        let config = self.model.config();
        let work = &self.work;
        let sort = params::SortSlots {
            ids: work.expert_ids.address(),
            list: work.slot_list.address(),
            items: work.items.address(),
            item_count: work.item_count.address(),
            starts: work.slot_starts.address(),
            rows: self.batch.rows as u32,
            used: config.n_expert_used as u32,
            n_expert: config.n_expert as u32,
            columns: TILE_COLUMNS as u32,
        };
        self.launch("expert_items", [1, 1, 1], 1024, &sort)?;
        self.launch("expert_list", [config.n_expert as u32, 1, 1], 256, &sort)?;
        let choices = self.batch.rows * config.n_expert_used;
        // Every expert in use may have one run that is not full.
        Ok(choices.min(choices / TILE_COLUMNS + config.n_expert) as u32)
    }

    fn many_experts(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let t = &self.tensors.layers[layer];
        let work = &self.work;
        let rows = self.batch.rows;
        let items = self.sort()?;
        let halves = Self::has_halves(&t.gate_shexp);
        self.prepare(&work.input, rows, true, halves)?;
        let [gate, up, down] = [&work.gate, &work.up, &work.down].map(Memory::address);
        self.tiles(&[(&t.gate_exps, gate), (&t.up_exps, up)], work.input.params, items, false)?;
        let shared = [self.shared_slots(t.gate_shexp, gate), self.shared_slots(t.up_shexp, up)];
        self.launch_tiles(work.input.params, rows, &shared)?;
        self.swiglu(layer, true, Self::has_halves(&t.down_shexp))?;
        self.tiles(&[(&t.down_exps, down)], work.mid.params, items, true)?;
        let shared = Linear { groups: self.slots(), ..self.shared_slots(t.down_shexp, down) };
        self.launch_tiles(work.mid.params.starting_at(config.n_expert_used), rows, &[shared])
    }

    /// A product of the shared expert, whose results are those of every row's last slot.
    fn shared_slots(&self, weight: DeviceWeight, y: u64) -> Linear {
        let row = weight.rows() as usize;
        let last = y + (self.model.config().n_expert_used * row * 4) as u64;
        Linear { y_stride: row * self.slots(), ..Linear::new(weight, last) }
    }

    /// Products of one or two stacks of the same shape with the items' slots.
    fn tiles(
        &self,
        stacks: &[(&DeviceWeight, u64)],
        x: params::Rows,
        items: u32,
        by_slot: bool,
    ) -> Result<(), DeviceError> {
        let work = &self.work;
        let (first, last) = (stacks[0], stacks[stacks.len() - 1]);
        let units = first.0.rows().div_ceil(if self.needs.turned { GROUP_ROWS } else { TILE_ROWS });
        let tile = params::ExpertTile {
            w: [first.0.params, last.0.params],
            y: [first.1, last.1],
            x,
            items: work.items.address(),
            item_count: work.item_count.address(),
            list: work.slot_list.address(),
            y_stride: first.0.rows(),
            units,
            slots: self.slots() as u32,
            by_slot: u32::from(by_slot),
        };
        let grid = [units * stacks.len() as u32, items, 1];
        let storage = first.0.storage.index();
        if self.needs.turned {
            // Blocks go from one unit to the next.
            let grid = [self.device.multiprocessors().min(grid[0] * items), 1, 1];
            return self.launch_with(GROUP[storage], grid, GROUP_THREADS, GROUP_MEMORY, &tile);
        }
        self.launch_with(TILE[storage], grid, TILE_THREADS, self.shared_memory(TILE_MEMORY), &tile)
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
            slots: (self.batch.rows * self.slots()) as u32,
            limit: config.swiglu_limit[layer],
            integers: u32::from(integers),
            halves: u32::from(halves),
        };
        let grid = [(work.mid.params.blocks * swiglu.slots).div_ceil(8), 1, 1];
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
