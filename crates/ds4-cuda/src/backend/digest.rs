//! Digests of logits: what sampling needs of them, computed where they are.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use ds4_model::logits::{BLOCK, Digest, DigestRequest, MOST_BANNED, MOST_CANDIDATES, Softmax};

use super::executor::Executor;
use crate::device::{Device, DeviceError, Memory};
use crate::params;

/// Parts of a row that are searched by blocks of their own.
const SLICES: usize = 32;

/// A request as the kernels read it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Request {
    row: u32,
    draw: u32,
    per_temperature: f32,
    below: f32,
    banned: [u32; MOST_BANNED],
}

/// Where the parts of the answer begin, in bytes.
struct Places {
    sums: usize,
    found: usize,
    candidates: usize,
    /// Behind what the host reads.
    counts: usize,
    end: usize,
}

impl Places {
    fn new(requests: usize, blocks: usize) -> Self {
        let sums = requests * SLICES * 8;
        let found = sums + requests * blocks * 8;
        let candidates = found + (requests * 4).next_multiple_of(8);
        let counts = candidates + requests * MOST_CANDIDATES * 8;
        Self { sums, found, candidates, counts, end: counts + requests * blocks * 4 }
    }
}

/// Memory that requests and digests pass through.
pub(super) struct DigestSpace {
    requests: Memory,
    answers: Memory,
}

impl DigestSpace {
    pub(super) fn new(device: &Arc<dyn Device>) -> Result<Self, DeviceError> {
        Ok(Self { requests: Memory::new(device, 0)?, answers: Memory::new(device, 0)? })
    }
}

impl Executor {
    /// Digests of rows that have logits.
    pub(super) fn digest(&mut self, requests: &[DigestRequest]) -> Result<Vec<Digest>, DeviceError> {
        self.flush()?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let n_vocab = self.model.config().n_vocab;
        if let Some(request) = requests.iter().find(|request| request.row() >= self.batch.wanted.len()) {
            let (row, rows) = (request.row(), self.batch.wanted.len());
            return Err(DeviceError::new(format!("no logits of row {row}: the batch has those of {rows} rows")));
        }
        let blocks = n_vocab.div_ceil(BLOCK);
        let places = Places::new(requests.len(), blocks);
        if self.digests.answers.bytes() < places.end {
            let rows = requests.len().next_multiple_of(8);
            self.digests.requests = Memory::new(&self.device, rows * size_of::<Request>())?;
            self.digests.answers = Memory::new(&self.device, Places::new(rows, blocks).end)?;
        }
        let told: Vec<Request> = requests.iter().map(tell).collect();
        self.device.write(self.digests.requests.address(), bytemuck::cast_slice(&told))?;
        let answers = self.digests.answers.address();
        let digest = params::Digest {
            logits: self.head.logits.address(),
            requests: self.digests.requests.address(),
            keys: answers,
            sums: answers + places.sums as u64,
            counts: answers + places.counts as u64,
            found: answers + places.found as u64,
            candidates: answers + places.candidates as u64,
            n_vocab: n_vocab as u32,
            blocks: blocks as u32,
            most: MOST_CANDIDATES as u32,
            pad: 0,
        };
        let rows = requests.len() as u32;
        self.launch("digest_largest", [SLICES as u32, rows, 1], 256, &digest)?;
        let draws = requests.iter().any(|request| request.draw().is_some());
        if draws {
            self.launch("digest_blocks", [blocks as u32, rows, 1], 256, &digest)?;
            self.launch("digest_candidates", [rows, 1, 1], 256, &digest)?;
        }
        // As 64-bit words, so that every part is aligned.
        let mut words = vec![0_u64; if draws { places.counts } else { places.sums } / 8];
        self.device.read(answers, bytemuck::cast_slice_mut(&mut words))?;
        let digest = |(number, request)| read_digest(&words, &places, blocks, number, request);
        Ok(requests.iter().enumerate().map(digest).collect())
    }

    /// A part of one row of logits.
    pub(super) fn read_logits(&mut self, row: usize, tokens: Range<usize>) -> Result<Vec<f32>, DeviceError> {
        self.flush()?;
        let (n_vocab, rows) = (self.model.config().n_vocab, self.batch.wanted.len());
        if row >= rows || tokens.end > n_vocab {
            return Err(DeviceError::new(format!("no logits of tokens {tokens:?} in row {row} of {rows}")));
        }
        let mut logits = vec![0_f32; tokens.len()];
        if !logits.is_empty() {
            let first = (row * n_vocab + tokens.start) as u64 * 4;
            self.device.read(self.head.logits.address() + first, bytemuck::cast_slice_mut(&mut logits))?;
        }
        Ok(logits)
    }
}

fn tell(request: &DigestRequest) -> Request {
    let draw = request.draw();
    Request {
        row: request.row() as u32,
        draw: u32::from(draw.is_some()),
        per_temperature: draw.map_or(0.0, |draw| Softmax::per_temperature(f64::from(draw.temperature))),
        below: draw.map_or(0.0, |draw| draw.below),
        banned: *request.banned(),
    }
}

/// The digest of request number `number` from what the kernels left.
fn read_digest(words: &[u64], places: &Places, blocks: usize, number: usize, request: &DigestRequest) -> Digest {
    let key = words[number * SLICES..][..SLICES].iter().copied().max().unwrap_or(0);
    let mut digest = Digest { likeliest: None, block_sums: Vec::new(), candidates: Vec::new(), lowest: f32::INFINITY };
    if key == 0 {
        return digest;
    }
    let (ordered, token) = ((key >> 32) as u32, !(key as u32));
    let max = f32::from_bits(ordered ^ if ordered >> 31 == 1 { 0x8000_0000 } else { u32::MAX });
    digest.likeliest = Some((token, max));
    let Some(draw) = request.draw() else { return digest };
    let sums = &words[places.sums / 8 + number * blocks..][..blocks];
    digest.block_sums.extend(sums.iter().map(|&sum| f64::from_bits(sum)));
    let found: &[u32] = bytemuck::cast_slice(&words[places.found / 8..]);
    let found = found[number] as usize;
    if found <= MOST_CANDIDATES {
        let candidates: &[[u32; 2]] = bytemuck::cast_slice(&words[places.candidates / 8 + number * MOST_CANDIDATES..]);
        digest.candidates.extend(candidates[..found].iter().map(|&[token, logit]| (token, f32::from_bits(logit))));
        digest.lowest = draw.lowest(max);
    }
    digest
}
