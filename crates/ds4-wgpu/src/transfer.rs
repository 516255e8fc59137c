//! Sequence state between card and host.
//!
//! The card keeps rows in whole words; the host's layout, which every backend and the store on disk share, has no gaps.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use ds4_model::state::{Compressor, SequenceState, StateParts};
use ds4_model::{ModelError, Sequence};

use crate::cache::{CacheLayout, Context, LayerPlace, NEVER, WgpuSequence, lock};
use crate::pool::Taken;

/// Pages that are fetched together.
const PAGES_AT_ONCE: usize = 64;

impl CacheLayout {
    /// A stored KV row as the host has it.
    fn kv_to_host(&self, words: &[u8], out: &mut [u8]) {
        if self.exact {
            return out.copy_from_slice(words);
        }
        let groups = self.nope / 64;
        out[..self.nope + groups].copy_from_slice(&words[..self.nope + groups]);
        let tail = self.nope + groups.next_multiple_of(4);
        out[self.nope + groups..].copy_from_slice(&words[tail..]);
    }

    /// The reverse.
    fn kv_from_host(&self, row: &[u8], words: &mut [u8]) {
        if self.exact {
            return words.copy_from_slice(row);
        }
        let groups = self.nope / 64;
        words[..self.nope + groups].copy_from_slice(&row[..self.nope + groups]);
        let tail = self.nope + groups.next_multiple_of(4);
        words[tail..].copy_from_slice(&row[self.nope + groups..]);
    }

    /// Compressed rows that lie in page `number` of a sequence of `len` tokens.
    fn rows_of_page(&self, place: &LayerPlace, number: usize, len: usize) -> Range<usize> {
        let per_page = place.rows_per_page as usize;
        let rows = len.checked_div(place.ratio as usize).unwrap_or(0);
        (number * per_page).min(rows)..((number + 1) * per_page).min(rows)
    }

    /// The window, and the frontiers with their gates that were never reached, from the bytes of a slot.
    fn slot_to_host(&self, bytes: &[u8], len: usize, out: &mut Sequence) {
        let mut at = 0;
        let stride = self.kv_row as usize * 4;
        for (layer, place) in self.layers.iter().enumerate() {
            let slot = &bytes[at..][..place.slot as usize * 4];
            at += slot.len();
            for position in len.saturating_sub(self.host.window)..len {
                let from = &slot[position % self.host.window * stride..][..stride];
                self.kv_to_host(from, out.window_row_mut(layer, position));
            }
            for (which, start) in frontiers(place) {
                let words = &slot[start as usize * 4..];
                for (value, word) in out.frontier_mut(layer, which).iter_mut().zip(words.chunks_exact(4)) {
                    let found = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    *value = if found == NEVER { f32::NEG_INFINITY } else { found };
                }
            }
        }
    }

    fn slot_from_host(&self, state: &Sequence) -> Vec<u8> {
        let mut bytes = vec![0; self.slot_bytes()];
        let mut at = 0;
        let (stride, len) = (self.kv_row as usize * 4, state.len());
        for (layer, place) in self.layers.iter().enumerate() {
            let slot = &mut bytes[at..][..place.slot as usize * 4];
            at += slot.len();
            for position in len.saturating_sub(self.host.window)..len {
                let to = &mut slot[position % self.host.window * stride..][..stride];
                self.kv_from_host(state.window_row(layer, position), to);
            }
            for (which, start) in frontiers(place) {
                let words = &mut slot[start as usize * 4..];
                for (value, word) in state.frontier(layer, which).iter().zip(words.chunks_exact_mut(4)) {
                    let value = if *value == f32::NEG_INFINITY { NEVER } else { *value };
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        bytes
    }

    fn page_to_host(&self, bytes: &[u8], number: usize, len: usize, out: &mut Sequence) {
        let mut at = 0;
        let (stride, index_stride) = (self.kv_row as usize * 4, self.index_row as usize * 4);
        for (layer, place) in self.layers.iter().enumerate() {
            let page = &bytes[at..][..place.page as usize * 4];
            at += page.len();
            for row in self.rows_of_page(place, number, len) {
                let in_page = row % place.rows_per_page as usize;
                self.kv_to_host(&page[in_page * stride..][..stride], out.compressed_row_mut(layer, row));
                if place.index_frontier_len > 0 {
                    let from = &page[place.page_index as usize * 4 + in_page * index_stride..];
                    let to = out.index_row_mut(layer, row);
                    to.copy_from_slice(&from[..to.len()]);
                }
            }
        }
    }

    fn page_from_host(&self, state: &Sequence, number: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.page_bytes()];
        let mut at = 0;
        let (stride, index_stride) = (self.kv_row as usize * 4, self.index_row as usize * 4);
        for (layer, place) in self.layers.iter().enumerate() {
            let page = &mut bytes[at..][..place.page as usize * 4];
            at += page.len();
            for row in self.rows_of_page(place, number, state.len()) {
                let in_page = row % place.rows_per_page as usize;
                self.kv_from_host(state.compressed_row(layer, row), &mut page[in_page * stride..][..stride]);
                if place.index_frontier_len > 0 {
                    let from = state.index_row(layer, row);
                    page[place.page_index as usize * 4 + in_page * index_stride..][..from.len()].copy_from_slice(from);
                }
            }
        }
        bytes
    }
}

/// Where a layer's frontiers begin in its slot.
fn frontiers(place: &LayerPlace) -> [(Compressor, u32); 2] {
    [(Compressor::Attention, place.frontier), (Compressor::Indexer, place.index_frontier)]
}

impl Context {
    fn read_slot(&mut self, slot: &Taken) -> Result<Vec<u8>, ModelError> {
        let views: Vec<_> = (0..self.layout.layers.len()).map(|layer| self.slots(layer)).collect();
        let pieces: Vec<_> = views
            .iter()
            .zip(&self.layout.layers)
            .map(|(view, place)| {
                let bytes = u64::from(place.slot) * 4;
                (&view.buffer, u64::from(slot.number) * bytes, bytes)
            })
            .collect();
        Ok(self.recorder.read(&pieces)?)
    }

    /// Some pages of a sequence into a host state.
    fn read_pages(
        &mut self,
        sequence: &WgpuSequence,
        pages: Range<usize>,
        out: &mut Sequence,
    ) -> Result<(), ModelError> {
        let page_bytes = self.layout.page_bytes();
        let views: Vec<_> = (0..self.layout.layers.len()).map(|layer| self.pages(layer)).collect();
        let pages = pages.start.min(sequence.pages.len())..pages.end.min(sequence.pages.len());
        for first in pages.clone().step_by(PAGES_AT_ONCE) {
            let some = first..(first + PAGES_AT_ONCE).min(pages.end);
            let mut pieces = Vec::new();
            for number in some.clone() {
                for (view, place) in views.iter().zip(&self.layout.layers).filter(|(_, place)| place.page > 0) {
                    let bytes = u64::from(place.page) * 4;
                    pieces.push((&view.buffer, u64::from(sequence.pages[number].number) * bytes, bytes));
                }
            }
            let bytes = self.recorder.read(&pieces)?;
            for (number, page) in some.zip(bytes.chunks_exact(page_bytes)) {
                self.layout.page_to_host(page, number, sequence.len, out);
            }
        }
        Ok(())
    }

    fn write_pieces(&mut self, number: u32, bytes: &[u8], slot: bool) -> Result<(), ModelError> {
        let mut at = 0;
        for layer in 0..self.layout.layers.len() {
            let (view, words) = match slot {
                true => (self.slots(layer), self.layout.layers[layer].slot),
                false => (self.pages(layer), self.layout.layers[layer].page),
            };
            let size = words as usize * 4;
            self.recorder.write(&view.buffer, number as u64 * size as u64, &bytes[at..at + size])?;
            at += size;
        }
        Ok(())
    }

    fn begin_export(&mut self, sequence: &WgpuSequence) -> Result<Sequence, ModelError> {
        if let Some(failure) = &sequence.failure {
            return Err(failure.clone().into());
        }
        let mut out = Sequence::new(Arc::clone(&self.layout.host));
        if let Some(slot) = &sequence.slot {
            let bytes = self.read_slot(slot)?;
            self.layout.slot_to_host(&bytes, sequence.len, &mut out);
        }
        Ok(out)
    }

    /// The whole state.
    pub fn export(&mut self, sequence: &WgpuSequence) -> Result<Sequence, ModelError> {
        let mut out = self.begin_export(sequence)?;
        self.read_pages(sequence, 0..sequence.pages.len(), &mut out)?;
        out.advance(sequence.len);
        Ok(out)
    }

    /// Some full pages, and what is not in full pages. Only these are fetched.
    pub fn export_parts(&mut self, sequence: &WgpuSequence, pages: Range<usize>) -> Result<StateParts, ModelError> {
        let mut out = self.begin_export(sequence)?;
        let full = sequence.len / self.layout.host.page_tokens;
        self.read_pages(sequence, pages.clone(), &mut out)?;
        self.read_pages(sequence, full..full + 1, &mut out)?;
        out.advance(sequence.len);
        Ok(out.parts(pages))
    }
}

/// The sequence on the card that a host state describes.
pub(crate) fn import(context: &Arc<Mutex<Context>>, state: &Sequence) -> Result<WgpuSequence, ModelError> {
    let mut locked = lock(context);
    if **state.layout() != *locked.layout.host {
        return Err(ModelError::State("it belongs to another model or cache precision".to_owned()));
    }
    let mut sequence = WgpuSequence::new(context, &locked.layout);
    locked.make_room(&mut sequence, state.len())?;
    let slot = locked.layout.slot_from_host(state);
    locked.write_pieces(sequence.slot_number(), &slot, true)?;
    for number in 0..sequence.pages.len() {
        let page = locked.layout.page_from_host(state, number);
        locked.write_pieces(sequence.pages[number].number, &page, false)?;
    }
    sequence.len = state.len();
    Ok(sequence)
}
