//! What is to be written, and the keys that follow from it.

use bytes::Bytes;

use crate::key::ChainKey;
use crate::record::{Header, Kind};

/// Something to be written: pages from number `first_page` on, and a snapshot behind the last.
#[derive(Clone, Debug)]
pub struct Save {
    /// Number of the first page.
    pub first_page: usize,
    /// Key of the page before it, or the root.
    pub parent: ChainKey,
    /// Tokens from the first page on: those of all pages, then the snapshot's.
    pub tokens: Vec<u32>,
    /// Payloads of the pages, shared with whoever computes on.
    pub pages: Vec<Bytes>,
    /// Payload of the snapshot, if there is one.
    pub snapshot: Option<Bytes>,
    /// Whose it is, for lists.
    pub session: Option<String>,
}

impl Save {
    pub(crate) fn bytes(&self) -> usize {
        let pages: usize = self.pages.iter().map(|page| page.len()).sum();
        pages + self.snapshot.as_ref().map_or(0, Bytes::len) + self.tokens.len() * 4
    }
}

/// A save with its keys.
pub(crate) struct Keyed {
    pub root: ChainKey,
    pub page_tokens: usize,
    pub save: Save,
    /// Keys of the pages.
    pub pages: Vec<ChainKey>,
    pub snapshot: Option<ChainKey>,
}

impl Keyed {
    pub fn new(root: ChainKey, page_tokens: usize, save: Save) -> Option<Self> {
        let rest = save.tokens.len().checked_sub(save.pages.len().checked_mul(page_tokens)?)?;
        if rest >= page_tokens || (save.snapshot.is_none() && rest > 0) {
            return None;
        }
        let mut last = save.parent;
        let mut pages = Vec::with_capacity(save.pages.len());
        for tokens in save.tokens.chunks_exact(page_tokens) {
            last = last.page(tokens);
            pages.push(last);
        }
        let tail = &save.tokens[save.tokens.len() - rest..];
        // A snapshot hangs on a page; what is shorter is computed faster than read.
        let snapshot = (last != root).then(|| last.snapshot(tail)).filter(|_| save.snapshot.is_some());
        Some(Self { root, page_tokens, pages, snapshot, save })
    }

    pub fn keys(&self) -> impl Iterator<Item = &ChainKey> {
        self.pages.iter().chain(&self.snapshot)
    }

    pub fn header(&self, page: usize) -> Header {
        let parent = page.checked_sub(1).map_or(self.save.parent, |before| self.pages[before]);
        Header {
            kind: Kind::Page,
            root: self.root,
            parent,
            position: ((self.save.first_page + page) * self.page_tokens) as u64,
            tokens: self.save.tokens[page * self.page_tokens..][..self.page_tokens].to_vec(),
        }
    }

    pub fn snapshot_header(&self) -> Header {
        let end = self.pages.len();
        Header {
            kind: Kind::Snapshot,
            root: self.root,
            parent: self.pages.last().copied().unwrap_or(self.save.parent),
            position: ((self.save.first_page + end) * self.page_tokens) as u64,
            tokens: self.save.tokens[end * self.page_tokens..].to_vec(),
        }
    }
}
