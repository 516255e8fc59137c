//! The kernels' parameters, as `kernels/*.wgsl` declare them.

use bytemuck::{Pod, Zeroable};

use crate::shader::GEMV_MATRICES;

macro_rules! params {
    ($($name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {
        $(
            #[derive(Clone, Copy, Debug, Pod, Zeroable)]
            #[repr(C)]
            pub(super) struct $name { $(pub $field: $type),+ }
        )+
    };
}

params! {
    Embed { base: u32, row_bytes: u32, first: u32, count: u32 }
    Quantize { groups: u32 }
    HcProject { project: u32, indirect: u32 }
    HcFinish { base: u32, scale: u32, norm: u32, indirect: u32, eps: f32, hc_eps: f32 }
    Hyper {
        base: u32, scale: u32, iterations: u32, eps: f32, hc_eps: f32, pad0: u32, pad1: u32, pad2: u32,
    }
    HcMerge { pad: u32 }
    HcWeights { hyper: Hyper }
    Product {
        base: u32, row_bytes: u32, matrix_bytes: u32, rows: u32, units: u32, count: u32,
        x_mul: u32, x_add: u32, y_mul: u32, y_add: u32, x_stride: u32, y_stride: u32, y_column: u32,
        group_rows: u32, rows_before: u32, scale: f32, first_expert: u32, experts: u32, slots: u32, first_row: u32,
    }
    GemvMatrix {
        base: u32, row_bytes: u32, rows: u32, first_block: u32, y_first: u32, y_stride: u32, scale: f32, floats: u32,
    }
    Gemv {
        units: u32, x_stride: u32, matrices: u32, group_rows: u32, rows_before: u32, count: u32, pad1: u32, pad2: u32,
        list: [GemvMatrix; GEMV_MATRICES],
    }
    ExpertsIn {
        gate: u32, up: u32, row_bytes: u32, matrix_bytes: u32, other_gate: u32, other_up: u32, other_row_bytes: u32,
        weights_at: u32, first_row: u32, first_slot: u32, slots: u32, limit: f32,
    }
    ExpertsOut {
        base: u32, row_bytes: u32, matrix_bytes: u32, other_base: u32, other_row_bytes: u32, first_row: u32,
    }
    Latents {
        norm: u32, kind: u32, kinds: u32, eps: f32, latent_norm: u32, quads: u32, pad0: u32, pad1: u32, hyper: Hyper,
    }
    Queries {
        kind: u32, kinds: u32, eps: f32, scales_at: u32, index_heads: u32, kv_stored: u32, slot_words: u32, window: u32,
        blocks: u32, pad0: u32, pad1: u32, pad2: u32, first: Compressor, second: Compressor,
    }
    IndexQuery { kind: u32, kinds: u32, scales_at: u32 }
    KvRows { norm: u32, kind: u32, kinds: u32, eps: f32 }
    Compressor { dim: u32, ape: u32, kv: u32, gate: u32, frontier: u32, pad0: u32, pad1: u32, pad2: u32 }
    Compress {
        compressor: Compressor, norm: u32, slot_words: u32, page_words: u32, page_rows: u32, rows_per_page: u32,
        kind: u32, kinds: u32, eps: f32,
    }
    StateStore {
        slot_words: u32, window: u32, rows: u32, blocks: u32, first: Compressor, second: Compressor,
    }
    IndexScores { first_row: u32, stride: u32, page_words: u32, page_rows: u32, rows_per_page: u32 }
    IndexTop { first_row: u32, stride: u32 }
    Attend {
        first_row: u32, slot_words: u32, page_words: u32, page_rows: u32, rows_per_page: u32, window: u32, ratio: u32,
        selecting: u32, most_chunks: u32, scale: f32,
    }
    AttendMerge {
        first_row: u32, sinks: u32, window: u32, ratio: u32, selecting: u32, most_chunks: u32, kind: u32, kinds: u32,
    }
    Route { bias: u32, table: u32, scale: f32, pad: u32, hyper: Hyper }
    GroupSlots { first_row: u32, rows: u32, list: u32 }
    Swiglu { groups: u32, first_row: u32, limit: f32 }
    Combine { first_row: u32 }
}
