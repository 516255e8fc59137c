//! The kernels' parameters, as `kernels/*.wgsl` declare them.

use bytemuck::{Pod, Zeroable};

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
    RmsNorm { cols: u32, weight: u32, eps: f32 }
    HcProject { project: u32, indirect: u32 }
    HcFinish { base: u32, scale: u32, norm: u32, indirect: u32, eps: f32, hc_eps: f32, iterations: u32 }
    HcMerge { pad: u32 }
    Product {
        base: u32, row_bytes: u32, matrix_bytes: u32, rows: u32, units: u32, count: u32,
        x_mul: u32, x_add: u32, y_mul: u32, y_add: u32, x_stride: u32, y_stride: u32, y_column: u32,
        group_rows: u32, rows_before: u32, scale: f32, first_expert: u32, experts: u32, slots: u32, first_row: u32,
    }
    QueryHeads { kind: u32, kinds: u32, eps: f32 }
    IndexQuery { kind: u32, kinds: u32 }
    KvRows { norm: u32, kind: u32, kinds: u32, eps: f32 }
    Compress {
        ape: u32, norm: u32, slot_words: u32, frontier: u32, page_words: u32, page_rows: u32, rows_per_page: u32,
        kind: u32, kinds: u32, eps: f32,
    }
    FrontierMove { ape: u32, slot_words: u32, frontier: u32 }
    RingStore { slot_words: u32, window: u32 }
    IndexScores { first_row: u32, stride: u32, page_words: u32, page_rows: u32, rows_per_page: u32 }
    IndexTop { first_row: u32, stride: u32 }
    Attend {
        first_row: u32, slot_words: u32, page_words: u32, page_rows: u32, rows_per_page: u32, window: u32, ratio: u32,
        selecting: u32, most_chunks: u32, scale: f32,
    }
    AttendMerge {
        first_row: u32, sinks: u32, window: u32, ratio: u32, selecting: u32, most_chunks: u32, kind: u32, kinds: u32,
    }
    Route { bias: u32, table: u32, scale: f32 }
    GroupSlots { first_row: u32, rows: u32, list: u32 }
    Swiglu { groups: u32, first_row: u32, limit: f32 }
    Combine { first_row: u32 }
}
