//! The kernels' text: WGSL files put together and specialized by constants before the text.
//!
//! WGSL has no templates; constants in front of the text are what they would be for: dimensions of the model, the storage type of
//! the weights, sizes of tiles. The same composition is translated to MSL and SPIR-V in the tests.

use std::fmt::Write as _;

use ds4_model::{Config, KvPrecision};

mod format;
mod kernel;

pub use format::Format;
pub(crate) use format::differ;
use format::{floats_text, weights_text};
use kernel::OVERLAPPING;
pub use kernel::*;

/// The constants that kernels are specialized by: dimensions of a model and facts of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Neighbouring invocations that exchange values inside a subgroup; 1 without subgroup operations.
    pub span: u32,
    /// Whether cached rows are float32.
    pub exact: bool,
    /// Whether block formats lie in planes (see `planes.rs`), not as in the file.
    pub planes: bool,
    /// Whether float16 becomes float32 exactly, its smallest numbers included.
    pub halves: bool,
    /// Invocations that a workgroup may have: 256 or more.
    pub invocations: u32,
    dims: Vec<(&'static str, u32)>,
    n_embd: u32,
    idx_dim: u32,
    head_dim: u32,
    hc: u32,
}

impl Shape {
    /// The constants for a model.
    pub fn new(config: &Config, kv: KvPrecision, span: u32, planes: bool) -> Self {
        let hc = config.hc;
        let dims = [
            // Post weights, mixing weights, and the sums that they come from.
            ("MERGE_STEP", hc + hc * hc + (2 + hc) * hc + 1),
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
            planes,
            halves: true,
            invocations: 256,
            n_embd: config.n_embd as u32,
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
    let wg = match kernel {
        // One workgroup of a row does all: with a vector for each invocation, if the card allows.
        Kernel::HcFinish { .. } => (shape.n_embd / 4).next_power_of_two().clamp(64, shape.invocations),
        _ => kernel.workgroup(),
    };
    let mut integers = vec![("WG", wg)];
    if shape.span > 1 {
        integers.push(("SPAN", shape.span));
    }
    integers.extend(shape.dims.iter().copied());
    let mut switches = vec![("EXACT", shape.exact)];
    // What goes before the kernel's own text.
    let mut parts: Vec<&str> = Vec::new();
    let weights;
    let lanes = match shape.span {
        1 => include_str!("../kernels/lanes.wgsl"),
        _ => include_str!("../kernels/lanes_subgroup.wgsl"),
    };
    let block_sum = [lanes, include_str!("../kernels/block_sum.wgsl")];
    let kv_row = include_str!("../kernels/kv_row.wgsl");
    let formats = include_str!("../kernels/formats.wgsl");
    let frontier = include_str!("../kernels/frontier.wgsl");
    let spans = include_str!("../kernels/spans.wgsl");
    let merge_weights = include_str!("../kernels/merge_weights.wgsl");
    let halves = match shape.halves {
        true => include_str!("../kernels/halves.wgsl"),
        false => include_str!("../kernels/halves_integers.wgsl"),
    };
    let eight = match shape.span {
        8.. => include_str!("../kernels/eight_subgroup.wgsl"),
        _ => include_str!("../kernels/eight.wgsl"),
    };
    let quantize = include_str!("../kernels/quantize_group.wgsl");
    let bytes = include_str!("../kernels/bytes.wgsl");
    let compressor = |integers: &mut Vec<(&str, u32)>, switches: &mut Vec<(&str, bool)>, ratio: u32, role: Role| {
        integers.push(("RATIO", ratio));
        integers.push(("DIM", if role == Role::Indexer { shape.idx_dim } else { shape.head_dim }));
        switches.push(("OVERLAPPING", ratio == OVERLAPPING));
        switches.push(("INDEX", role == Role::Indexer));
    };
    let quads = [quantize, eight, include_str!("../kernels/quantize_quads.wgsl")];
    let encode = include_str!("../kernels/kv_encode.wgsl");
    let kv_parts = [formats, halves, kv_row, encode, include_str!("../kernels/rotate_row.wgsl")];
    let outputs = |head: bool| if head { shape.hc } else { (2 + shape.hc) * shape.hc };
    let own = match kernel {
        Kernel::Embed(format) => {
            weights = weights_text(format, None, shape.planes);
            parts.push(&weights);
            include_str!("../kernels/embed.wgsl")
        }
        Kernel::Quantize => {
            parts.push(quantize);
            include_str!("../kernels/quantize.wgsl")
        }
        Kernel::HcProject { head, merge } => {
            parts.push(lanes);
            switches.push(("MERGE", merge));
            integers.extend([("OUTPUTS", outputs(head)), ("SLICE", SLICE)]);
            include_str!("../kernels/hc_project.wgsl")
        }
        Kernel::HcFinish { head, integers: codes } => {
            parts.extend(block_sum);
            parts.extend(quads);
            integers.extend([("OUTPUTS", outputs(head)), ("SLICE", SLICE)]);
            switches.extend([("HEAD", head), ("INTEGERS", codes)]);
            include_str!("../kernels/hc_finish.wgsl")
        }
        Kernel::HcMerge => include_str!("../kernels/hc_merge.wgsl"),
        Kernel::HcWeights => {
            parts.push(merge_weights);
            include_str!("../kernels/hc_weights.wgsl")
        }
        Kernel::Product { format, integers: codes, mode, tile, rows } => {
            parts.push(lanes);
            weights = weights_text(format, None, shape.planes);
            parts.push(&weights);
            let decoded = format.is_block() && !codes;
            let x_rows = if tile && !decoded { TILE_ROWS } else { 1 };
            integers.extend([
                ("DENSE", Mode::Dense as u32),
                ("BY_SLOT", Mode::BySlot as u32),
                ("MODE", mode as u32),
                ("OUT_ROWS", rows / 4),
                ("X_ROWS", x_rows),
                ("STAGED", x_rows),
            ]);
            switches.extend([("INTEGERS", codes), ("DECODED", decoded)]);
            include_str!("../kernels/product.wgsl")
        }
        Kernel::Gemv { format, floats, integers: codes, each, x_rows, quantized } => {
            weights = weights_text(format, None, shape.planes)
                + &floats.map_or_else(String::new, |f| floats_text(f, shape.planes));
            parts.extend([lanes, &weights]);
            parts.push(match floats {
                None => include_str!("../kernels/gemv_no_floats.wgsl"),
                Some(_) => include_str!("../kernels/gemv_floats.wgsl"),
            });
            match quantized {
                false => parts.push(include_str!("../kernels/gemv_values.wgsl")),
                true => {
                    parts.extend(quads);
                    parts.push(include_str!("../kernels/gemv_codes.wgsl"));
                }
            }
            integers.extend([("EACH", each), ("X_ROWS", x_rows)]);
            switches.extend([("INTEGERS", codes), ("FLOATS", floats.is_some())]);
            include_str!("../kernels/gemv.wgsl")
        }
        Kernel::ExpertsIn { routed, shared } => {
            weights = weights_text(routed, Some(shared), shape.planes);
            parts.extend([lanes, &weights]);
            parts.extend(quads);
            include_str!("../kernels/experts_in.wgsl")
        }
        Kernel::ExpertsOut { routed, shared } => {
            weights = weights_text(routed, Some(shared), shape.planes);
            parts.extend([lanes, &weights]);
            include_str!("../kernels/experts_out.wgsl")
        }
        Kernel::Latents { integers: codes } => {
            parts.extend(block_sum);
            parts.extend(kv_parts);
            parts.push(include_str!("../kernels/kv_store.wgsl"));
            parts.extend(quads);
            parts.push(merge_weights);
            switches.push(("INTEGERS", codes));
            include_str!("../kernels/latents.wgsl")
        }
        Kernel::Queries { store } => {
            parts.extend(block_sum);
            parts.extend([formats, include_str!("../kernels/index_query_head.wgsl"), kv_row, frontier]);
            parts.push(include_str!("../kernels/move_frontier.wgsl"));
            let ratio = store.unwrap_or(0);
            // Without compression there are only rings.
            integers.extend([("DIM", shape.idx_dim), ("RATIO", ratio.max(1))]);
            switches.extend([("STORE", store.is_some()), ("OVERLAPPING", ratio == OVERLAPPING)]);
            include_str!("../kernels/queries.wgsl")
        }
        Kernel::IndexQuery => {
            parts.extend([formats, include_str!("../kernels/index_query_head.wgsl")]);
            integers.push(("DIM", shape.idx_dim));
            include_str!("../kernels/index_query.wgsl")
        }
        Kernel::KvRows { last } => {
            parts.extend(block_sum);
            parts.extend(kv_parts);
            parts.push(include_str!("../kernels/kv_store.wgsl"));
            switches.push(("FINAL", last));
            include_str!("../kernels/kv_rows.wgsl")
        }
        Kernel::Compress { ratio, role } => {
            compressor(&mut integers, &mut switches, ratio, role);
            parts.extend(block_sum);
            parts.extend(kv_parts);
            parts.extend([frontier, spans]);
            include_str!("../kernels/compress.wgsl")
        }
        Kernel::StateStore { ratio } => {
            parts.extend([kv_row, frontier, spans, include_str!("../kernels/move_frontier.wgsl")]);
            // Without compression there are only rings.
            integers.push(("RATIO", ratio.max(1)));
            switches.push(("OVERLAPPING", ratio == OVERLAPPING));
            include_str!("../kernels/state_store.wgsl")
        }
        Kernel::IndexScores { ratio } => {
            parts.push(bytes);
            integers.extend([("RATIO", ratio), ("DIM", shape.idx_dim)]);
            include_str!("../kernels/index_scores.wgsl")
        }
        Kernel::IndexTop { ratio } => {
            integers.push(("RATIO", ratio));
            include_str!("../kernels/index_top.wgsl")
        }
        Kernel::Attend => {
            parts.extend([halves, kv_row]);
            include_str!("../kernels/attend.wgsl")
        }
        Kernel::AttendMerge { integers: codes } => {
            parts.extend(quads);
            switches.push(("INTEGERS", codes));
            include_str!("../kernels/attend_merge.wgsl")
        }
        Kernel::Route { by_token } => {
            parts.push(merge_weights);
            switches.push(("BY_TOKEN", by_token));
            include_str!("../kernels/route.wgsl")
        }
        Kernel::GroupSlots => include_str!("../kernels/group_slots.wgsl"),
        Kernel::Swiglu { integers: codes } => {
            parts.push(quantize);
            switches.push(("INTEGERS", codes));
            include_str!("../kernels/swiglu.wgsl")
        }
        Kernel::Combine => include_str!("../kernels/combine.wgsl"),
        Kernel::Read => include_str!("../kernels/read.wgsl"),
        Kernel::Probe => {
            parts.push(lanes);
            include_str!("../kernels/probe.wgsl")
        }
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
