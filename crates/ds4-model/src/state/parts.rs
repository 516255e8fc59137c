//! A sequence's state taken apart for a store: full pages, which never change again, and the rest.
//!
//! The rest, little endian: rings, frontiers (f32), and the page that has begun, if it has rows.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::page::Page;
use crate::ModelError;
use crate::state::{Sequence, StateLayout};

/// Parts of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateParts {
    /// Full pages, each [`StateLayout::page_bytes`] long.
    pub pages: Vec<Bytes>,
    /// Everything that is not in full pages.
    pub rest: Bytes,
}

impl Sequence {
    /// The full pages with these numbers, shared, and the rest of the state.
    ///
    /// # Panics
    /// Pages that are not full: a caller's mistake.
    pub fn parts(&self, pages: Range<usize>) -> StateParts {
        let layout = &self.layout;
        let full = self.len / layout.page_tokens;
        assert!(pages.end <= full, "page {} of {full} full ones", pages.end);
        let page = |number: usize| self.pages.get(number).map_or_else(Bytes::new, Page::to_shared);
        let begun = self.pages.get(full);
        let size = layout.ring_bytes + layout.frontier_len * 4 + begun.map_or(0, |page| page.len());
        let mut rest = Vec::with_capacity(size);
        rest.extend_from_slice(&self.rings);
        self.frontiers.iter().for_each(|value| rest.extend_from_slice(&value.to_le_bytes()));
        if let Some(begun) = begun {
            rest.extend_from_slice(begun);
        }
        StateParts { pages: pages.map(page).collect(), rest: rest.into() }
    }

    /// The state of `len` tokens that these parts are: all its full pages, and the rest.
    ///
    /// # Errors
    /// [`ModelError::State`] when the sizes are not those of this layout and length.
    pub fn from_parts(layout: &Arc<StateLayout>, len: usize, parts: StateParts) -> Result<Self, ModelError> {
        let StateParts { pages, rest } = parts;
        let full = len / layout.page_tokens;
        let begun = layout.pages_for(len).saturating_sub(full);
        let fixed = layout.ring_bytes + layout.frontier_len * 4;
        let page_bytes = layout.page_bytes;
        let fits = pages.len() == full
            && pages.iter().all(|page| page.len() == page_bytes)
            && rest.len() == fixed + begun * page_bytes;
        if !fits {
            return Err(ModelError::State("its parts do not have the sizes of its length in tokens".to_owned()));
        }
        let mut pages: Vec<Page> = match page_bytes {
            0 => Vec::new(),
            _ => pages.into_iter().map(Page::Given).collect(),
        };
        let (rings, rest) = rest.split_at(layout.ring_bytes);
        let (frontiers, begun_page) = rest.split_at(layout.frontier_len * 4);
        if !begun_page.is_empty() {
            pages.push(Page::Computed(Arc::new(begun_page.to_vec())));
        }
        Ok(Self {
            layout: Arc::clone(layout),
            len,
            rings: rings.to_vec(),
            frontiers: frontiers
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect(),
            pages,
        })
    }
}
