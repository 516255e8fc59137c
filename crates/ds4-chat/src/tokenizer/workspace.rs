//! Working memory of an encoding call: merge buffers and a cache of recent pre-tokens.
//!
//! Each call takes a workspace of its own from a pool and gives it back, so that concurrent calls share nothing while
//! they work. What a workspace remembers changes how fast a pre-token is encoded, never its ids.

use std::sync::{Mutex, PoisonError};

use super::merge::{MergeBuffers, MergeTable};

/// Pre-tokens longer than this (bytes) are not cached.
const MAX_KEY: usize = 24;
/// Pre-tokens of more token ids than this are not cached.
const MAX_IDS: usize = 8;
/// Cache slots (a power of two): 8192 slots of 64 bytes, 512 KiB.
const SLOTS: usize = 1 << 13;
/// Workspaces that the pool keeps; more exist only while more calls run at once.
const POOLED: usize = 8;
/// Merge buffer entries that a pooled workspace may keep.
const POOLED_BUFFER: usize = 1 << 14;

/// Merge buffers and a pre-token cache.
pub(super) struct Workspace {
    buffers: MergeBuffers,
    cache: Vec<Slot>,
}

/// A cached pre-token. The newest one with the same slot replaces the older one.
#[derive(Clone)]
struct Slot {
    /// The pre-token's bytes, padded with zeros.
    key: [u64; MAX_KEY / 8],
    ids: [u32; MAX_IDS],
    /// Bytes in `key`; 0 in an empty slot.
    key_length: u8,
    id_count: u8,
}

const EMPTY: Slot = Slot { key: [0; MAX_KEY / 8], ids: [0; MAX_IDS], key_length: 0, id_count: 0 };

/// Packs a pre-token of at most [`MAX_KEY`] bytes.
#[inline]
fn pack(word: &[u8]) -> [u64; MAX_KEY / 8] {
    let mut key = [0; MAX_KEY / 8];
    for (packed, bytes) in key.iter_mut().zip(word.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *packed = u64::from_le_bytes(padded);
    }
    key
}

/// Slot of a packed pre-token. Not keyed: colliding text only misses the cache.
#[inline]
fn slot_of(key: &[u64; MAX_KEY / 8]) -> usize {
    // Odd constants from the fractional parts of square roots (2, 3, 5), as in SHA-512's initial state.
    const FACTORS: [u64; 3] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b];
    let mut hash = 0;
    for (&word, factor) in key.iter().zip(FACTORS) {
        let product = u128::from(word ^ hash ^ factor) * u128::from(factor);
        hash = (product as u64) ^ (product >> 64) as u64;
    }
    hash as usize % SLOTS
}

impl Workspace {
    fn new() -> Self {
        Self { buffers: MergeBuffers::default(), cache: vec![EMPTY; SLOTS] }
    }

    /// Appends the token ids of one pre-token.
    #[inline]
    pub(super) fn encode(&mut self, merges: &MergeTable, word: &[u8], ids: &mut Vec<u32>) {
        match word {
            [byte] => ids.push(merges.byte_token(*byte)),
            _ if word.len() <= MAX_KEY => self.encode_cached(merges, word, ids),
            _ => merges.merge(word, &mut self.buffers, ids),
        }
    }

    #[inline]
    fn encode_cached(&mut self, merges: &MergeTable, word: &[u8], ids: &mut Vec<u32>) {
        let key = pack(word);
        let slot = &mut self.cache[slot_of(&key)];
        if slot.key == key && usize::from(slot.key_length) == word.len() {
            ids.extend_from_slice(&slot.ids[..usize::from(slot.id_count)]);
            return;
        }
        let start = ids.len();
        merges.merge(word, &mut self.buffers, ids);
        let new = &ids[start..];
        if let Some(cached) = slot.ids.get_mut(..new.len()) {
            cached.copy_from_slice(new);
            slot.key = key;
            slot.key_length = word.len() as u8;
            slot.id_count = new.len() as u8;
        }
    }
}

/// Workspaces that are not in use.
#[derive(Default)]
pub(super) struct WorkspacePool {
    idle: Mutex<Vec<Workspace>>,
}

impl WorkspacePool {
    /// Runs `work` with a workspace that no other call is using.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = idle().pop();
        let mut workspace = reused.unwrap_or_else(Workspace::new);
        let result = work(&mut workspace);
        workspace.buffers.shrink(POOLED_BUFFER);
        let mut idle = idle();
        if idle.len() < POOLED {
            idle.push(workspace);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    /// Words of 2 to 29 letters, far more of them than the cache has slots, each of them twice in a row.
    fn words() -> impl Iterator<Item = Vec<u8>> {
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        };
        std::iter::from_fn(move || Some((0..2 + random(28)).map(|_| b'a' + random(6) as u8).collect::<Vec<_>>()))
            .take(4 * SLOTS)
            .flat_map(|word| [word.clone(), word])
    }

    #[test]
    fn the_cache_changes_no_ids() {
        let merges = Tokenizer::official().unwrap().merges;
        let mut cached = Workspace::new();
        let mut plain = MergeBuffers::default();
        for word in words() {
            let (mut ids, mut expected) = (Vec::new(), Vec::new());
            cached.encode(&merges, &word, &mut ids);
            merges.merge(&word, &mut plain, &mut expected);
            assert_eq!(ids, expected, "{}", String::from_utf8_lossy(&word));
        }
        let used = cached.cache.iter().filter(|slot| slot.key_length > 0).count();
        assert!(used > SLOTS / 2, "the cache was used: {used} slots");
    }

    #[test]
    fn words_that_differ_only_in_trailing_zero_bytes_are_told_apart() {
        let merges = Tokenizer::official().unwrap().merges;
        let mut workspace = Workspace::new();
        for zeros in [1, 3, 2, 1, 5] {
            let word = [b"x", &[0u8; 5][..zeros]].concat();
            let mut ids = Vec::new();
            workspace.encode(&merges, &word, &mut ids);
            assert_eq!(ids.len(), 1 + zeros);
        }
    }

    #[test]
    fn the_pool_stays_small() {
        let pool = WorkspacePool::default();
        let merges = Tokenizer::official().unwrap().merges;
        // All of them hold a workspace at the same time.
        let barrier = std::sync::Barrier::new(2 * POOLED);
        let work = || {
            pool.with(|workspace| {
                workspace.encode(&merges, &[b'a'; 4 * POOLED_BUFFER], &mut Vec::new());
                barrier.wait();
            });
        };
        std::thread::scope(|scope| (0..2 * POOLED).for_each(|_| drop(scope.spawn(work))));
        let idle = pool.idle.into_inner().unwrap();
        assert_eq!(idle.len(), POOLED);
        assert!(
            idle.iter().all(|workspace| workspace.buffers.capacity() <= 2 * POOLED_BUFFER),
            "long words are forgotten"
        );
    }
}
