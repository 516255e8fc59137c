//! The buffers that one operation leaves for the next.

use ds4_model::Config;

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::recorder::View;
use crate::shader::{CHUNK, SLICE, TILE_ROWS};

/// Rows of activations: float32, and the int8 form that products with block formats take.
#[derive(Clone)]
pub(super) struct Activations {
    pub float: View,
    pub codes: View,
    pub scales: View,
    /// Values of a row.
    pub cols: usize,
    /// Whether the int8 form is that of the values.
    pub quantized: bool,
}

impl Activations {
    fn new(gpu: &Gpu, label: &str, rows: usize, cols: usize) -> Result<Self, WgpuError> {
        Self::around(gpu, label, values(gpu, label, rows * cols)?, rows, cols)
    }

    /// Activations whose values lie in `float`.
    fn around(gpu: &Gpu, label: &str, float: View, rows: usize, cols: usize) -> Result<Self, WgpuError> {
        let padded = cols.next_multiple_of(32);
        Ok(Self {
            float,
            codes: values(gpu, label, rows * padded / 4)?,
            scales: values(gpu, label, rows * padded / 32)?,
            cols,
            quantized: false,
        })
    }
}

/// Buffers for a number of rows.
pub(super) struct Workspace {
    /// Rows that there is room for.
    pub rows: usize,
    pub streams: View,
    pub input: Activations,
    /// Post weights, mixing weights, and the sums that they come from, [rows, `merge_step`].
    pub merge: View,
    pub latent: Activations,
    pub query: View,
    pub kv: View,
    pub kv_stored: View,
    pub compressor_kv: View,
    pub compressor_gate: View,
    pub indexer_kv: View,
    pub indexer_gate: View,
    pub indexer_weights: View,
    pub indexer_query: View,
    pub indexer_codes: View,
    pub indexer_scales: View,
    pub attended: Activations,
    pub low: Activations,
    pub output: View,
    pub router: View,
    pub ids: View,
    pub weights: View,
    /// Partial sums of the hyper-connections' projection.
    pub partial: View,
    pub row_info: View,
    pub angles: View,
    /// Number of chosen compressed rows and their numbers, [rows, 1 + top-k].
    pub selection: View,
    /// Rows whose experts run together.
    pub expert_rows: usize,
    pub groups: View,
    /// Where the list of slots begins in `groups`.
    pub group_list: usize,
    pub gate: View,
    pub up: View,
    pub mid: Activations,
    pub parts: View,
}

/// Bytes of one of the experts' buffers at most; more rows take turns.
const EXPERT_BYTES: usize = 128 << 20;

impl Workspace {
    pub fn new(gpu: &Gpu, config: &Config, kinds: usize, kv_row: usize, rows: usize) -> Result<Self, WgpuError> {
        let value = |label: &str, per_row: usize| values(gpu, label, rows * per_row);
        let slots = config.n_expert_used + 1;
        let widest = config.n_embd.max(config.n_ff);
        let most = EXPERT_BYTES.min(gpu.max_binding as usize);
        let expert_rows = (most / (slots * widest * 4)).clamp(1, rows);
        let tiles = config.n_expert + (expert_rows * config.n_expert_used).div_ceil(TILE_ROWS as usize);
        let group_list = 4 + 4 * tiles;
        let expert = |label: &str, per_slot: usize| values(gpu, label, expert_rows * slots * per_slot);
        let streams = config.hc * config.n_embd;
        let feature = 2 * config.head_dim;
        let index = 2 * config.idx_dim;
        let widths = [config.q_rank, config.head_dim, feature, feature, index, index, config.idx_heads, kv_row];
        let projected = together(gpu, "attention projections", &widths.map(|width| rows * width))?;
        let [latent, kv, compressor_kv, compressor_gate, indexer_kv, indexer_gate, indexer_weights, kv_stored] =
            projected;
        // One kernel writes both, if no card is in the way.
        let counts = [rows * config.n_head * config.head_dim, rows * config.idx_heads * config.idx_dim];
        let [query, indexer_query] = match (counts[0] + counts[1]) as u64 * 4 + 1024 <= gpu.max_binding {
            true => together(gpu, "queries", &counts)?,
            false => [values(gpu, "queries", counts[0])?, values(gpu, "indexer queries", counts[1])?],
        };
        let counts = [4, 32].map(|each| rows * config.idx_heads * config.idx_dim / each);
        let [indexer_codes, indexer_scales] = together(gpu, "indexer codes", &counts)?;
        let [ids, weights] = together(gpu, "experts", &[rows * config.n_expert_used; 2])?;
        Ok(Self {
            rows,
            streams: value("streams", streams)?,
            input: Activations::new(gpu, "input", rows, config.n_embd)?,
            merge: value("stream weights", merge_step(config.hc))?,
            latent: Activations::around(gpu, "query latent", latent, rows, config.q_rank)?,
            query,
            kv,
            kv_stored,
            compressor_kv,
            compressor_gate,
            indexer_kv,
            indexer_gate,
            indexer_weights,
            indexer_query,
            indexer_codes,
            indexer_scales,
            attended: Activations::new(gpu, "attention results", rows, config.n_head * config.head_dim)?,
            low: Activations::new(gpu, "attention output", rows, config.o_groups * config.o_rank)?,
            output: value("sublayer output", config.n_embd)?,
            router: value("router scores", config.n_expert)?,
            ids,
            weights,
            partial: value("partial sums", partial_sums(config))?,
            row_info: value("rows", 4)?,
            angles: value("angles", kinds * config.rope_dim)?,
            selection: value("selection", 1 + config.idx_topk)?,
            expert_rows,
            groups: values(gpu, "groups", group_list + expert_rows * config.n_expert_used)?,
            group_list,
            gate: expert("gate", config.n_ff)?,
            up: expert("up", config.n_ff)?,
            mid: Activations::new(gpu, "inner values", expert_rows * slots, config.n_ff)?,
            parts: expert("expert results", config.n_embd)?,
        })
    }

    /// Where the scales of the indexer's codes begin among them, in words.
    pub fn indexer_scales_at(&self) -> u32 {
        ((self.indexer_scales.offset - self.indexer_codes.offset) / 4) as u32
    }

    /// The buffer of all projections of the attention input and of the stored KV rows; their views say where in it each is.
    pub fn projected(&self) -> View {
        View::all(self.kv.buffer.clone())
    }
}

/// Values of a row of merging weights.
pub(super) fn merge_step(hc: usize) -> usize {
    hc + hc * hc + (2 + hc) * hc + 1
}

/// Partial sums of a row.
fn partial_sums(config: &Config) -> usize {
    config.n_embd.div_ceil(SLICE as usize) * ((2 + config.hc) * config.hc + 1)
}

/// Parts of one buffer with room for these numbers of values, so that one kernel can reach them all.
fn together<const N: usize>(gpu: &Gpu, label: &str, counts: &[usize; N]) -> Result<[View; N], WgpuError> {
    let step = gpu.alignment.max(256);
    let size = |count: usize| (count as u64 * 4).max(16).next_multiple_of(step);
    let buffer = gpu.storage(label, counts.iter().map(|&count| size(count)).sum())?;
    let mut offset = 0;
    Ok(counts.map(|count| {
        let view = View { buffer: buffer.clone(), offset, size: size(count) };
        offset += size(count);
        view
    }))
}

/// Buffers of the head.
pub(super) struct HeadSpace {
    /// Wanted rows that there is room for.
    pub rows: usize,
    pub wanted: View,
    /// What `wanted` has.
    pub sent: Vec<u32>,
    pub input: Activations,
    pub partial: View,
    pub logits: View,
}

impl HeadSpace {
    pub fn new(gpu: &Gpu, config: &Config, rows: usize) -> Result<Self, WgpuError> {
        Ok(Self {
            rows,
            wanted: values(gpu, "wanted rows", rows)?,
            sent: Vec::new(),
            input: Activations::new(gpu, "head input", rows, config.n_embd)?,
            partial: values(gpu, "partial sums", rows * partial_sums(config))?,
            logits: values(gpu, "logits", rows * config.n_vocab)?,
        })
    }
}

/// Buffers whose size follows from the context's length: made anew when they are too small.
pub(super) struct Scratch {
    /// Indexer scores.
    pub scores: View,
    /// Attention of chunks of keys.
    pub parts: View,
    /// Sequences of the batch and their pages.
    pub tables: View,
}

impl Scratch {
    pub fn new(gpu: &Gpu) -> Result<Self, WgpuError> {
        Ok(Self {
            scores: values(gpu, "indexer scores", 4)?,
            parts: values(gpu, "attention parts", 4)?,
            tables: values(gpu, "tables", 4)?,
        })
    }
}

/// Floats of a chunk's result for one head.
pub(super) fn part_floats(config: &Config) -> usize {
    config.head_dim + 4
}

/// Most chunks of keys that a row has which sees `window` and `compressed` rows.
pub(super) fn chunks(window: usize, compressed: usize) -> usize {
    (window + compressed).div_ceil(CHUNK)
}

/// A buffer of `count` values of four bytes.
pub(super) fn values(gpu: &Gpu, label: &str, count: usize) -> Result<View, WgpuError> {
    Ok(View::all(gpu.storage(label, count as u64 * 4)?))
}

/// Makes `view` large enough, twice as large where there is a choice; true if it was replaced.
pub(super) fn ensure(gpu: &Gpu, view: &mut View, label: &str, count: usize) -> Result<bool, WgpuError> {
    let bytes = count as u64 * 4;
    if view.size >= bytes {
        return Ok(false);
    }
    *view = View::all(gpu.storage(label, bytes.next_power_of_two().min(gpu.max_binding).max(bytes))?);
    Ok(true)
}
