//! A backend whose states are real ones, with pages, rings and frontiers, but whose arithmetic is a hash: quick enough for thousands of
//! requests, and what it says depends on every part of the state, so that a wrong one shows.

use std::sync::Arc;
use std::time::Duration;

use ds4_model::logits::{Digest, DigestRequest};
use ds4_model::rows::Wanted;
use ds4_model::state::{Compressor, SequenceState};
use ds4_model::{Backend, Buffer, KvPrecision, Model, ModelError, Numerics, Rows, Sequence, StateLayout, forward};

/// How long a step takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub step: Duration,
    pub row: Duration,
}

pub struct HashedBackend {
    model: Arc<Model>,
    layout: Arc<StateLayout>,
    logits: Vec<f32>,
    cost: Cost,
}

impl HashedBackend {
    pub fn new() -> Self {
        Self::with_cost(Cost::default())
    }

    pub fn with_cost(cost: Cost) -> Self {
        let model = super::model();
        let layout = Arc::new(StateLayout::new(model.config(), KvPrecision::Model));
        Self { model, layout, logits: Vec::new(), cost }
    }

    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// Takes a token in: every part of the state gets something of all tokens before.
    fn push(&self, sequence: &mut Sequence, position: usize, token: u32) {
        let hash = mix(load(sequence, self.layer_with_pages()), token);
        for layer in 0..self.model.config().n_layer {
            let ratio = self.model.config().ratios[layer];
            fill(sequence.window_row_mut(layer, position), hash + layer as u64);
            if ratio == 0 {
                continue;
            }
            store(sequence, layer, hash);
            if (position + 1).is_multiple_of(ratio) {
                let row = position / ratio;
                fill(sequence.compressed_row_mut(layer, row), hash + 100 + layer as u64);
                if self.model.config().has_indexer(ratio) {
                    fill(sequence.index_row_mut(layer, row), hash + 200 + layer as u64);
                }
            }
        }
    }

    /// A layer with a compressor, and so with a frontier.
    fn layer_with_pages(&self) -> usize {
        self.model.config().ratios.iter().position(|&ratio| ratio > 0).expect("a compressed layer")
    }

    /// What comes after `len` tokens: it depends on the frontier, and on rows that the hash chooses.
    fn look(&self, sequence: &Sequence, len: usize) -> u64 {
        let mut hash = load(sequence, self.layer_with_pages());
        for layer in 0..self.model.config().n_layer {
            let ratio = self.model.config().ratios[layer];
            let position = len - 1 - (hash as usize % len.min(self.layout.window));
            hash = mix_bytes(hash, sequence.window_row(layer, position));
            let rows = len.checked_div(ratio).unwrap_or(0);
            if rows > 0 {
                let row = (hash >> 8) as usize % rows;
                hash = mix_bytes(hash, sequence.compressed_row(layer, row));
                if self.model.config().has_indexer(ratio) {
                    hash = mix_bytes(hash, sequence.index_row(layer, row));
                }
            }
        }
        hash
    }
}

fn mix(hash: u64, token: u32) -> u64 {
    let x = (hash ^ u64::from(token)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)) >> 16
}

fn mix_bytes(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| mix(hash, u32::from(byte)))
}

fn fill(bytes: &mut [u8], hash: u64) {
    let mut x = hash;
    for byte in bytes {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = (x >> 56) as u8;
    }
}

/// The 48 bits of a hash, as three whole numbers that float32 holds exactly.
fn store(sequence: &mut Sequence, layer: usize, hash: u64) {
    let frontier = sequence.frontier_mut(layer, Compressor::Attention);
    (0..3).for_each(|part| frontier[part] = (hash >> (16 * part) & 0xFFFF) as f32);
}

fn load(sequence: &Sequence, layer: usize) -> u64 {
    let frontier = sequence.frontier(layer, Compressor::Attention);
    // A new sequence begins with whatever an empty frontier has.
    (0..3).fold(0, |hash, part| hash | (frontier[part].max(0.0) as u64) << (16 * part))
}

/// What greedy sampling makes of a prompt, computed alone, token by token, from nothing.
pub fn answer(prompt: &[u32], len: usize) -> Vec<u32> {
    let mut backend = HashedBackend::new();
    let mut sequence = backend.new_sequence();
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + len {
        let at = sequence.len();
        let mut rows = Rows::new();
        rows.push(0, at, &tokens[at..], Wanted::Last);
        forward(&mut backend, &rows, &mut [&mut sequence]).expect("a working backend");
        let max = backend.logits.iter().copied().fold(f32::MIN, f32::max);
        tokens.push(backend.logits.iter().position(|&x| x == max).expect("a maximum") as u32);
    }
    tokens.split_off(prompt.len())
}

impl Backend for HashedBackend {
    type Sequence = Sequence;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        Numerics { kv: KvPrecision::Model, ..Numerics::default() }
    }

    fn new_sequence(&self) -> Sequence {
        Sequence::new(Arc::clone(&self.layout))
    }

    fn export(&self, sequence: &Sequence) -> Result<Sequence, ModelError> {
        Ok(sequence.clone())
    }

    fn import(&self, state: &Sequence) -> Result<Sequence, ModelError> {
        Ok(state.clone())
    }

    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let time = self.cost.step + self.cost.row * rows.len() as u32;
        if !time.is_zero() {
            std::thread::sleep(time);
        }
        Ok(())
    }

    ds4_scripted::no_arithmetic!();

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        if layer > 0 {
            return Ok(());
        }
        let n_vocab = self.model.config().n_vocab;
        self.logits.clear();
        for span in rows.spans() {
            for (row, position) in span.rows() {
                self.push(sequences[span.sequence], position, rows.tokens()[row]);
                if rows.wanted().contains(&row) {
                    let hash = self.look(sequences[span.sequence], position + 1);
                    self.logits.extend((0..n_vocab as u32).map(|token| (mix(hash, token) >> 24) as f32 / 2e6));
                }
            }
        }
        Ok(())
    }

    fn read(&self, _: Buffer) -> Result<Vec<f32>, ModelError> {
        Ok(self.logits.clone())
    }

    /// As a backend does whose logits are far away.
    fn digest(&mut self, requests: &[DigestRequest]) -> Result<Option<Vec<Digest>>, ModelError> {
        let n_vocab = self.model.config().n_vocab;
        let digest = |request: &DigestRequest| Digest::of(&self.logits[request.row() * n_vocab..][..n_vocab], request);
        Ok(Some(requests.iter().map(digest).collect()))
    }
}
