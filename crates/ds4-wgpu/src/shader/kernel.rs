//! The kernels, and what each is specialized for.

use super::Format;

/// Which activation rows a product takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// All, with one matrix.
    Dense,
    /// Each slot of an expert choice by itself.
    BySlot,
    /// Slots grouped by expert.
    Grouped,
}

/// Which of a layer's compressors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one whose rows are attended.
    Attention,
    /// The indexer's.
    Indexer,
}

/// A kernel, specialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The files in `kernels/` say what each does.
pub enum Kernel {
    Embed(Format),
    Quantize,
    HcProject { head: bool, merge: bool },
    HcFinish { head: bool, integers: bool },
    HcMerge,
    HcWeights,
    Product { format: Format, integers: bool, mode: Mode, tile: bool, rows: u32 },
    Gemv { format: Format, floats: Option<Format>, integers: bool, each: u32, x_rows: u32, quantized: bool },
    ExpertsIn { routed: Format, shared: Format },
    ExpertsOut { routed: Format, shared: Format },
    Latents { integers: bool },
    Queries { store: Option<u32> },
    IndexQuery,
    KvRows { last: bool },
    Compress { ratio: u32, role: Role },
    StateStore { ratio: u32 },
    IndexScores { ratio: u32 },
    IndexTop { ratio: u32 },
    Attend,
    AttendMerge { integers: bool },
    Route { by_token: bool },
    GroupSlots,
    Swiglu { integers: bool },
    Combine,
    Read,
    Probe,
}

/// Activation rows of a tile in products of several rows.
pub const TILE_ROWS: u32 = 8;
/// Matrix rows of a workgroup of a product.
pub const PRODUCT_ROWS: u32 = 8;
/// The same of products with tiles of activation rows, where matrix rows are in one group.
pub const WIDE_PRODUCT_ROWS: u32 = 16;
/// Activation rows that products of few rows take at most.
pub const GEMV_ROWS: usize = 8;
/// Matrices of one such product at most.
pub const GEMV_MATRICES: usize = 7;
/// Columns of every stream that a slice of the hyper-connections' projection has.
pub const SLICE: u32 = 64;
/// Keys of a chunk in attention, and heads that a workgroup takes.
pub const CHUNK: usize = 16;
/// Compressed rows of a workgroup that scores them.
pub const SCORED_ROWS: u32 = 32;
/// Heads of a workgroup in attention.
pub const ATTEND_HEADS: usize = 8;

/// The ratio whose windows overlap.
pub(super) const OVERLAPPING: u32 = ds4_model::state::OVERLAPPING_RATIO as u32;

impl Kernel {
    /// Invocations of a workgroup.
    pub fn workgroup(self) -> u32 {
        match self {
            Self::Product { .. } | Self::Queries { .. } | Self::Attend | Self::AttendMerge { .. } => 128,
            Self::Quantize | Self::Swiglu { .. } | Self::IndexQuery => 64,
            Self::Embed(_) | Self::Combine | Self::HcMerge | Self::HcWeights => 64,
            _ => 256,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embed(_) => "embed",
            Self::Quantize => "quantize",
            Self::HcProject { .. } => "hc_project",
            Self::HcFinish { .. } => "hc_finish",
            Self::HcMerge => "hc_merge",
            Self::HcWeights => "hc_weights",
            Self::Product { .. } => "product",
            Self::Gemv { .. } => "gemv",
            Self::ExpertsIn { .. } => "experts_in",
            Self::ExpertsOut { .. } => "experts_out",
            Self::Latents { .. } => "latents",
            Self::Queries { .. } => "queries",
            Self::IndexQuery => "index_query",
            Self::KvRows { .. } => "kv_rows",
            Self::Compress { .. } => "compress",
            Self::StateStore { .. } => "state_store",
            Self::IndexScores { .. } => "index_scores",
            Self::IndexTop { .. } => "index_top",
            Self::Attend => "attend",
            Self::AttendMerge { .. } => "attend_merge",
            Self::Route { .. } => "route",
            Self::GroupSlots => "group_slots",
            Self::Swiglu { .. } => "swiglu",
            Self::Combine => "combine",
            Self::Read => "read",
            Self::Probe => "probe",
        }
    }
}

/// A kernel's name with what it is specialized for, for messages.
pub fn label(kernel: Kernel) -> String {
    match kernel {
        Kernel::Product { format, integers, mode, tile, .. } => {
            let arithmetic = if integers { "int8" } else { "f32" };
            format!("product of {format:?}, {arithmetic}, {mode:?}{}", if tile { ", tiled" } else { "" })
        }
        Kernel::Gemv { format, floats, quantized, .. } => {
            let beside = floats.map_or_else(String::new, |floats| format!(" and {floats:?}"));
            format!("rows of {format:?}{beside}{}", if quantized { ", int8 results" } else { "" })
        }
        Kernel::ExpertsIn { routed, shared } => format!("experts' first half, {routed:?} and {shared:?}"),
        Kernel::ExpertsOut { routed, shared } => format!("experts' second half, {routed:?} and {shared:?}"),
        Kernel::Compress { role: Role::Indexer, .. } => "compress for the indexer".to_owned(),
        Kernel::Queries { store: Some(_) } => "queries, storing rows".to_owned(),
        other => other.name().to_owned(),
    }
}

/// Every kernel that a model of these ratios can need, with weights in planes or as in the file.
pub fn all(ratios: &[u32], planes: bool) -> Vec<Kernel> {
    let mut kernels = vec![
        Kernel::Quantize,
        Kernel::HcMerge,
        Kernel::HcWeights,
        Kernel::Queries { store: None },
        Kernel::Queries { store: Some(0) },
        Kernel::IndexQuery,
        Kernel::StateStore { ratio: 0 },
        Kernel::Attend,
        Kernel::GroupSlots,
        Kernel::Combine,
        Kernel::Read,
    ];
    for flag in [false, true] {
        kernels.extend([
            Kernel::AttendMerge { integers: flag },
            Kernel::HcProject { head: false, merge: flag },
            Kernel::HcProject { head: true, merge: false },
            Kernel::HcFinish { head: flag, integers: false },
            Kernel::HcFinish { head: flag, integers: true },
            Kernel::Latents { integers: flag },
            Kernel::KvRows { last: flag },
            Kernel::Route { by_token: flag },
            Kernel::Swiglu { integers: flag },
        ]);
    }
    for &ratio in ratios.iter().filter(|&&ratio| ratio != 0) {
        for role in [Role::Attention, Role::Indexer] {
            kernels.push(Kernel::Compress { ratio, role });
        }
        kernels.extend([Kernel::StateStore { ratio }, Kernel::Queries { store: Some(ratio) }]);
        kernels.extend([Kernel::IndexScores { ratio }, Kernel::IndexTop { ratio }]);
    }
    for format in Format::ALL {
        kernels.push(Kernel::Embed(format));
        let variants =
            [(1, 1, false), (1, 4, false), (4, 1, false), (4, 2, false), (4, 4, false), (4, 1, true), (4, 4, true)];
        for (each, x_rows, quantized) in variants {
            if format.is_block() || each == 1 {
                let integers = format.is_block();
                kernels.push(Kernel::Gemv { format, floats: None, integers, each, x_rows, quantized });
                if planes && !quantized && format == Format::Q8_0 {
                    let floats = Some(if x_rows == 2 { Format::Bf16 } else { Format::F16 });
                    kernels.push(Kernel::Gemv { format, floats, integers, each, x_rows, quantized });
                }
            }
        }
        for shared in [Format::Q8_0, format] {
            if format.is_block() {
                kernels.extend([
                    Kernel::ExpertsIn { routed: format, shared },
                    Kernel::ExpertsOut { routed: format, shared },
                ]);
            }
        }
        for integers in [false, true] {
            for mode in [Mode::Dense, Mode::BySlot, Mode::Grouped] {
                for tile in [false, true] {
                    if format.is_block() || !integers {
                        let rows = if tile { WIDE_PRODUCT_ROWS } else { PRODUCT_ROWS };
                        kernels.push(Kernel::Product { format, integers, mode, tile, rows });
                    }
                }
            }
        }
    }
    kernels
}
