//! The stored prefixes of one model: finding the longest of a prompt, reading it, saving what is new.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;

use crate::key::{Chain, ChainKey};
use crate::record::{Kind, RecordError};
use crate::save::Save;
use crate::storage::ReadMemory;
use crate::store::KvStore;

/// Threads that read the files of one prefix: more than cores, since most of them wait for the disk.
const READERS: usize = 8;
/// Files that one of them reads one after the other into memory side by side: at the sizes of V4 Flash 6 MiB. More would leave some
/// readers idle at the end.
const TOGETHER: usize = 14;
/// How often [`Prefixes::restore`] tries a shorter prefix after it met a damaged one.
const TRIES: usize = 4;

/// The stored prefixes of one model.
#[derive(Clone, Debug)]
pub struct Prefixes {
    store: KvStore,
    root: ChainKey,
    page_tokens: usize,
}

/// Where a stored prefix of a prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its tokens.
    pub tokens: usize,
    /// Its full pages.
    pub pages: usize,
    /// Key of its snapshot.
    pub snapshot: ChainKey,
}

/// A prefix that was read and verified.
#[derive(Debug)]
pub struct Loaded {
    /// Its tokens.
    pub tokens: usize,
    /// Payloads of its full pages.
    pub pages: Vec<Bytes>,
    /// Payload of its snapshot.
    pub tail: Bytes,
}

impl Prefixes {
    pub(crate) fn new(store: KvStore, root: ChainKey, page_tokens: usize) -> Self {
        Self { store, root, page_tokens: page_tokens.max(1) }
    }

    /// The store.
    pub fn store(&self) -> &KvStore {
        &self.store
    }

    /// An empty chain.
    pub fn chain(&self) -> Chain {
        Chain::new(self.root, self.page_tokens)
    }

    /// The longest stored prefix of `tokens` that leaves at least one token over and is longer than `beyond`.
    /// `chain` has the keys of their pages.
    pub fn find(&self, chain: &Chain, tokens: &[u32], beyond: usize) -> Option<Found> {
        let found = self.find_in_index(chain.keys(), tokens);
        let found = found.unwrap_or_else(|error| {
            self.store.warn(format!("the KV cache's index cannot be read: {error}"));
            None
        });
        found.filter(|found| found.tokens > beyond)
    }

    fn find_in_index(&self, keys: &[ChainKey], tokens: &[u32]) -> rusqlite::Result<Option<Found>> {
        let reader = self.store.reader();
        // Pages are written after their parents and removed before them: where one is, all before it are.
        let (mut deepest, mut from, mut to) = (None, 0, keys.len());
        while from < to {
            let middle = from.midpoint(to);
            match reader.page(&keys[middle])? {
                Some(page) => (deepest, from) = (Some(page.id), middle + 1),
                None => to = middle,
            }
        }
        let Some(deepest) = deepest else { return Ok(None) };
        let found = reader.deepest_snapshot(deepest, self.page_tokens, tokens)?;
        Ok(found.and_then(|(snapshot, pages)| {
            let tokens = usize::try_from(snapshot.tokens).ok()?;
            Some(Found { tokens, pages, snapshot: snapshot.key })
        }))
    }

    /// Reads a prefix that was found. `None`, with a warning, if anything about it is not as it was written; it is then
    /// out of the index.
    pub fn load(&self, chain: &Chain, found: &Found) -> Option<Loaded> {
        let keys = chain.keys().get(..found.pages)?;
        // The snapshot is the largest file: it goes first.
        let wanted = |number: usize| match number.checked_sub(1) {
            None => (found.snapshot, Kind::Snapshot, found.pages),
            Some(page) => (keys[page], Kind::Page, page),
        };
        let read = |number: usize, memory: &mut ReadMemory| {
            let (key, kind, page) = wanted(number);
            self.payload(&key, kind, chain.parent_of(page), (page * self.page_tokens) as u64, memory)
        };
        let Some(mut payloads) = read_all(keys.len() + 1, read) else {
            self.store.lock_stats().damaged += 1;
            return None;
        };
        let bytes: usize = payloads.iter().map(Bytes::len).sum();
        let mut stats = self.store.lock_stats();
        stats.loaded_bytes += bytes as u64;
        stats.loads += 1;
        drop(stats);
        if let Some(writer) = self.store.writer() {
            writer.touch(found.snapshot);
        }
        let tail = payloads.remove(0);
        Some(Loaded { tokens: found.tokens, pages: payloads, tail })
    }

    /// Finds and reads; what turns out to be damaged makes way for something shorter.
    pub fn restore(&self, chain: &Chain, tokens: &[u32], beyond: usize) -> Option<Loaded> {
        for _ in 0..TRIES {
            let found = self.find(chain, tokens, beyond)?;
            if let Some(loaded) = self.load(chain, &found) {
                return Some(loaded);
            }
            // The writer takes out what is damaged; a reader would find the same again.
            self.store.writer()?.flush();
        }
        None
    }

    /// Reads and checks one file.
    fn payload(
        &self,
        key: &ChainKey,
        kind: Kind,
        parent: ChainKey,
        position: u64,
        memory: &mut ReadMemory,
    ) -> Option<Bytes> {
        match self.store.files().read(key, kind, memory) {
            Ok((header, payload))
                if header.root == self.root && header.parent == parent && header.position == position =>
            {
                Some(payload)
            }
            Ok(_) => self.give_up(key, kind, &RecordError::Foreign),
            // Evicted since it was found, by this process or another.
            Err(RecordError::Io(error)) if error.kind() == ErrorKind::NotFound => {
                self.forget(key, kind);
                None
            }
            Err(error) => self.give_up(key, kind, &error),
        }
    }

    fn give_up(&self, key: &ChainKey, kind: Kind, error: &RecordError) -> Option<Bytes> {
        let path = self.store.files().path(key, kind);
        self.store
            .warn(format!("the KV cache ignores {}: {error}; what depends on it is computed again", path.display()));
        self.forget(key, kind);
        None
    }

    fn forget(&self, key: &ChainKey, kind: Kind) {
        if let Some(writer) = self.store.writer() {
            writer.forget(*key, kind);
        }
    }

    /// How many pages at the beginning of `chain` are stored or about to be; 0 for a reader.
    pub fn stored_pages(&self, chain: &Chain) -> usize {
        self.store.writer().map_or(0, |writer| writer.known_pages(chain.keys()))
    }

    /// Whether the snapshot with this key is stored or about to be.
    pub fn has_snapshot(&self, key: &ChainKey) -> bool {
        self.store.writer().is_some_and(|writer| writer.knows(key))
    }

    /// Whether anything can be saved at all.
    pub fn is_writable(&self) -> bool {
        self.store.writer().is_some()
    }

    /// Gives something to the writer. False if it has too much to do; nothing is written then.
    pub fn save(&self, save: Save) -> bool {
        self.store.writer().is_some_and(|writer| writer.save(self.root, self.page_tokens, save))
    }
}

/// Reads files `0..n` on several threads, the first by itself and the others in groups. `None` as soon as `read` has one for any of
/// them.
fn read_all(n: usize, read: impl Fn(usize, &mut ReadMemory) -> Option<Bytes> + Sync) -> Option<Vec<Bytes>> {
    let groups = n.saturating_sub(1).div_ceil(TOGETHER) + 1;
    let files = |group: usize| match group.checked_sub(1) {
        None => 0..n.min(1),
        Some(before) => before * TOGETHER + 1..(before * TOGETHER + 1 + TOGETHER).min(n),
    };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let read_some = || {
        let mut done = Vec::new();
        loop {
            let group = next.fetch_add(1, Ordering::Relaxed);
            if group >= groups {
                return Some(done);
            }
            let mut memory = ReadMemory::for_files(files(group).len());
            for number in files(group) {
                let payload = if failed.load(Ordering::Relaxed) { None } else { read(number, &mut memory) };
                if payload.is_none() {
                    failed.store(true, Ordering::Relaxed);
                }
                done.push((number, payload?));
            }
        }
    };
    let parts: Vec<Option<Vec<(usize, Bytes)>>> = thread::scope(|scope| {
        let others: Vec<_> = (1..READERS.min(groups)).map(|_| scope.spawn(read_some)).collect();
        let own = read_some();
        // A panic in a reader is a defect that costs the prefix.
        std::iter::once(own).chain(others.into_iter().map(|reader| reader.join().unwrap_or(None))).collect()
    });
    let mut all: Vec<_> = parts.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    all.sort_unstable_by_key(|&(number, _)| number);
    Some(all.into_iter().map(|(_, payload)| payload).collect())
}
