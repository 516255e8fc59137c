//! The state of sequences in device memory.
//!
//! A sequence holds one *slot* (window rings and compressor frontiers) and *pages* of compressed rows, all shared by reference
//! count: forking copies nothing until one side is written. Rows lie as in the host's layout, except that each starts on a
//! 16-byte boundary: E4M3 codes, then the rotary channels, then the scales' exponents.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ds4_model::rounding::KV_GROUP;
use ds4_model::state::{Compressor, IndexRowFormat, KvRowFormat, PageUse, SequenceState, StateParts};
use ds4_model::{Config, ModelError, Sequence, StateLayout};

use crate::device::{Device, DeviceError, Memory};
use crate::params;

/// Where everything lies in a slot and in a page.
pub(crate) struct CacheLayout {
    pub host: Arc<StateLayout>,
    pub format: params::CacheFormat,
    pub layers: Vec<params::LayerPlace>,
    pub page_bytes: usize,
    /// Bytes of the rings; the frontiers follow.
    pub ring_bytes: usize,
    pub slot_bytes: usize,
    pub page_tokens: usize,
}

impl CacheLayout {
    pub fn new(config: &Config, host: Arc<StateLayout>) -> Self {
        let (exact, nope, rope) = match host.kv_row {
            KvRowFormat::Exact { dim } => (true, dim - config.rope_dim, config.rope_dim),
            KvRowFormat::Packed { nope, rope } => (false, nope, rope),
        };
        let kv_stride = host.kv_row.bytes().next_multiple_of(16);
        let index_stride = host.index_row.bytes().next_multiple_of(4);
        let page_tokens = host.page_tokens;
        let (mut ring, mut page, mut frontier) = (0, 0, 0);
        let mut layers = Vec::new();
        for &ratio in &config.ratios {
            let rows = page_tokens.checked_div(ratio).unwrap_or(0);
            let index_rows = if config.has_indexer(ratio) { rows } else { 0 };
            let frontier_of = |dim: usize| match ratio {
                0 => 0,
                r if config.overlaps(r) => 6 * r * dim,
                _ => 3 * dim,
            };
            let attention = frontier_of(config.head_dim);
            let indexer = if index_rows > 0 { frontier_of(config.idx_dim) } else { 0 };
            layers.push(params::LayerPlace {
                ring: ring as u64,
                page_kv: page as u64,
                page_index: (page + rows * kv_stride) as u64,
                frontier: frontier as u32,
                index_frontier: (frontier + attention) as u32,
                ratio: ratio as u32,
                rows_per_page: rows.max(1) as u32,
            });
            ring += config.window * kv_stride;
            page += rows * kv_stride + (index_rows * index_stride).next_multiple_of(16);
            frontier += attention + indexer;
        }
        let format = params::CacheFormat {
            exact: u32::from(exact),
            dim: (nope + rope) as u32,
            rope: rope as u32,
            nope: nope as u32,
            kv_stride: kv_stride as u32,
            index_stride: index_stride as u32,
            index_dim: config.idx_dim as u32,
            window: config.window as u32,
        };
        Self { host, format, layers, page_bytes: page, ring_bytes: ring, slot_bytes: ring + frontier * 4, page_tokens }
    }

    /// Pages that a sequence of `tokens` tokens has rows in.
    pub fn pages_for(&self, tokens: usize) -> usize {
        if self.page_bytes == 0 { 0 } else { tokens.div_ceil(self.page_tokens) }
    }

    /// A stored KV row: from the host's order of parts to the device's, or back.
    fn kv_parts(&self) -> [(usize, usize, usize); 3] {
        let (nope, tail) = (self.format.nope as usize, self.format.rope as usize * 2);
        let exponents = nope / KV_GROUP;
        // (offset on the host, offset on the device, bytes)
        [(0, 0, nope), (nope, nope + tail, exponents), (nope + exponents, nope, tail)]
    }

    fn kv_to_host(&self, device: &[u8], host: &mut [u8]) {
        if self.format.exact != 0 {
            let n = host.len();
            host.copy_from_slice(&device[..n]);
            return;
        }
        for (h, d, n) in self.kv_parts() {
            host[h..h + n].copy_from_slice(&device[d..d + n]);
        }
    }

    fn kv_from_host(&self, host: &[u8], device: &mut [u8]) {
        if self.format.exact != 0 {
            device[..host.len()].copy_from_slice(host);
            return;
        }
        for (h, d, n) in self.kv_parts() {
            device[d..d + n].copy_from_slice(&host[h..h + n]);
        }
    }

    /// Bytes of one indexer row.
    fn index_bytes(&self) -> usize {
        match self.host.index_row {
            IndexRowFormat::Exact { dim } => dim * 4,
            IndexRowFormat::Packed { .. } => self.host.index_row.bytes(),
        }
    }
}

/// Units of device memory of one size, taken in chunks and kept for reuse.
pub(crate) struct Pool {
    device: Arc<dyn Device>,
    unit: usize,
    per_chunk: usize,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    chunks: Vec<Memory>,
    free: Vec<u64>,
}

impl Pool {
    pub fn new(device: &Arc<dyn Device>, unit: usize, per_chunk: usize) -> Arc<Self> {
        let unit = unit.next_multiple_of(256);
        Arc::new(Self { device: Arc::clone(device), unit, per_chunk, state: Mutex::default() })
    }

    /// A unit of memory. What it holds is undefined.
    pub fn take(self: &Arc<Self>) -> Result<Unit, DeviceError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.free.is_empty() {
            let chunk = Memory::new(&self.device, self.unit * self.per_chunk)?;
            let units = (0..self.per_chunk).rev().map(|i| chunk.address() + (i * self.unit) as u64);
            state.free.extend(units);
            state.chunks.push(chunk);
        }
        let Some(address) = state.free.pop() else {
            return Err(DeviceError::new("a pool of device memory is empty"));
        };
        Ok(Unit { pool: Arc::clone(self), address })
    }
}

/// One unit of a pool. The device works in order, so a unit may be given back while work that uses it is still under way.
pub(crate) struct Unit {
    pool: Arc<Pool>,
    pub address: u64,
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.pool.state.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.address);
    }
}

/// A sequence's state on the device.
pub struct CudaSequence {
    len: usize,
    /// Tokens whose rows are there: more than `len` between a batch's operations and its end.
    written: usize,
    page_tokens: usize,
    slot: Option<Arc<Unit>>,
    pages: Vec<Arc<Unit>>,
    /// Addresses of the pages, on the device; how many of its entries are right.
    table: Option<Arc<Memory>>,
    table_capacity: usize,
    table_valid: usize,
}

impl SequenceState for CudaSequence {
    fn len(&self) -> usize {
        self.len
    }

    fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn own_bytes(&self) -> usize {
        self.slot.as_ref().map_or(0, |slot| slot.pool.unit)
    }

    fn page_count(&self) -> usize {
        self.pages.len()
    }

    fn page_use(&self, index: usize) -> Option<PageUse> {
        let page = self.pages.get(index)?;
        Some(PageUse { id: page.address as usize, bytes: page.pool.unit })
    }

    fn share_pages(&mut self, other: &Self, pages: usize) {
        let full = self.len.min(other.len).checked_div(self.page_tokens).unwrap_or(0).min(pages);
        for (i, (mine, theirs)) in self.pages.iter_mut().zip(&other.pages).take(full).enumerate() {
            if mine.address != theirs.address {
                *mine = Arc::clone(theirs);
                self.table_valid = self.table_valid.min(i);
            }
        }
    }

    fn fork(&self) -> Self {
        Self {
            page_tokens: self.page_tokens,
            len: self.len,
            written: self.written,
            slot: self.slot.clone(),
            pages: self.pages.clone(),
            table: None,
            table_capacity: 0,
            table_valid: 0,
        }
    }
}

/// What a batch keeps alive until it has been given to the device.
pub(crate) type Held = (Arc<Unit>, Vec<Arc<Unit>>, Option<Arc<Memory>>);

/// Makes and moves sequences.
pub(crate) struct Sequences {
    pub layout: CacheLayout,
    device: Arc<dyn Device>,
    pages: Arc<Pool>,
    slots: Arc<Pool>,
    /// A slot before the first token.
    empty: Memory,
}

impl Sequences {
    pub fn new(device: &Arc<dyn Device>, layout: CacheLayout) -> Result<Self, DeviceError> {
        let mut bytes = vec![0u8; layout.slot_bytes];
        write_frontiers(&layout, &Sequence::new(Arc::clone(&layout.host)), &mut bytes);
        let empty = Memory::of(device, &bytes)?;
        // Chunks of about 32 MiB.
        let at_once = |unit: usize| ((32 << 20) / unit.max(1)).clamp(1, 64);
        Ok(Self {
            pages: Pool::new(device, layout.page_bytes, at_once(layout.page_bytes)),
            slots: Pool::new(device, layout.slot_bytes, at_once(layout.slot_bytes).min(8)),
            device: Arc::clone(device),
            empty,
            layout,
        })
    }

    pub fn create(&self) -> CudaSequence {
        CudaSequence {
            len: 0,
            written: 0,
            page_tokens: self.layout.page_tokens,
            slot: None,
            pages: Vec::new(),
            table: None,
            table_capacity: 0,
            table_valid: 0,
        }
    }

    /// Makes the sequence's own what the next `tokens` tokens write, and room for their rows.
    pub fn make_room(&self, sequence: &mut CudaSequence, tokens: usize) -> Result<params::Span, DeviceError> {
        let mut slot = match sequence.slot.take() {
            Some(slot) => slot,
            None => {
                let slot = Arc::new(self.slots.take()?);
                self.device.copy(self.empty.address(), slot.address, self.layout.slot_bytes)?;
                slot
            }
        };
        if Arc::get_mut(&mut slot).is_none() {
            let own = self.slots.take()?;
            self.device.copy(slot.address, own.address, self.layout.slot_bytes)?;
            slot = Arc::new(own);
        }
        let ring = slot.address;
        sequence.slot = Some(slot);

        let needed = self.layout.pages_for(sequence.len + tokens);
        let first_written = if self.layout.page_bytes == 0 { 0 } else { sequence.len / self.layout.page_tokens };
        for (i, page) in sequence.pages.iter_mut().enumerate().skip(first_written) {
            if Arc::get_mut(page).is_none() {
                let own = self.pages.take()?;
                self.device.copy(page.address, own.address, self.layout.page_bytes)?;
                *page = Arc::new(own);
                sequence.table_valid = sequence.table_valid.min(i);
            }
        }
        while sequence.pages.len() < needed {
            sequence.pages.push(Arc::new(self.pages.take()?));
        }
        sequence.written = sequence.len + tokens;
        let table = self.update_table(sequence)?;
        Ok(params::Span {
            ring,
            frontier: ring + self.layout.ring_bytes as u64,
            pages: table,
            first_row: 0,
            len: tokens as u32,
            first_position: sequence.len as u32,
            pad: 0,
        })
    }

    /// The address of the page table, every entry right.
    fn update_table(&self, sequence: &mut CudaSequence) -> Result<u64, DeviceError> {
        let n = sequence.pages.len();
        if sequence.table.is_none() || sequence.table_capacity < n {
            sequence.table_capacity = n.next_power_of_two().max(16);
            sequence.table = Some(Arc::new(Memory::new(&self.device, sequence.table_capacity * 8)?));
            sequence.table_valid = 0;
        }
        let address = sequence.table.as_ref().map_or(0, |table| table.address());
        if sequence.table_valid < n {
            let entries: Vec<u64> = sequence.pages[sequence.table_valid..].iter().map(|page| page.address).collect();
            self.device.write(address + sequence.table_valid as u64 * 8, bytemuck::cast_slice(&entries))?;
            sequence.table_valid = n;
        }
        Ok(address)
    }

    /// Everything of a sequence that a batch uses.
    pub fn hold(&self, sequence: &CudaSequence) -> Option<Held> {
        Some((Arc::clone(sequence.slot.as_ref()?), sequence.pages.clone(), sequence.table.clone()))
    }

    /// The whole state.
    pub fn export(&self, sequence: &CudaSequence) -> Result<Sequence, ModelError> {
        let mut out = self.export_slot(sequence)?;
        self.export_pages(sequence, 0..sequence.pages.len(), &mut out)?;
        out.advance(sequence.len);
        Ok(out)
    }

    /// Some full pages, and what is not in full pages. Only these are copied from the device.
    pub fn export_parts(&self, sequence: &CudaSequence, pages: Range<usize>) -> Result<StateParts, ModelError> {
        let mut out = self.export_slot(sequence)?;
        let full = sequence.len / self.layout.host.page_tokens;
        self.export_pages(sequence, pages.clone(), &mut out)?;
        self.export_pages(sequence, full..full + 1, &mut out)?;
        out.advance(sequence.len);
        Ok(out.parts(pages))
    }

    /// Window rows and frontiers, in a state that counts no tokens yet.
    fn export_slot(&self, sequence: &CudaSequence) -> Result<Sequence, ModelError> {
        let layout = &self.layout;
        let mut out = Sequence::new(Arc::clone(&layout.host));
        let Some(slot) = &sequence.slot else { return Ok(out) };
        let mut bytes = vec![0u8; layout.slot_bytes];
        self.device.read(slot.address, &mut bytes)?;
        let stride = layout.format.kv_stride as usize;
        let window = layout.host.window;
        for (layer, place) in layout.layers.iter().enumerate() {
            for position in sequence.written.saturating_sub(window)..sequence.written {
                let at = place.ring as usize + position % window * stride;
                layout.kv_to_host(&bytes[at..at + stride], out.window_row_mut(layer, position));
            }
            for (which, start) in [(Compressor::Attention, place.frontier), (Compressor::Indexer, place.index_frontier)]
            {
                let values = out.frontier_mut(layer, which);
                let at = layout.ring_bytes + start as usize * 4;
                let n = values.len() * 4;
                bytemuck::cast_slice_mut::<f32, u8>(values).copy_from_slice(&bytes[at..at + n]);
            }
        }
        Ok(out)
    }

    /// The rows of these pages, as far as there are such.
    fn export_pages(&self, sequence: &CudaSequence, pages: Range<usize>, out: &mut Sequence) -> Result<(), ModelError> {
        let layout = &self.layout;
        let stride = layout.format.kv_stride as usize;
        let mut page_bytes = vec![0u8; layout.page_bytes];
        for (number, page) in sequence.pages.iter().enumerate().skip(pages.start).take(pages.len()) {
            self.device.read(page.address, &mut page_bytes)?;
            for (layer, place) in layout.layers.iter().enumerate() {
                if place.ratio == 0 {
                    continue;
                }
                let rows = sequence.written / place.ratio as usize;
                let per_page = place.rows_per_page as usize;
                for row in number * per_page..rows.min((number + 1) * per_page) {
                    let at = place.page_kv as usize + row % per_page * stride;
                    layout.kv_to_host(&page_bytes[at..at + stride], out.compressed_row_mut(layer, row));
                    if !out.frontier(layer, Compressor::Indexer).is_empty() {
                        let at = place.page_index as usize + row % per_page * layout.format.index_stride as usize;
                        let n = layout.index_bytes();
                        out.index_row_mut(layer, row).copy_from_slice(&page_bytes[at..at + n]);
                    }
                }
            }
        }
        Ok(())
    }

    pub fn import(&self, state: &Sequence) -> Result<CudaSequence, ModelError> {
        let layout = &self.layout;
        if **state.layout() != *layout.host {
            return Err(ModelError::State("it belongs to another model or cache precision".to_owned()));
        }
        let mut sequence = self.create();
        self.make_room(&mut sequence, state.len())?;
        let stride = layout.format.kv_stride as usize;
        let window = layout.host.window;
        let mut bytes = vec![0u8; layout.slot_bytes];
        for (layer, place) in layout.layers.iter().enumerate() {
            for position in state.len().saturating_sub(window)..state.len() {
                let at = place.ring as usize + position % window * stride;
                layout.kv_from_host(state.window_row(layer, position), &mut bytes[at..at + stride]);
            }
        }
        write_frontiers(layout, state, &mut bytes);
        if let Some(slot) = &sequence.slot {
            self.device.write(slot.address, &bytes)?;
        }
        for (number, page) in sequence.pages.iter().enumerate() {
            let mut bytes = vec![0u8; layout.page_bytes];
            for (layer, place) in layout.layers.iter().enumerate() {
                if place.ratio == 0 {
                    continue;
                }
                let rows = state.len() / place.ratio as usize;
                let per_page = place.rows_per_page as usize;
                for row in number * per_page..rows.min((number + 1) * per_page) {
                    let at = place.page_kv as usize + row % per_page * stride;
                    layout.kv_from_host(state.compressed_row(layer, row), &mut bytes[at..at + stride]);
                    if !state.frontier(layer, Compressor::Indexer).is_empty() {
                        let at = place.page_index as usize + row % per_page * layout.format.index_stride as usize;
                        let from = state.index_row(layer, row);
                        bytes[at..at + from.len()].copy_from_slice(from);
                    }
                }
            }
            self.device.write(page.address, &bytes)?;
        }
        sequence.len = state.len();
        Ok(sequence)
    }
}

fn write_frontiers(layout: &CacheLayout, state: &Sequence, slot: &mut [u8]) {
    for (layer, place) in layout.layers.iter().enumerate() {
        for (which, start) in [(Compressor::Attention, place.frontier), (Compressor::Indexer, place.index_frontier)] {
            let values: &[u8] = bytemuck::cast_slice(state.frontier(layer, which));
            let at = layout.ring_bytes + start as usize * 4;
            slot[at..at + values.len()].copy_from_slice(values);
        }
    }
}
