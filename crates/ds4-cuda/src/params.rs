//! The kernels' parameter structs, as `kernels/*.cu` declares them. `Pod` sees to it that none has hidden padding; the emulated
//! device compares sizes.

use bytemuck::{Pod, Zeroable};

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Pod, Zeroable)]
            #[repr(C)]
            pub(crate) struct $name { $(pub $field: $type),+ }
        )+
    };
}

params! {
    /// A matrix, or a stack of them.
    Weight {
        codes: u64, scales: u64, extra: u64, slab_codes: u64, slab_scales: u64, slab_extra: u64,
        ty: u32, rows: u32, cols: u32, blocks: u32,
    }
    /// Rows of activations, in the forms that products need.
    Rows { f: u64, q: u64, d: u64, s: u64, hi: u64, lo: u64, turned: u64, cols: u32, stride: u32, blocks: u32, pad: u32 }
    /// One run of consecutive tokens of one sequence.
    Span { ring: u64, frontier: u64, pages: u64, first_row: u32, len: u32, first_position: u32, pad: u32 }
    /// One row of the batch.
    RowInfo { token: u32, position: u32, span: u32, pad: u32 }
    /// How rows of the KV cache lie in device memory.
    CacheFormat {
        exact: u32, dim: u32, rope: u32, nope: u32, kv_stride: u32, index_stride: u32, index_dim: u32, window: u32,
    }
    /// Where one layer's part of a sequence's state is.
    LayerPlace {
        ring: u64, page_kv: u64, page_index: u64, frontier: u32, index_frontier: u32, ratio: u32, rows_per_page: u32,
    }
    Repack { from: u64, to: Weight, row_bytes: u64, slab: u32, pad: u32 }
    Embed { table: u64, rows: u64, streams: u64, ty: u32, n_embd: u32, hc: u32, row_bytes: u32 }
    /// What sampling needs of rows of logits.
    Digest {
        logits: u64, requests: u64, keys: u64, sums: u64, counts: u64, found: u64, candidates: u64,
        n_vocab: u32, blocks: u32, most: u32, pad: u32,
    }
    Angles { rows: u64, frequencies: u64, angles: u64, pairs: u32, pad: u32 }
    HyperProject {
        streams: u64, output: u64, post: u64, comb: u64, project: u64, sums: u64, row_list: u64,
        n_embd: u32, outputs: u32, rows: u32, half_weights: u32, merge: u32, project_too: u32,
        rows_per_block: u32, slots: u32,
    }
    HyperFinish {
        streams: u64, sums: u64, base: u64, scale: u64, norm: u64, post: u64, comb: u64, row_list: u64, x: Rows,
        n_embd: u32, slices: u32, iterations: u32, head: u32, eps: f32, hc_eps: f32, integers: u32, halves: u32,
    }
    Quantize { x: Rows, integers: u32, halves: u32, rows: u32, pad: u32 }
    NormQuantize { x: Rows, weight: u64, eps: f32, integers: u32, halves: u32, pad: u32 }
    Product {
        w: Weight, y: u64, y_stride: u32, unit_end: u32, x_rows: u32, group_rows: u32, scale: f32, pad: u32,
    }
    Products { products: [Product; MOST_PRODUCTS], x: Rows, count: u32, rows: u32 }
    SmallProduct {
        w: Weight, y: u64, unit_begin: u32, unit_end: u32, group_rows: u32, scale: f32, outcome: u32, segments: u32,
        segment_blocks: u32, tiles: u32,
    }
    FewProducts {
        products: [SmallProduct; MOST_PRODUCTS], x: Rows, y_stride: [u32; MOST_PRODUCTS], x_rows: [u32; MOST_PRODUCTS],
        units: u32, rows: u32,
    }
    OneInput { x: Rows, hyper: HyperFinish, norm: u64, eps: f32, kind: u32, integers: u32, halves: u32 }
    SmallProducts {
        products: [SmallProduct; MOST_PRODUCTS], input: OneInput, out: Rows, cache: Cache, units: u32, out_row: u32,
        limit: f32, halves: u32, roles: u32, pad: u32,
    }
    QueryHeads {
        query: u64, hi: u64, lo: u64, index_query: u64, index_codes: u64, index_scales: u64, angles: u64,
        heads: u32, dim: u32, rope: u32, index_heads: u32, index_dim: u32, pairs: u32, kind: u32, exact: u32,
        eps: f32, forms_only: u32,
    }
    Compressor { kv: u64, gate: u64, ape: u64, norm: u64, dim: u32, width: u32 }
    Cache {
        rows: u64, spans: u64, kv: u64, kv_stored: u64, kv_norm: u64, angles: u64, frequencies: u64,
        attention: Compressor, indexer: Compressor, place: LayerPlace, format: CacheFormat,
        kind: u32, pairs: u32, has_indexer: u32, overlapping: u32, eps: f32, forms_only: u32,
    }
    Index {
        rows: u64, spans: u64, codes: u64, code_scales: u64, query: u64, head_weights: u64, scores: u64,
        selection: u64, selected: u64, place: LayerPlace, format: CacheFormat,
        heads: u32, dim: u32, top_k: u32, first_row: u32, score_stride: u32, keys: u32, count: u32, pad: u32,
    }
    Attend {
        rows: u64, spans: u64, hi: u64, lo: u64, kv_stored: u64, selection: u64, selected: u64, sinks: u64,
        angles: u64, attended: u64, part_max: u64, part_sum: u64, part_out: u64, place: LayerPlace, format: CacheFormat,
        heads: u32, pairs: u32, kind: u32, top_k: u32, most_chunks: u32, split: u32, scale: f32,
        selects: u32,
    }
    AttendOne { attend: Attend, query: u64, eps: f32, pad: u32 }
    AttendRows { attend: Attend, out: Rows, integers: u32, halves: u32 }
    Route {
        scores: u64, bias: u64, table: u64, rows: u64, ids: u64, weights: u64,
        n_expert: u32, used: u32, scale: f32, pad: u32,
    }
    GroupSlots {
        ids: u64, list: u64, items: u64, item_count: u64, rows: u32, used: u32, n_expert: u32, columns: u32,
    }
    ExpertGateUp {
        gate: Weight, up: Weight, shared_gate: Weight, shared_up: Weight, x: Rows, mid: Rows,
        items: u64, item_count: u64, list: u64, weights: u64, n_expert: u32, used: u32, limit: f32, halves: u32,
        slots: u32, most_items: u32,
    }
    ExpertDown {
        routed: Weight, shared: Weight, x: Rows, items: u64, item_count: u64, list: u64, y: u64,
        n_expert: u32, y_stride: u32, slots: u32, most_items: u32,
    }
    ExpertOne {
        gate: Weight, up: Weight, x: Rows, mid: Rows, ids: u64, weights: u64,
        used: u32, limit: f32, halves: u32, pad: u32,
    }
    DownOne { routed: Weight, shared: Weight, x: Rows, ids: u64, y: u64, used: u32, pad: u32 }
    ExpertTile {
        w: [Weight; 2], y: [u64; 2], x: Rows, items: u64, item_count: u64, list: u64,
        y_stride: u32, units: u32, slots: u32, by_slot: u32,
    }
    SortSlots {
        ids: u64, list: u64, items: u64, item_count: u64, starts: u64, rows: u32, used: u32, n_expert: u32, columns: u32,
    }
    ExpertFloat {
        routed: Weight, shared: Weight, x: u64, y: u64, ids: u64, x_stride: u32, y_stride: u32, used: u32, rows: u32,
        by_slot: u32, pad: u32,
    }
    Swiglu {
        gate: u64, up: u64, weights: u64, mid: Rows, n_ff: u32, used: u32, slots: u32, limit: f32, integers: u32,
        halves: u32,
    }
    ReadAll { from: u64, sums: u64, pieces: u64 }
    Combine { parts: u64, output: u64, n_embd: u32, slots: u32 }
}

/// Products in one launch.
pub(crate) const MOST_PRODUCTS: usize = 7;

impl Rows {
    /// The rows from number `row` on.
    pub fn starting_at(mut self, row: usize) -> Self {
        let row = row as u64;
        let padded = row * u64::from(self.blocks) * 256;
        self.f += row * u64::from(self.stride) * 4;
        self.q += padded;
        self.d += padded / 32 * 4;
        self.s += padded / 16 * 4;
        self.hi += padded * 2;
        self.lo += padded * 2;
        self.turned += padded;
        self
    }
}
