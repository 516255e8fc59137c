//! The state of a sequence: what decoding needs of everything that was read so far.
//!
//! - **Window rings**: the last raw KV rows of each layer, position `p` in slot `p mod window`.
//! - **Frontiers**: the compressors' unfinished windows, in float32.
//! - **Pages**: compressed rows and indexer rows of all layers for one span of tokens. Pages are shared between
//!   sequences by reference count; only the last one, still growing, is ever written, and it is copied first if
//!   another sequence holds it too.
//!
//! Cloning a sequence is a snapshot: it copies rings and frontiers (a few MB at full size) and shares the pages.
//! The bytes of a state depend on the tokens alone, not on how they were cut into batches.

mod layout;
mod page;
mod parts;
mod row_format;
mod serial;

use std::sync::Arc;

use crate::conformance::relative_rms;
use page::Page;

pub use layout::StateLayout;
pub use parts::StateParts;
pub use row_format::{IndexRowFormat, KvRowFormat};

/// What the forward pass needs to know of any backend's sequence.
pub trait SequenceState {
    /// Number of tokens computed.
    fn len(&self) -> usize;

    /// Whether no token was computed yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts `tokens` more as computed; the operations have written their rows.
    fn advance(&mut self, tokens: usize);

    /// A second sequence with the same state: pages shared, the rest copied.
    fn fork(&self) -> Self;

    /// Bytes that belong to this sequence alone: everything but pages. A state that cannot say counts as nothing.
    fn own_bytes(&self) -> usize {
        0
    }

    /// Number of pages that it holds, the one that has begun included.
    fn page_count(&self) -> usize {
        0
    }

    /// Page number `index`, for counting pages that are shared once. `None` behind the last.
    fn page_use(&self, index: usize) -> Option<PageUse> {
        let _ = index;
        None
    }

    /// Takes the first `pages` pages, which are full, from `other`, which has computed the same tokens there: equal
    /// bytes, which then lie in memory once.
    fn share_pages(&mut self, other: &Self, pages: usize) {
        let _ = (other, pages);
    }
}

/// A page that a sequence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageUse {
    /// Equal for two sequences if and only if they share the page, for as long as one of them holds it.
    pub id: usize,
    /// Its size in bytes.
    pub bytes: usize,
}

/// A sequence's state in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    layout: Arc<StateLayout>,
    len: usize,
    rings: Vec<u8>,
    frontiers: Vec<f32>,
    pages: Vec<Page>,
}

impl SequenceState for Sequence {
    fn len(&self) -> usize {
        self.len
    }

    fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn fork(&self) -> Self {
        self.clone()
    }

    fn own_bytes(&self) -> usize {
        self.rings.len() + self.frontiers.len() * 4
    }

    fn page_count(&self) -> usize {
        self.pages.len()
    }

    fn page_use(&self, index: usize) -> Option<PageUse> {
        self.pages.get(index).map(|page| PageUse { id: page.as_ptr().addr(), bytes: page.len() })
    }

    fn share_pages(&mut self, other: &Self, pages: usize) {
        let full = (self.len.min(other.len) / self.layout.page_tokens).min(pages);
        for (mine, theirs) in self.pages.iter_mut().zip(&other.pages).take(full) {
            debug_assert!(mine == theirs, "pages of the same tokens are equal");
            *mine = theirs.clone();
        }
    }
}

impl Sequence {
    /// An empty sequence.
    pub fn new(layout: Arc<StateLayout>) -> Self {
        let mut sequence = Self {
            len: 0,
            rings: vec![0; layout.ring_bytes],
            frontiers: vec![0.0; layout.frontier_len],
            pages: Vec::new(),
            layout,
        };
        for layer in 0..sequence.layout.layers.len() {
            for which in [Compressor::Attention, Compressor::Indexer] {
                let ratio = sequence.layout.layers[layer].ratio;
                let frontier = sequence.frontier_mut(layer, which);
                Frontier::of(frontier, ratio).reset();
            }
        }
        sequence
    }

    /// Its layout.
    pub fn layout(&self) -> &Arc<StateLayout> {
        &self.layout
    }

    /// The stored raw row of `position`, which is among the last `window` ones.
    pub fn window_row(&self, layer: usize, position: usize) -> &[u8] {
        let start = self.window_slot(layer, position);
        &self.rings[start..start + self.layout.kv_row.bytes()]
    }

    /// The slot for the raw row of `position`; it overwrites the row `window` positions before.
    pub fn window_row_mut(&mut self, layer: usize, position: usize) -> &mut [u8] {
        let start = self.window_slot(layer, position);
        &mut self.rings[start..start + self.layout.kv_row.bytes()]
    }

    fn window_slot(&self, layer: usize, position: usize) -> usize {
        self.layout.layers[layer].ring + position % self.layout.window * self.layout.kv_row.bytes()
    }

    /// Compressed row number `row` of a layer.
    pub fn compressed_row(&self, layer: usize, row: usize) -> &[u8] {
        let (page, start) = self.row_place(layer, row, Compressor::Attention);
        &self.pages[page][start..start + self.layout.kv_row.bytes()]
    }

    /// Indexer row number `row` of a layer.
    pub fn index_row(&self, layer: usize, row: usize) -> &[u8] {
        let (page, start) = self.row_place(layer, row, Compressor::Indexer);
        &self.pages[page][start..start + self.layout.index_row.bytes()]
    }

    /// Room for compressed row number `row` of a layer; its page is made, or copied if shared.
    pub fn compressed_row_mut(&mut self, layer: usize, row: usize) -> &mut [u8] {
        let bytes = self.layout.kv_row.bytes();
        let (page, start) = self.row_place(layer, row, Compressor::Attention);
        &mut self.page_mut(page)[start..start + bytes]
    }

    /// Room for indexer row number `row` of a layer; its page is made, or copied if shared.
    pub fn index_row_mut(&mut self, layer: usize, row: usize) -> &mut [u8] {
        let bytes = self.layout.index_row.bytes();
        let (page, start) = self.row_place(layer, row, Compressor::Indexer);
        &mut self.page_mut(page)[start..start + bytes]
    }

    /// Page number and byte offset of a row.
    fn row_place(&self, layer: usize, row: usize, which: Compressor) -> (usize, usize) {
        let part = &self.layout.layers[layer];
        let rows_per_page = self.layout.page_tokens / part.ratio;
        let (base, bytes) = match which {
            Compressor::Attention => (part.page_kv, self.layout.kv_row.bytes()),
            Compressor::Indexer => (part.page_index, self.layout.index_row.bytes()),
        };
        (row / rows_per_page, base + row % rows_per_page * bytes)
    }

    fn page_mut(&mut self, page: usize) -> &mut [u8] {
        while self.pages.len() <= page {
            self.pages.push(Page::new(self.layout.page_bytes));
        }
        self.pages[page].make_mut()
    }

    /// A compressor's frontier, as it lies in memory; empty where the layer has no such compressor.
    pub fn frontier(&self, layer: usize, which: Compressor) -> &[f32] {
        let (start, len) = self.frontier_place(layer, which);
        &self.frontiers[start..start + len]
    }

    /// A compressor's frontier for writing.
    pub fn frontier_mut(&mut self, layer: usize, which: Compressor) -> &mut [f32] {
        let (start, len) = self.frontier_place(layer, which);
        &mut self.frontiers[start..start + len]
    }

    fn frontier_place(&self, layer: usize, which: Compressor) -> (usize, usize) {
        let part = &self.layout.layers[layer];
        match which {
            Compressor::Attention => part.frontier,
            Compressor::Indexer => part.index_frontier,
        }
    }

    /// Per layer, how far this state's values are from another's of the same length: root mean square of the
    /// differences over that of the other's values, the worst of window rows, compressed rows, indexer rows and
    /// frontiers. Infinite where the states cannot be compared.
    pub fn difference_by_layer(&self, other: &Sequence) -> Vec<f64> {
        let layout = &self.layout;
        if self.layout != other.layout || self.len != other.len || self.pages.len() != other.pages.len() {
            return vec![f64::INFINITY; layout.layers.len()];
        }
        let mut row = vec![0.0; layout.kv_row.dim().max(layout.index_row.dim())];
        let mut worst = Vec::new();
        for (layer, part) in layout.layers.iter().enumerate() {
            let mut values = [const { Vec::new() }; 2];
            let mut index_values = [const { Vec::new() }; 2];
            let compressed = self.pages.len() * layout.page_tokens.checked_div(part.ratio).unwrap_or(0);
            for (i, sequence) in [self, other].into_iter().enumerate() {
                let window = (0..layout.window).map(|slot| sequence.window_row(layer, slot));
                let rows = (0..compressed).map(|r| sequence.compressed_row(layer, r));
                for bytes in window.chain(rows) {
                    layout.kv_row.decode(bytes, &mut row[..layout.kv_row.dim()]);
                    values[i].extend_from_slice(&row[..layout.kv_row.dim()]);
                }
                if part.index_frontier.1 > 0 {
                    for r in 0..compressed {
                        layout.index_row.decode(sequence.index_row(layer, r), &mut row[..layout.index_row.dim()]);
                        index_values[i].extend_from_slice(&row[..layout.index_row.dim()]);
                    }
                }
            }
            let frontier = |which| relative_rms(self.frontier(layer, which), other.frontier(layer, which));
            let errors = [
                relative_rms(&values[0], &values[1]),
                relative_rms(&index_values[0], &index_values[1]),
                frontier(Compressor::Attention),
                frontier(Compressor::Indexer),
            ];
            worst.push(errors.into_iter().fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) }));
        }
        worst
    }

    /// Bytes of host memory that the state takes, shared pages counted in full.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.layout.page_bytes + self.rings.len() + self.frontiers.len() * 4
    }
}

/// Which of a layer's compressors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    /// The one whose rows are attended.
    Attention,
    /// The indexer's.
    Indexer,
}

/// A compressor's frontier, taken apart. `width` is the row width D.
#[derive(Debug, PartialEq)]
pub enum Frontier<'a> {
    /// Ratio 4: windows overlap. Features are 2·D wide; a row takes the first half of the previous window's and the
    /// second half of its own.
    Overlapping {
        /// Values of the open window, [ratio, 2·width].
        kv: &'a mut [f32],
        /// Gates of the open window with the position bias, [ratio, 2·width]; -∞ where not reached.
        gate: &'a mut [f32],
        /// First half of the previous window's values, [ratio, width].
        previous_kv: &'a mut [f32],
        /// First half of its gates, [ratio, width]; -∞ before the first window closed.
        previous_gate: &'a mut [f32],
    },
    /// Other ratios: a running softmax over the open window, per channel.
    Running {
        /// Largest gate so far, [width].
        max: &'a mut [f32],
        /// Sum of the weights relative to it, [width].
        sum: &'a mut [f32],
        /// Weighted sum of the values, [width].
        weighted: &'a mut [f32],
    },
}

/// The ratio whose windows overlap.
pub const OVERLAPPING_RATIO: usize = 4;

impl<'a> Frontier<'a> {
    /// Takes a frontier's memory apart.
    pub fn of(memory: &'a mut [f32], ratio: usize) -> Self {
        if ratio == OVERLAPPING_RATIO {
            let third = memory.len() / 3;
            let (kv, rest) = memory.split_at_mut(third);
            let (gate, rest) = rest.split_at_mut(third);
            let (previous_kv, previous_gate) = rest.split_at_mut(third / 2);
            Self::Overlapping { kv, gate, previous_kv, previous_gate }
        } else {
            let (max, rest) = memory.split_at_mut(memory.len() / 3);
            let (sum, weighted) = rest.split_at_mut(rest.len() / 2);
            Self::Running { max, sum, weighted }
        }
    }

    /// Back to the state before the first token.
    pub fn reset(&mut self) {
        match self {
            Self::Overlapping { kv, gate, previous_kv, previous_gate } => {
                kv.fill(0.0);
                gate.fill(f32::NEG_INFINITY);
                previous_kv.fill(0.0);
                previous_gate.fill(f32::NEG_INFINITY);
            }
            Self::Running { max, sum, weighted } => {
                max.fill(f32::NEG_INFINITY);
                sum.fill(0.0);
                weighted.fill(0.0);
            }
        }
    }
}
