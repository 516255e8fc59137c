//! Where everything lies in the state of a sequence, computed once from the model's shape.

use twox_hash::XxHash3_64;

use crate::config::Config;
use crate::numerics::KvPrecision;
use crate::state::{IndexRowFormat, KvRowFormat};

/// The layout of a sequence's state for one model and cache precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// Format of raw and compressed KV rows.
    pub kv_row: KvRowFormat,
    /// Format of indexer rows.
    pub index_row: IndexRowFormat,
    /// Rows in each layer's window ring.
    pub window: usize,
    /// Tokens that one page spans: a multiple of every compression ratio, so that no window crosses a page.
    pub page_tokens: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Bytes of all window rings.
    pub ring_bytes: usize,
    /// Number of float32 values in all compressor frontiers.
    pub frontier_len: usize,
    pub(super) layers: Vec<LayerLayout>,
}

/// One layer's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerLayout {
    pub ratio: usize,
    /// Byte offset of the layer's ring among the rings.
    pub ring: usize,
    /// Byte offset of its compressed rows in a page.
    pub page_kv: usize,
    /// Byte offset of its indexer rows in a page.
    pub page_index: usize,
    /// Offset and length of its compressor frontier among the frontiers.
    pub frontier: (usize, usize),
    /// The same for the indexer's compressor.
    pub index_frontier: (usize, usize),
}

impl StateLayout {
    /// The layout for `config` at a cache precision.
    pub fn new(config: &Config, precision: KvPrecision) -> Self {
        let (dim, rope) = (config.head_dim, config.rope_dim);
        let (kv_row, index_row) = match precision {
            KvPrecision::Exact => (KvRowFormat::Exact { dim }, IndexRowFormat::Exact { dim: config.idx_dim }),
            KvPrecision::Model => {
                (KvRowFormat::Packed { nope: dim - rope, rope }, IndexRowFormat::Packed { dim: config.idx_dim })
            }
        };
        let page_tokens = config.page_tokens();
        let (mut ring_bytes, mut page_bytes, mut frontier_len) = (0, 0, 0);
        let mut layers = Vec::with_capacity(config.n_layer);
        for &ratio in &config.ratios {
            let rows = page_tokens.checked_div(ratio).unwrap_or(0);
            let index_rows = if config.has_indexer(ratio) { rows } else { 0 };
            let frontier = if ratio == 0 { 0 } else { frontier_len_of(config, ratio, dim) };
            let index_frontier = if index_rows == 0 { 0 } else { frontier_len_of(config, ratio, config.idx_dim) };
            layers.push(LayerLayout {
                ratio,
                ring: ring_bytes,
                page_kv: page_bytes,
                page_index: page_bytes + rows * kv_row.bytes(),
                frontier: (frontier_len, frontier),
                index_frontier: (frontier_len + frontier, index_frontier),
            });
            ring_bytes += config.window * kv_row.bytes();
            page_bytes += rows * kv_row.bytes() + index_rows * index_row.bytes();
            frontier_len += frontier + index_frontier;
        }
        Self { kv_row, index_row, window: config.window, page_tokens, page_bytes, ring_bytes, frontier_len, layers }
    }

    /// Bytes of a sequence's state at `tokens` tokens: pages, rings and frontiers.
    pub fn sequence_bytes(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens) * self.page_bytes + self.ring_bytes + self.frontier_len * 4
    }

    /// The longest sequence whose state takes at most `bytes`, in tokens; 0 if none does.
    pub fn tokens_within(&self, bytes: usize) -> usize {
        let fixed = self.ring_bytes + self.frontier_len * 4;
        let Some(for_pages) = bytes.checked_sub(fixed) else { return 0 };
        match for_pages.checked_div(self.page_bytes) {
            Some(pages) => pages.saturating_mul(self.page_tokens),
            None => usize::MAX,
        }
    }

    /// Bytes that one more token of context costs, on average.
    pub fn bytes_per_token(&self) -> f64 {
        self.page_bytes as f64 / self.page_tokens as f64
    }

    /// A number that tells layouts apart whose bytes would be read differently.
    pub fn fingerprint(&self) -> u64 {
        let mut words = vec![self.kv_row.bytes(), self.kv_row.dim(), self.index_row.bytes(), self.index_row.dim()];
        words.extend([self.window, self.page_tokens]);
        words.extend(self.layers.iter().map(|layer| layer.ratio));
        let bytes: Vec<u8> = words.iter().flat_map(|&word| (word as u64).to_le_bytes()).collect();
        XxHash3_64::oneshot(&bytes)
    }

    /// Number of pages that a sequence of `tokens` tokens has rows in.
    pub(super) fn pages_for(&self, tokens: usize) -> usize {
        let smallest = self.layers.iter().map(|l| l.ratio).filter(|&r| r > 0).min();
        smallest.map_or(0, |ratio| (tokens / ratio * ratio).div_ceil(self.page_tokens))
    }
}

/// An overlapping compressor keeps the open window and the first half of the one before; the other kind a running
/// softmax: maximum, sum of weights, weighted sum for each channel.
fn frontier_len_of(config: &Config, ratio: usize, dim: usize) -> usize {
    if config.overlaps(ratio) { 6 * ratio * dim } else { 3 * dim }
}
