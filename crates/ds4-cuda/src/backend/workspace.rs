//! The values that operations hand to each other, in device memory: sized for the largest batch so far.

use std::cell::Cell;
use std::sync::Arc;

use ds4_model::{Buffer, Config};

use super::Needs;
use super::executor::MOST_GRAPH_ROWS;
use crate::cache::CacheLayout;
use crate::device::{Device, DeviceError, Memory};
use crate::params;
use crate::weights::BLOCK;

impl Needs {
    /// What batches of up to `rows` rows need.
    fn of_rows(self, rows: usize) -> Self {
        Self { turned: self.turned && rows > MOST_GRAPH_ROWS, ..self }
    }
}

/// Rows of activations: float32, and the forms that products take.
pub(crate) struct Activations {
    pub params: params::Rows,
    /// Which forms belong to the float32 values.
    pub integers: Cell<bool>,
    pub halves: Cell<bool>,
    _memory: [Memory; 7],
}

impl Activations {
    /// `halves`: whether float16 are needed.
    fn new(
        device: &Arc<dyn Device>,
        rows: usize,
        cols: usize,
        needs: Needs,
        halves: bool,
    ) -> Result<Self, DeviceError> {
        let blocks = cols.div_ceil(BLOCK);
        let padded = rows * blocks * BLOCK;
        let if_needed = |needed: bool, bytes: usize| if needed { bytes } else { 0 };
        // Zeros stay behind the last column.
        let memory = [
            Memory::zeroed(device, rows * cols * 4)?,
            Memory::zeroed(device, if_needed(needs.integers, padded))?,
            Memory::zeroed(device, if_needed(needs.integers, padded / 32 * 4))?,
            Memory::zeroed(device, if_needed(needs.integers, padded / 16 * 4))?,
            Memory::zeroed(device, if_needed(halves, padded * 2))?,
            Memory::zeroed(device, if_needed(halves, padded * 2))?,
            Memory::zeroed(device, if_needed(needs.turned, padded))?,
        ];
        let params = params::Rows {
            f: memory[0].address(),
            q: memory[1].address(),
            d: memory[2].address(),
            s: memory[3].address(),
            hi: memory[4].address(),
            lo: memory[5].address(),
            turned: memory[6].address(),
            cols: cols as u32,
            stride: cols as u32,
            blocks: blocks as u32,
            pad: 0,
        };
        Ok(Self { params, integers: Cell::new(false), halves: Cell::new(false), _memory: memory })
    }

    /// The float32 values changed and nothing else did.
    pub fn changed(&self) {
        self.set_forms(false, false);
    }

    /// Which forms belong to the values now.
    pub fn set_forms(&self, integers: bool, halves: bool) {
        self.integers.set(integers);
        self.halves.set(halves);
    }
}

/// One array per [`Buffer`], and what stays inside. Dimensions as there.
pub(crate) struct Workspace {
    pub rows: usize,
    pub row_info: Memory,
    pub spans: Memory,
    /// Numbers of the wanted rows.
    pub wanted: Memory,
    pub angles: Memory,
    pub streams: Memory,
    pub input: Activations,
    pub post: Memory,
    pub comb: Memory,
    /// Sums of the hyper-connection's slices, [rows, slices, sums].
    pub hyper_sums: Memory,
    pub latent: Activations,
    pub query: Memory,
    pub query_hi: Memory,
    pub query_lo: Memory,
    pub kv: Memory,
    pub kv_stored: Memory,
    pub compressor_kv: Memory,
    pub compressor_gate: Memory,
    pub indexer_kv: Memory,
    pub indexer_gate: Memory,
    pub indexer_weights: Memory,
    pub indexer_query: Memory,
    pub indexer_codes: Memory,
    pub indexer_scales: Memory,
    /// Compressed rows to attend, [rows, top_k], and how many; all ones for all visible rows.
    pub selection: Memory,
    pub selected: Memory,
    /// One row per output group.
    pub attended: Activations,
    pub low: Activations,
    pub output: Memory,
    pub router: Memory,
    pub expert_ids: Memory,
    pub expert_weights: Memory,
    pub items: Memory,
    pub item_count: Memory,
    pub slot_list: Memory,
    /// Where each expert's slots begin in the list.
    pub slot_starts: Memory,
    pub gate: Memory,
    pub up: Memory,
    pub mid: Activations,
    pub down: Memory,
}

/// Width of the slices of the hyper-connection's columns.
pub(crate) const HYPER_SLICE: usize = 64;
/// Sums of a slice.
const HYPER_SUMS: usize = 36;

impl Workspace {
    pub fn new(
        device: &Arc<dyn Device>,
        config: &Config,
        layout: &CacheLayout,
        needs: Needs,
        rows: usize,
    ) -> Result<Self, DeviceError> {
        let floats = |n: usize| Memory::new(device, rows * n * 4);
        let needs = needs.of_rows(rows);
        let activations = |n: usize, cols: usize, halves: bool| Activations::new(device, n, cols, needs, halves);
        let c = config;
        let heads = c.n_head * c.head_dim;
        let slots = c.n_expert_used + 1;
        let width = 2 * c.head_dim;
        Ok(Self {
            rows,
            row_info: floats(4)?,
            spans: Memory::new(device, rows * size_of::<params::Span>())?,
            wanted: floats(1)?,
            angles: floats(2 * c.rope_dim)?,
            streams: floats(c.hc * c.n_embd)?,
            input: activations(rows, c.n_embd, needs.halves)?,
            post: floats(c.hc)?,
            comb: floats(c.hc * c.hc)?,
            hyper_sums: floats(c.n_embd.div_ceil(HYPER_SLICE) * HYPER_SUMS)?,
            latent: activations(rows, c.q_rank, needs.latent)?,
            query: floats(heads)?,
            query_hi: Memory::new(device, rows * heads * 2)?,
            query_lo: Memory::new(device, rows * heads * 2)?,
            kv: floats(c.head_dim)?,
            kv_stored: Memory::zeroed(device, rows * layout.format.kv_stride as usize)?,
            compressor_kv: floats(width)?,
            compressor_gate: floats(width)?,
            indexer_kv: floats(2 * c.idx_dim)?,
            indexer_gate: floats(2 * c.idx_dim)?,
            indexer_weights: floats(c.idx_heads)?,
            indexer_query: floats(c.idx_heads * c.idx_dim)?,
            indexer_codes: Memory::new(device, rows * c.idx_heads * c.idx_dim)?,
            indexer_scales: floats(c.idx_heads * c.idx_dim.div_ceil(32))?,
            selection: floats(c.idx_topk)?,
            selected: floats(1)?,
            attended: activations(rows * c.o_groups, heads / c.o_groups, needs.attended)?,
            low: activations(rows, c.o_groups * c.o_rank, needs.low)?,
            output: floats(c.n_embd)?,
            router: floats(c.n_expert)?,
            expert_ids: floats(c.n_expert_used)?,
            expert_weights: floats(c.n_expert_used)?,
            // At most one item per slot.
            items: Memory::new(device, rows * slots * 16)?,
            // The number, and two to count from.
            item_count: Memory::new(device, 16)?,
            slot_list: floats(slots)?,
            slot_starts: Memory::new(device, c.n_expert * 4)?,
            gate: floats(slots * c.n_ff)?,
            up: floats(slots * c.n_ff)?,
            mid: activations(rows * slots, c.n_ff, needs.mid)?,
            down: floats(slots * c.n_embd)?,
        })
    }

    /// Where a buffer is, and floats per row. `width`: of the layer's compressor features.
    pub fn place(&self, buffer: Buffer, config: &Config, width: usize) -> (u64, usize) {
        let c = config;
        match buffer {
            Buffer::Streams => (self.streams.address(), c.hc * c.n_embd),
            Buffer::Input => (self.input.params.f, c.n_embd),
            Buffer::Post => (self.post.address(), c.hc),
            Buffer::Comb => (self.comb.address(), c.hc * c.hc),
            Buffer::QueryLatent => (self.latent.params.f, c.q_rank),
            Buffer::Query => (self.query.address(), c.n_head * c.head_dim),
            Buffer::Kv => (self.kv.address(), c.head_dim),
            Buffer::CompressorKv => (self.compressor_kv.address(), width),
            Buffer::CompressorGate => (self.compressor_gate.address(), width),
            Buffer::IndexerKv => (self.indexer_kv.address(), 2 * c.idx_dim),
            Buffer::IndexerGate => (self.indexer_gate.address(), 2 * c.idx_dim),
            Buffer::IndexerWeights => (self.indexer_weights.address(), c.idx_heads),
            Buffer::IndexerQuery => (self.indexer_query.address(), c.idx_heads * c.idx_dim),
            Buffer::Attended => (self.attended.params.f, c.n_head * c.head_dim),
            Buffer::Output => (self.output.address(), c.n_embd),
            Buffer::ExpertIds => (self.expert_ids.address(), c.n_expert_used),
            Buffer::ExpertWeights => (self.expert_weights.address(), c.n_expert_used),
            // Wanted rows have memory of their own.
            Buffer::Logits => (0, c.n_vocab),
        }
    }
}

/// What the wanted rows of a batch need.
pub(crate) struct HeadSpace {
    pub rows: usize,
    pub input: Activations,
    pub logits: Memory,
}

impl HeadSpace {
    pub fn new(device: &Arc<dyn Device>, config: &Config, needs: Needs, rows: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            rows,
            input: Activations::new(device, rows, config.n_embd, needs.of_rows(rows), needs.halves)?,
            logits: Memory::new(device, rows * config.n_vocab * 4)?,
        })
    }
}

/// Memory whose size depends on how long the contexts are.
pub(crate) struct Scratch {
    pub scores: Memory,
    pub part_max: Memory,
    pub part_sum: Memory,
    pub part_out: Memory,
}

impl Scratch {
    pub fn new(device: &Arc<dyn Device>) -> Result<Self, DeviceError> {
        let none = || Memory::new(device, 0);
        Ok(Self { scores: none()?, part_max: none()?, part_sum: none()?, part_out: none()? })
    }
}
