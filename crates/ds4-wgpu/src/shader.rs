//! The kernels' text: WGSL files put together and specialized by constants before the text.
//!
//! WGSL has no templates; constants in front of the text are what they would be for: dimensions of the model, the storage type of
//! the weights, sizes of tiles. The same composition is translated to MSL and SPIR-V in the tests.

use std::fmt::Write as _;

use ds4_gguf::TensorType;
use ds4_model::{Config, KvPrecision};

/// Storage type of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// Q8_0.
    Q8_0,
    /// Q2_K.
    Q2K,
    /// Q4_K.
    Q4K,
    /// IQ2_XXS.
    Iq2Xxs,
    /// MXFP4.
    Mxfp4,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 8] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q2K, Self::Q4K, Self::Iq2Xxs, Self::Mxfp4];

    /// The format of a tensor type; `None` for types that no matrix has.
    pub fn of(ty: TensorType) -> Option<Self> {
        Some(match ty {
            TensorType::F32 => Self::F32,
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::Bf16,
            TensorType::Q8_0 => Self::Q8_0,
            TensorType::Q2_K => Self::Q2K,
            TensorType::Q4_K => Self::Q4K,
            TensorType::IQ2_XXS => Self::Iq2Xxs,
            TensorType::MXFP4 => Self::Mxfp4,
            TensorType::I32 => return None,
        })
    }

    /// Whether it has blocks with scales, and so products with int8 activations.
    pub fn is_block(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Weights of a unit: what a lane takes at a time.
    pub fn unit(self) -> usize {
        if self.is_block() { 32 } else { 8 }
    }

    fn texts(self) -> [&'static str; 2] {
        let family = if self.is_block() {
            concat!(include_str!("kernels/weight_bytes.wgsl"), include_str!("kernels/blocks.wgsl"))
        } else {
            include_str!("kernels/floats.wgsl")
        };
        let format = match self {
            Self::F32 => include_str!("kernels/f32.wgsl"),
            Self::F16 => include_str!("kernels/f16.wgsl"),
            Self::Bf16 => include_str!("kernels/bf16.wgsl"),
            Self::Q8_0 => include_str!("kernels/q8_0.wgsl"),
            Self::Q2K => include_str!("kernels/q2_k.wgsl"),
            Self::Q4K => include_str!("kernels/q4_k.wgsl"),
            Self::Iq2Xxs => include_str!("kernels/iq2_xxs.wgsl"),
            Self::Mxfp4 => include_str!("kernels/mxfp4.wgsl"),
        };
        [family, format]
    }
}

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
    RmsNorm,
    HcProject { head: bool },
    HcFinish { head: bool, integers: bool },
    HcMerge,
    Product { format: Format, integers: bool, mode: Mode, tile: bool },
    QueryHeads,
    IndexQuery { last: bool },
    KvRows { last: bool },
    Compress { ratio: u32, role: Role },
    FrontierMove { ratio: u32, role: Role },
    RingStore,
    IndexScores { ratio: u32 },
    IndexTop { ratio: u32 },
    Attend,
    AttendMerge,
    Route { by_token: bool },
    GroupSlots,
    Swiglu { integers: bool },
    Combine,
    Probe,
}

/// Activation rows of a tile in products of several rows.
pub const TILE_ROWS: u32 = 8;
/// Matrix rows of a workgroup of a product.
pub const PRODUCT_ROWS: u32 = 8;
/// Columns of a slice of the flattened streams.
pub const SLICE: u32 = 1024;
/// Keys of a chunk in attention, and heads that a workgroup takes.
pub const CHUNK: usize = 32;
/// Heads of a workgroup in attention.
pub const ATTEND_HEADS: usize = 8;

/// The ratio whose windows overlap.
const OVERLAPPING: u32 = ds4_model::state::OVERLAPPING_RATIO as u32;

impl Kernel {
    /// Invocations of a workgroup.
    pub fn workgroup(self) -> u32 {
        match self {
            Self::Product { .. } | Self::QueryHeads | Self::AttendMerge => 128,
            Self::Quantize | Self::Swiglu { .. } | Self::IndexScores { .. } | Self::IndexQuery { .. } => 64,
            Self::Embed(_) | Self::Combine | Self::HcMerge | Self::FrontierMove { .. } | Self::Route { .. } => 64,
            _ => 256,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Embed(_) => "embed",
            Self::Quantize => "quantize",
            Self::RmsNorm => "rms_norm",
            Self::HcProject { .. } => "hc_project",
            Self::HcFinish { .. } => "hc_finish",
            Self::HcMerge => "hc_merge",
            Self::Product { .. } => "product",
            Self::QueryHeads => "query_heads",
            Self::IndexQuery { .. } => "index_query",
            Self::KvRows { .. } => "kv_rows",
            Self::Compress { .. } => "compress",
            Self::FrontierMove { .. } => "frontier_move",
            Self::RingStore => "ring_store",
            Self::IndexScores { .. } => "index_scores",
            Self::IndexTop { .. } => "index_top",
            Self::Attend => "attend",
            Self::AttendMerge => "attend_merge",
            Self::Route { .. } => "route",
            Self::GroupSlots => "group_slots",
            Self::Swiglu { .. } => "swiglu",
            Self::Combine => "combine",
            Self::Probe => "probe",
        }
    }
}

/// The constants that kernels are specialized by: dimensions of a model and facts of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Neighbouring invocations that exchange values inside a subgroup; 1 without subgroup operations.
    pub span: u32,
    /// Whether cached rows are float32.
    pub exact: bool,
    dims: Vec<(&'static str, u32)>,
    idx_dim: u32,
    head_dim: u32,
    hc: u32,
}

impl Shape {
    /// The constants for a model.
    pub fn new(config: &Config, kv: KvPrecision, span: u32) -> Self {
        let dims = [
            ("N_EMBD", config.n_embd),
            ("HC", config.hc),
            ("N_HEAD", config.n_head),
            ("HEAD_DIM", config.head_dim),
            ("ROPE", config.rope_dim),
            ("NOPE", config.head_dim - config.rope_dim),
            ("IDX_HEADS", config.idx_heads),
            ("TOP_K", config.idx_topk),
            ("N_EXPERT", config.n_expert),
            ("USED", config.n_expert_used),
            ("N_FF", config.n_ff),
            ("ROW_VALUES", config.head_dim.max(config.idx_dim)),
        ];
        Self {
            span,
            exact: kv == KvPrecision::Exact,
            dims: dims.map(|(name, value)| (name, value as u32)).to_vec(),
            idx_dim: config.idx_dim as u32,
            head_dim: config.head_dim as u32,
            hc: config.hc as u32,
        }
    }
}

/// The whole text of a kernel.
pub fn source(kernel: Kernel, shape: &Shape) -> String {
    let mut text = String::new();
    let wg = kernel.workgroup();
    let mut integers = vec![("WG", wg)];
    if shape.span > 1 {
        integers.push(("SPAN", shape.span));
    }
    integers.extend(shape.dims.iter().copied());
    let mut switches = vec![("EXACT", shape.exact)];
    // What goes before the kernel's own text.
    let mut parts: Vec<&str> = Vec::new();
    let lanes = match shape.span {
        1 => include_str!("kernels/lanes.wgsl"),
        _ => include_str!("kernels/lanes_subgroup.wgsl"),
    };
    let block_sum = [lanes, include_str!("kernels/block_sum.wgsl")];
    let kv_row = include_str!("kernels/kv_row.wgsl");
    let formats = include_str!("kernels/formats.wgsl");
    let quantize = include_str!("kernels/quantize_group.wgsl");
    let compressor = |integers: &mut Vec<(&str, u32)>, switches: &mut Vec<(&str, bool)>, ratio: u32, role: Role| {
        integers.push(("RATIO", ratio));
        integers.push(("DIM", if role == Role::Indexer { shape.idx_dim } else { shape.head_dim }));
        switches.push(("OVERLAPPING", ratio == OVERLAPPING));
        switches.push(("INDEX", role == Role::Indexer));
    };
    let outputs = |head: bool| if head { shape.hc } else { (2 + shape.hc) * shape.hc };
    let own = match kernel {
        Kernel::Embed(format) => {
            parts.extend(format.texts());
            include_str!("kernels/embed.wgsl")
        }
        Kernel::Quantize => {
            parts.push(quantize);
            include_str!("kernels/quantize.wgsl")
        }
        Kernel::RmsNorm => {
            parts.extend(block_sum);
            include_str!("kernels/rms_norm.wgsl")
        }
        Kernel::HcProject { head } => {
            parts.push(lanes);
            integers.extend([("OUTPUTS", outputs(head)), ("SLICE", SLICE)]);
            include_str!("kernels/hc_project.wgsl")
        }
        Kernel::HcFinish { head, integers: codes } => {
            parts.extend(block_sum);
            parts.push(quantize);
            integers.extend([("OUTPUTS", outputs(head)), ("SLICE", SLICE)]);
            switches.extend([("HEAD", head), ("INTEGERS", codes)]);
            include_str!("kernels/hc_finish.wgsl")
        }
        Kernel::HcMerge => include_str!("kernels/hc_merge.wgsl"),
        Kernel::Product { format, integers: codes, mode, tile } => {
            parts.push(lanes);
            parts.extend(format.texts());
            let decoded = format.is_block() && !codes;
            let x_rows = if tile && !decoded { TILE_ROWS } else { 1 };
            integers.extend([
                ("DENSE", Mode::Dense as u32),
                ("BY_SLOT", Mode::BySlot as u32),
                ("MODE", mode as u32),
                ("OUT_ROWS", PRODUCT_ROWS / 4),
                ("X_ROWS", x_rows),
                ("STAGED", x_rows),
            ]);
            switches.extend([("INTEGERS", codes), ("DECODED", decoded)]);
            include_str!("kernels/product.wgsl")
        }
        Kernel::QueryHeads => {
            parts.extend(block_sum);
            include_str!("kernels/query_heads.wgsl")
        }
        Kernel::IndexQuery { last } => {
            parts.push(formats);
            integers.push(("DIM", shape.idx_dim));
            switches.push(("FINAL", last));
            include_str!("kernels/index_query.wgsl")
        }
        Kernel::KvRows { last } => {
            parts.extend(block_sum);
            parts.extend([formats, kv_row, include_str!("kernels/kv_encode.wgsl")]);
            parts.push(include_str!("kernels/rotate_row.wgsl"));
            switches.push(("FINAL", last));
            include_str!("kernels/kv_rows.wgsl")
        }
        Kernel::Compress { ratio, role } => {
            compressor(&mut integers, &mut switches, ratio, role);
            parts.extend(block_sum);
            parts.extend([formats, kv_row, include_str!("kernels/kv_encode.wgsl")]);
            parts.extend([include_str!("kernels/rotate_row.wgsl"), include_str!("kernels/frontier.wgsl")]);
            include_str!("kernels/compress.wgsl")
        }
        Kernel::FrontierMove { ratio, role } => {
            compressor(&mut integers, &mut switches, ratio, role);
            parts.push(include_str!("kernels/frontier.wgsl"));
            include_str!("kernels/frontier_move.wgsl")
        }
        Kernel::RingStore => {
            parts.push(kv_row);
            include_str!("kernels/ring_store.wgsl")
        }
        Kernel::IndexScores { ratio } => {
            parts.push(formats);
            integers.extend([("RATIO", ratio), ("DIM", shape.idx_dim)]);
            include_str!("kernels/index_scores.wgsl")
        }
        Kernel::IndexTop { ratio } => {
            integers.push(("RATIO", ratio));
            include_str!("kernels/index_top.wgsl")
        }
        Kernel::Attend => {
            parts.extend([formats, kv_row]);
            include_str!("kernels/attend.wgsl")
        }
        Kernel::AttendMerge => include_str!("kernels/attend_merge.wgsl"),
        Kernel::Route { by_token } => {
            switches.push(("BY_TOKEN", by_token));
            include_str!("kernels/route.wgsl")
        }
        Kernel::GroupSlots => include_str!("kernels/group_slots.wgsl"),
        Kernel::Swiglu { integers: codes } => {
            parts.push(quantize);
            switches.push(("INTEGERS", codes));
            include_str!("kernels/swiglu.wgsl")
        }
        Kernel::Combine => include_str!("kernels/combine.wgsl"),
        Kernel::Probe => include_str!("kernels/probe.wgsl"),
    };
    for (name, value) in integers {
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
    }
    for (name, value) in switches {
        let _ = writeln!(text, "const {name}: bool = {value};");
    }
    let norm = f64::from(shape.idx_dim).powf(-0.5) as f32;
    let _ = writeln!(text, "const HADAMARD_NORM: f32 = {norm:?};");
    for part in parts {
        text.push_str(part);
        text.push('\n');
    }
    text.push_str(own);
    text
}

/// A storage binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub number: u32,
    /// Whether the kernel may write it.
    pub writable: bool,
}

/// The storage bindings that a kernel's text declares, by number. Binding 0 is for parameters.
pub fn bindings(source: &str) -> Vec<Binding> {
    let mut found: Vec<Binding> = source
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.trim().strip_prefix("@group(0) @binding(")?.split_once(')')?;
            let kind = rest.trim().strip_prefix("var<storage, ")?;
            Some(Binding { number: number.parse().ok()?, writable: kind.starts_with("read_write") })
        })
        .collect();
    found.sort_by_key(|binding| binding.number);
    found
}

/// A kernel's name with what it is specialized for, for messages.
pub fn label(kernel: Kernel) -> String {
    match kernel {
        Kernel::Product { format, integers, mode, tile } => {
            let arithmetic = if integers { "int8" } else { "f32" };
            format!("product of {format:?}, {arithmetic}, {mode:?}{}", if tile { ", tiled" } else { "" })
        }
        other => other.name().to_owned(),
    }
}

/// Every kernel that a model of these ratios can need.
pub fn all(ratios: &[u32]) -> Vec<Kernel> {
    let mut kernels = vec![
        Kernel::Quantize,
        Kernel::RmsNorm,
        Kernel::HcMerge,
        Kernel::QueryHeads,
        Kernel::RingStore,
        Kernel::Attend,
        Kernel::AttendMerge,
        Kernel::GroupSlots,
        Kernel::Combine,
    ];
    for flag in [false, true] {
        kernels.extend([
            Kernel::HcProject { head: flag },
            Kernel::HcFinish { head: flag, integers: false },
            Kernel::HcFinish { head: flag, integers: true },
            Kernel::IndexQuery { last: flag },
            Kernel::KvRows { last: flag },
            Kernel::Route { by_token: flag },
            Kernel::Swiglu { integers: flag },
        ]);
    }
    for &ratio in ratios.iter().filter(|&&ratio| ratio != 0) {
        for role in [Role::Attention, Role::Indexer] {
            kernels.extend([Kernel::Compress { ratio, role }, Kernel::FrontierMove { ratio, role }]);
        }
        kernels.extend([Kernel::IndexScores { ratio }, Kernel::IndexTop { ratio }]);
    }
    for format in Format::ALL {
        kernels.push(Kernel::Embed(format));
        for integers in [false, true] {
            for mode in [Mode::Dense, Mode::BySlot, Mode::Grouped] {
                for tile in [false, true] {
                    if format.is_block() || !integers {
                        kernels.push(Kernel::Product { format, integers, mode, tile });
                    }
                }
            }
        }
    }
    kernels
}
