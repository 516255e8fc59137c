//! Byte-pair merging of one pre-token.
//!
//! Starting from one token per byte, the adjacent pair with the lowest rank is merged (the leftmost one on ties), until
//! no adjacent pair can be merged. Short pre-tokens are scanned for the lowest rank each time; long ones keep a
//! heap of the candidates, so that a pre-token of n bytes takes O(n log n) time and O(n) memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::RandomState;

/// Merge ranks stay below this: [`Candidate`] keeps them in the bits above a position.
pub(super) const MAX_MERGES: usize = 1 << 24;

/// The rank of a pair that cannot be merged.
const NEVER: u32 = u32::MAX;

/// Pre-tokens of at most this many bytes are merged by scanning. Measured: the two ways cost the same near 100 bytes.
const SCAN_LIMIT: usize = 64;

/// The merges of a vocabulary.
pub(super) struct MergeTable {
    byte_tokens: [u32; 256],
    /// (left id, right id) → (rank, joined id)
    pairs: HashMap<u64, (u32, u32), RandomState>,
    /// Joined id of each rank.
    joined: Vec<u32>,
}

#[inline]
fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl MergeTable {
    pub(super) fn with_capacity(byte_tokens: [u32; 256], merges: usize) -> Self {
        Self {
            byte_tokens,
            pairs: HashMap::with_capacity_and_hasher(merges, RandomState::default()),
            joined: Vec::with_capacity(merges),
        }
    }

    /// Appends the merge of the next rank. Returns the rank that the pair already has, if it has one.
    ///
    /// `joined` must be the token whose bytes are those of `left` and `right` joined.
    pub(super) fn push(&mut self, left: u32, right: u32, joined: u32) -> Result<(), u32> {
        let rank = self.joined.len() as u32;
        if let Some((earlier, _)) = self.pairs.insert(pair_key(left, right), (rank, joined)) {
            return Err(earlier);
        }
        self.joined.push(joined);
        Ok(())
    }

    /// The merged pairs (left id, right id), by rank.
    pub(super) fn pairs_by_rank(&self) -> Vec<(u32, u32)> {
        let mut pairs = vec![(0, 0); self.joined.len()];
        for (&key, &(rank, _)) in &self.pairs {
            pairs[rank as usize] = ((key >> 32) as u32, key as u32);
        }
        pairs
    }

    /// The token of a single byte.
    #[inline]
    pub(super) fn byte_token(&self, byte: u8) -> u32 {
        self.byte_tokens[usize::from(byte)]
    }

    /// Rank and joined id of a pair; rank [`NEVER`] if it cannot be merged.
    #[inline]
    fn pair(&self, left: u32, right: u32) -> (u32, u32) {
        self.pairs.get(&pair_key(left, right)).copied().unwrap_or((NEVER, 0))
    }

    /// Appends the token ids of one pre-token.
    pub(super) fn merge(&self, word: &[u8], buffers: &mut MergeBuffers, ids: &mut Vec<u32>) {
        if word.len() <= SCAN_LIMIT {
            self.merge_by_scanning(word, &mut buffers.parts, ids);
        } else {
            self.merge_by_heap(word, buffers, ids);
        }
    }

    fn merge_by_scanning(&self, word: &[u8], parts: &mut Vec<Part>, ids: &mut Vec<u32>) {
        parts.clear();
        parts.extend(word.iter().map(|&byte| Part { id: self.byte_token(byte), rank: NEVER, joined: 0 }));
        for at in 1..parts.len() {
            (parts[at - 1].rank, parts[at - 1].joined) = self.pair(parts[at - 1].id, parts[at].id);
        }
        loop {
            let mut lowest = (NEVER, 0);
            for (at, part) in parts.iter().enumerate() {
                if part.rank < lowest.0 {
                    lowest = (part.rank, at);
                }
            }
            let (rank, at) = lowest;
            if rank == NEVER {
                break;
            }
            parts[at].id = parts[at].joined;
            parts.remove(at + 1);
            (parts[at].rank, parts[at].joined) = match parts.get(at + 1) {
                Some(right) => self.pair(parts[at].id, right.id),
                None => (NEVER, 0),
            };
            if at > 0 {
                (parts[at - 1].rank, parts[at - 1].joined) = self.pair(parts[at - 1].id, parts[at].id);
            }
        }
        ids.extend(parts.iter().map(|part| part.id));
    }

    fn merge_by_heap(&self, word: &[u8], buffers: &mut MergeBuffers, ids: &mut Vec<u32>) {
        let nodes = &mut buffers.nodes;
        nodes.clear();
        nodes.extend(word.iter().map(|&byte| Node {
            id: self.byte_token(byte),
            rank: NEVER,
            length: 1,
            length_before: 1,
        }));
        let mut candidates = std::mem::take(&mut buffers.candidates);
        candidates.clear();
        for at in 1..nodes.len() {
            let (rank, _) = self.pair(nodes[at - 1].id, nodes[at].id);
            if rank != NEVER {
                nodes[at - 1].rank = rank;
                candidates.push(Candidate::new(rank, at - 1));
            }
        }
        let mut heap = BinaryHeap::from(candidates);
        while let Some(candidate) = heap.pop() {
            let (rank, at) = candidate.parts();
            // A rank belongs to one pair, so a node whose rank has changed is no longer that candidate.
            if nodes[at].rank != rank {
                continue;
            }
            let right = at + usize::from(nodes[at].length);
            let after = right + usize::from(nodes[right].length);
            // The joined token's bytes are at most `MAX_TOKEN_BYTES`, so this does not wrap.
            let length = nodes[at].length + nodes[right].length;
            nodes[right].rank = NEVER;
            nodes[at].id = self.joined[rank as usize];
            nodes[at].length = length;
            let update = |nodes: &mut [Node], heap: &mut BinaryHeap<Candidate>, left: usize, right: usize| {
                let (rank, _) = self.pair(nodes[left].id, nodes[right].id);
                nodes[left].rank = rank;
                if rank != NEVER {
                    heap.push(Candidate::new(rank, left));
                }
            };
            if after < nodes.len() {
                nodes[after].length_before = length;
                update(nodes, &mut heap, at, after);
            } else {
                nodes[at].rank = NEVER;
            }
            if at > 0 {
                let before = at - usize::from(nodes[at].length_before);
                update(nodes, &mut heap, before, at);
            }
        }
        let mut at = 0;
        while let Some(node) = nodes.get(at) {
            ids.push(node.id);
            at += usize::from(node.length);
        }
        buffers.candidates = heap.into_vec();
    }
}

/// Reusable memory for merging.
#[derive(Default)]
pub(super) struct MergeBuffers {
    parts: Vec<Part>,
    nodes: Vec<Node>,
    candidates: Vec<Candidate>,
}

impl MergeBuffers {
    /// Frees what an unusually long pre-token made large.
    pub(super) fn shrink(&mut self, limit: usize) {
        self.nodes.clear();
        self.nodes.shrink_to(limit);
        self.candidates.clear();
        self.candidates.shrink_to(limit);
    }

    /// Entries that the buffers for long pre-tokens have room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.nodes.capacity() + self.candidates.capacity()
    }
}

/// A token of a short pre-token.
struct Part {
    id: u32,
    /// Rank and joined id of the pair of this token and the next one.
    rank: u32,
    joined: u32,
}

/// A token of a long pre-token, stored at the position of its first byte. Neighbours are found by length.
struct Node {
    id: u32,
    /// Rank of the pair of this token and the next one; [`NEVER`] also where a token has been swallowed.
    rank: u32,
    length: u16,
    /// Length of the token before this one (the first token has none: unused).
    length_before: u16,
}

/// A pair that may be merged: rank in the high 24 bits, position in the low 40, so that order is by rank, then leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(Reverse<u64>);

impl Candidate {
    const POSITION_BITS: u32 = 40;

    fn new(rank: u32, position: usize) -> Self {
        Self(Reverse(u64::from(rank) << Self::POSITION_BITS | position as u64))
    }

    fn parts(&self) -> (u32, usize) {
        let position = self.0.0 & ((1 << Self::POSITION_BITS) - 1);
        ((self.0.0 >> Self::POSITION_BITS) as u32, position as usize)
    }
}
