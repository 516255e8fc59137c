//! Sequence state on the card: a slot for each sequence, and pages of compressed rows that sequences share.
//!
//! Every layer has one buffer of slots and one of pages, so that no buffer has to hold a long context of all layers. A slot is a
//! layer's window ring and its compressor frontiers; a page its compressed rows and indexer rows of one span of tokens. Sizes and
//! places are in words of four bytes. Buffers grow by doubling.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ds4_model::state::{OVERLAPPING_RATIO, PageUse, SequenceState};
use ds4_model::{Config, KvPrecision, StateLayout};
use wgpu::Buffer;

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::pool::{Pool, Taken};
use crate::recorder::{Recorder, View};

/// A gate that was never reached: minus infinity elsewhere, a number here.
pub(crate) const NEVER: f32 = -3.0e38;

/// Where a layer's state lies, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerPlace {
    pub ratio: u32,
    /// Words of a slot; the ring is at 0.
    pub slot: u32,
    pub frontier: u32,
    pub frontier_len: u32,
    pub index_frontier: u32,
    pub index_frontier_len: u32,
    /// Words of a page; compressed rows are at 0. 0 without compression.
    pub page: u32,
    pub page_index: u32,
    pub rows_per_page: u32,
}

/// The layout of all state.
#[derive(Clone, Debug)]
pub(crate) struct CacheLayout {
    pub host: Arc<StateLayout>,
    pub exact: bool,
    pub nope: usize,
    /// Words of a KV row and of an indexer row.
    pub kv_row: u32,
    pub index_row: u32,
    pub layers: Vec<LayerPlace>,
}

impl CacheLayout {
    pub fn new(config: &Config, kv: KvPrecision) -> Self {
        let host = Arc::new(StateLayout::new(config, kv));
        let exact = kv == KvPrecision::Exact;
        let nope = config.head_dim - config.rope_dim;
        // As `kernels/kv_row.wgsl` and `kernels/compress.wgsl` have it.
        let kv_row = match exact {
            true => config.head_dim,
            false => nope / 4 + (nope / 64).div_ceil(4) + config.rope_dim / 2,
        };
        let index_row = match exact {
            true => config.idx_dim,
            false => config.idx_dim / 8 + (config.idx_dim / 32).div_ceil(4),
        };
        let frontier = |ratio: usize, dim: usize| match ratio {
            0 => 0,
            OVERLAPPING_RATIO => 6 * ratio * dim,
            _ => 3 * dim,
        };
        let layer = |&ratio: &usize| {
            let ring = config.window * kv_row;
            let frontier_len = frontier(ratio, config.head_dim);
            let index_frontier_len = if config.has_indexer(ratio) { frontier(ratio, config.idx_dim) } else { 0 };
            let rows = host.page_tokens.checked_div(ratio).unwrap_or(0);
            let index_rows = if config.has_indexer(ratio) { rows } else { 0 };
            LayerPlace {
                ratio: ratio as u32,
                slot: (ring + frontier_len + index_frontier_len) as u32,
                frontier: ring as u32,
                frontier_len: frontier_len as u32,
                index_frontier: (ring + frontier_len) as u32,
                index_frontier_len: index_frontier_len as u32,
                page: (rows * kv_row + index_rows * index_row) as u32,
                page_index: (rows * kv_row) as u32,
                rows_per_page: rows as u32,
            }
        };
        let layers = config.ratios.iter().map(layer).collect();
        Self { host, exact, nope, kv_row: kv_row as u32, index_row: index_row as u32, layers }
    }

    /// Bytes of a sequence's slot, all layers.
    pub fn slot_bytes(&self) -> usize {
        self.layers.iter().map(|place| place.slot as usize * 4).sum()
    }

    /// Bytes of a page, all layers.
    pub fn page_bytes(&self) -> usize {
        self.layers.iter().map(|place| place.page as usize * 4).sum()
    }

    /// Pages that a sequence of `tokens` tokens has.
    pub fn pages(&self, tokens: usize) -> usize {
        if self.page_bytes() == 0 { 0 } else { tokens.div_ceil(self.host.page_tokens) }
    }

    /// A slot before the first token.
    pub fn empty_slot(&self, layer: usize) -> Vec<u32> {
        let place = &self.layers[layer];
        let mut words = vec![0; place.slot as usize];
        let never = NEVER.to_bits();
        for (start, len) in [(place.frontier, place.frontier_len), (place.index_frontier, place.index_frontier_len)] {
            let frontier = &mut words[start as usize..][..len as usize];
            let third = frontier.len() / 3;
            if place.ratio as usize == OVERLAPPING_RATIO {
                // Values, gates; the previous window's values, gates.
                frontier[third..2 * third].fill(never);
                frontier[2 * third + third / 2..].fill(never);
            } else {
                frontier[..third].fill(never);
            }
        }
        words
    }
}

/// One buffer for each layer, with room for a number of equal pieces.
struct Pieces {
    what: &'static str,
    words: Vec<u32>,
    buffers: Vec<View>,
    room: u32,
    numbers: Pool,
}

impl Pieces {
    fn new(what: &'static str, words: Vec<u32>, gpu: &Gpu) -> Result<Self, WgpuError> {
        let empty = View::all(gpu.storage(what, 16)?);
        let buffers = words.iter().map(|_| empty.clone()).collect();
        Ok(Self { what, words, buffers, room: 0, numbers: Pool::default() })
    }

    /// Takes a piece, making room if there is none.
    fn take(&mut self, gpu: &Gpu, recorder: &mut Recorder) -> Result<Arc<Taken>, WgpuError> {
        let taken = self.numbers.take();
        if taken.number >= self.room {
            self.grow((taken.number + 1).next_power_of_two().max(4), gpu, recorder)?;
        }
        Ok(taken)
    }

    fn grow(&mut self, room: u32, gpu: &Gpu, recorder: &mut Recorder) -> Result<(), WgpuError> {
        // Near the largest binding, as many as fit instead of twice as many.
        let largest = self.words.iter().copied().max().unwrap_or(0).max(1);
        let most = (gpu.max_binding / (u64::from(largest) * 4)).min(u64::from(u32::MAX / largest)) as u32;
        let room = if self.room < most { room.min(most.max(self.room + 1)) } else { room };
        let mut grown = Vec::with_capacity(self.buffers.len());
        for &words in &self.words {
            grown.push(View::all(gpu.storage(self.what, u64::from(words) * u64::from(room) * 4)?));
        }
        if self.room > 0 {
            for ((&words, old), new) in self.words.iter().zip(&self.buffers).zip(&grown) {
                let bytes = u64::from(words) * u64::from(self.room) * 4;
                if bytes > 0 {
                    recorder.copy((&old.buffer, 0), (&new.buffer, 0), bytes);
                }
            }
        }
        self.buffers = grown;
        self.room = room;
        recorder.forget()?;
        Ok(())
    }

    /// Copies one piece over another, through a buffer, because no copy may have both ends in one.
    fn duplicate(&self, from: u32, to: u32, through: &Buffer, recorder: &mut Recorder) {
        let mut at = 0;
        let mut places = Vec::with_capacity(self.words.len());
        for (&words, view) in self.words.iter().zip(&self.buffers).filter(|(words, _)| **words > 0) {
            let bytes = u64::from(words) * 4;
            recorder.copy((&view.buffer, u64::from(from) * bytes), (through, at), bytes);
            places.push((view, bytes, at));
            at += bytes;
        }
        for (view, bytes, at) in places {
            recorder.copy((through, at), (&view.buffer, u64::from(to) * bytes), bytes);
        }
    }
}

/// The card's work and the state on it: what backend and sequences share.
pub(crate) struct Context {
    pub gpu: Arc<Gpu>,
    pub recorder: Recorder,
    pub layout: CacheLayout,
    slots: Pieces,
    pages: Pieces,
    /// Room for a slot or a page on its way from one place to another.
    through: Buffer,
    /// A slot before the first token, all layers.
    empty: Buffer,
}

impl Context {
    pub fn new(gpu: &Arc<Gpu>, mut recorder: Recorder, layout: CacheLayout) -> Result<Self, WgpuError> {
        let slots = Pieces::new("sequences", layout.layers.iter().map(|place| place.slot).collect(), gpu)?;
        let pages = Pieces::new("cache pages", layout.layers.iter().map(|place| place.page).collect(), gpu)?;
        let through = gpu.storage("sequence on its way", layout.slot_bytes().max(layout.page_bytes()) as u64)?;
        let empty = gpu.storage("empty sequence", layout.slot_bytes() as u64)?;
        let words: Vec<u32> = (0..layout.layers.len()).flat_map(|layer| layout.empty_slot(layer)).collect();
        recorder.write(&empty, 0, bytemuck::cast_slice(&words))?;
        Ok(Self { gpu: Arc::clone(gpu), recorder, layout, slots, pages, through, empty })
    }

    /// The buffer of a layer's slots.
    pub fn slots(&self, layer: usize) -> View {
        self.slots.buffers[layer].clone()
    }

    /// The buffer of a layer's pages.
    pub fn pages(&self, layer: usize) -> View {
        self.pages.buffers[layer].clone()
    }

    /// A slot with the state before the first token.
    pub fn new_slot(&mut self) -> Result<Arc<Taken>, WgpuError> {
        let taken = self.slots.take(&self.gpu, &mut self.recorder)?;
        let mut at = 0;
        for (&words, view) in self.slots.words.iter().zip(&self.slots.buffers) {
            let bytes = u64::from(words) * 4;
            self.recorder.copy((&self.empty, at), (&view.buffer, u64::from(taken.number) * bytes), bytes);
            at += bytes;
        }
        Ok(taken)
    }

    fn copied_slot(&mut self, from: &Taken) -> Result<Arc<Taken>, WgpuError> {
        let taken = self.slots.take(&self.gpu, &mut self.recorder)?;
        self.slots.duplicate(from.number, taken.number, &self.through, &mut self.recorder);
        Ok(taken)
    }

    pub fn new_page(&mut self) -> Result<Arc<Taken>, WgpuError> {
        self.pages.take(&self.gpu, &mut self.recorder)
    }

    fn copied_page(&mut self, from: &Taken) -> Result<Arc<Taken>, WgpuError> {
        let taken = self.new_page()?;
        self.pages.duplicate(from.number, taken.number, &self.through, &mut self.recorder);
        Ok(taken)
    }

    /// Makes a sequence ready to take the tokens up to `end`: a slot, pages, and the pages to be written its own.
    pub fn make_room(&mut self, sequence: &mut WgpuSequence, end: usize) -> Result<(), WgpuError> {
        if let Some(failure) = &sequence.failure {
            return Err(failure.clone());
        }
        if self.recorder.is_rehearsing() {
            return Ok(());
        }
        if sequence.slot.is_none() {
            sequence.slot = Some(self.new_slot()?);
        }
        let needed = self.layout.pages(end);
        let first_written = sequence.len / self.layout.host.page_tokens;
        for index in first_written..sequence.pages.len().min(needed) {
            if Arc::strong_count(&sequence.pages[index]) > 1 {
                let shared = Arc::clone(&sequence.pages[index]);
                sequence.pages[index] = self.copied_page(&shared)?;
            }
        }
        while sequence.pages.len() < needed {
            let page = self.new_page()?;
            sequence.pages.push(page);
        }
        Ok(())
    }
}

/// Locks the context. A panic elsewhere leaves nothing half-done that a later user could not see as a failure of the card.
pub(crate) fn lock(context: &Mutex<Context>) -> MutexGuard<'_, Context> {
    context.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of one sequence on the card.
pub struct WgpuSequence {
    pub(crate) context: Arc<Mutex<Context>>,
    pub(crate) slot: Option<Arc<Taken>>,
    pub(crate) pages: Vec<Arc<Taken>>,
    pub(crate) len: usize,
    /// Why it could not be made; its next use says so.
    pub(crate) failure: Option<WgpuError>,
    pub(crate) slot_bytes: usize,
    pub(crate) page_bytes: usize,
    pub(crate) page_tokens: usize,
}

impl WgpuSequence {
    pub(crate) fn new(context: &Arc<Mutex<Context>>, layout: &CacheLayout) -> Self {
        Self {
            context: Arc::clone(context),
            slot: None,
            pages: Vec::new(),
            len: 0,
            failure: None,
            slot_bytes: layout.slot_bytes(),
            page_bytes: layout.page_bytes(),
            page_tokens: layout.host.page_tokens,
        }
    }

    /// Number of its slot.
    pub(crate) fn slot_number(&self) -> u32 {
        self.slot.as_ref().map_or(0, |slot| slot.number)
    }
}

impl SequenceState for WgpuSequence {
    fn len(&self) -> usize {
        self.len
    }

    fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn fork(&self) -> Self {
        let mut failure = self.failure.clone();
        let slot = self.slot.as_ref().and_then(|slot| {
            let copy = lock(&self.context).copied_slot(slot);
            copy.map_err(|error| failure = Some(error)).ok()
        });
        Self {
            context: Arc::clone(&self.context),
            slot,
            pages: self.pages.clone(),
            len: self.len,
            failure,
            slot_bytes: self.slot_bytes,
            page_bytes: self.page_bytes,
            page_tokens: self.page_tokens,
        }
    }

    fn own_bytes(&self) -> usize {
        if self.slot.is_some() { self.slot_bytes } else { 0 }
    }

    fn page_count(&self) -> usize {
        self.pages.len()
    }

    fn page_use(&self, index: usize) -> Option<PageUse> {
        self.pages.get(index).map(|page| PageUse { id: page.number as usize, bytes: self.page_bytes })
    }

    fn share_pages(&mut self, other: &Self, pages: usize) {
        let full = (self.len.min(other.len) / self.page_tokens).min(pages);
        for (mine, theirs) in self.pages.iter_mut().zip(&other.pages).take(full) {
            *mine = Arc::clone(theirs);
        }
    }
}
