//! Where the time of forward passes goes, operation by operation.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::logits::{Digest, DigestRequest};
use crate::{Backend, Buffer, Model, ModelError, Numerics, Rows, Sequence, Sublayer};

/// A backend that measures how long each operation of another takes, from the call to its return.
///
/// ```
/// # use std::sync::Arc;
/// # use ds4_model::{Backend, Rows, forward, profile::Profiled, rows::Wanted};
/// # fn show<B: Backend>(backend: &mut B) -> Result<(), ds4_model::ModelError> {
/// let mut profiled = Profiled::new(backend);
/// let mut sequence = profiled.new_sequence();
/// forward(&mut profiled, Rows::new().push(0, 0, &[1, 2, 3], Wanted::Last), &mut [&mut sequence])?;
/// for (operation, time) in profiled.take() {
///     println!("{operation:14} {time:?}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Profiled<'a, B> {
    backend: &'a mut B,
    times: BTreeMap<&'static str, Duration>,
}

impl<'a, B: Backend> Profiled<'a, B> {
    /// Measures `backend`.
    pub fn new(backend: &'a mut B) -> Self {
        Self { backend, times: BTreeMap::new() }
    }

    /// The backend, for what is not to be measured.
    pub fn backend(&mut self) -> &mut B {
        self.backend
    }

    /// Total time of each operation since the last call, longest first.
    pub fn take(&mut self) -> Vec<(&'static str, Duration)> {
        let mut times: Vec<_> = std::mem::take(&mut self.times).into_iter().collect();
        times.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
        times
    }

    fn time<T>(&mut self, operation: &'static str, run: impl FnOnce(&mut B) -> T) -> T {
        let started = Instant::now();
        let result = run(self.backend);
        *self.times.entry(operation).or_default() += started.elapsed();
        result
    }
}

impl<B: Backend> Backend for Profiled<'_, B> {
    type Sequence = B::Sequence;

    fn model(&self) -> &Model {
        self.backend.model()
    }

    fn numerics(&self) -> Numerics {
        self.backend.numerics()
    }

    fn new_sequence(&self) -> B::Sequence {
        self.backend.new_sequence()
    }

    fn export(&self, sequence: &B::Sequence) -> Result<Sequence, ModelError> {
        self.backend.export(sequence)
    }

    fn import(&self, state: &Sequence) -> Result<B::Sequence, ModelError> {
        self.backend.import(state)
    }

    fn prefill_rows(&self) -> usize {
        self.backend.prefill_rows()
    }

    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        self.time("begin", |b| b.begin(rows))
    }

    fn embed(&mut self, rows: &Rows) -> Result<(), ModelError> {
        self.time("embed", |b| b.embed(rows))
    }

    fn hc_mix(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        self.time("hc_mix", |b| b.hc_mix(layer, sublayer))
    }

    fn attn_in(&mut self, layer: usize) -> Result<(), ModelError> {
        self.time("attn_in", |b| b.attn_in(layer))
    }

    fn attn_q(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError> {
        self.time("attn_q", |b| b.attn_q(layer, rows))
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut B::Sequence]) -> Result<(), ModelError> {
        self.time("kv_append", |b| b.kv_append(layer, rows, sequences))
    }

    fn index_select(
        &mut self,
        layer: usize,
        rows: &Rows,
        sequences: &mut [&mut B::Sequence],
    ) -> Result<(), ModelError> {
        self.time("index_select", |b| b.index_select(layer, rows, sequences))
    }

    fn attend(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut B::Sequence]) -> Result<(), ModelError> {
        self.time("attend", |b| b.attend(layer, rows, sequences))
    }

    fn attn_out(&mut self, layer: usize) -> Result<(), ModelError> {
        self.time("attn_out", |b| b.attn_out(layer))
    }

    fn hc_merge(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        self.time("hc_merge", |b| b.hc_merge(layer, sublayer))
    }

    fn route(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError> {
        self.time("route", |b| b.route(layer, rows))
    }

    fn moe(&mut self, layer: usize) -> Result<(), ModelError> {
        self.time("moe", |b| b.moe(layer))
    }

    fn head(&mut self, rows: &Rows) -> Result<(), ModelError> {
        self.time("head", |b| b.head(rows))
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        self.backend.read(buffer)
    }

    fn digest(&mut self, requests: &[DigestRequest]) -> Result<Option<Vec<Digest>>, ModelError> {
        self.time("digest", |b| b.digest(requests))
    }

    fn read_logits(&mut self, row: usize, tokens: Range<usize>) -> Result<Vec<f32>, ModelError> {
        self.backend.read_logits(row, tokens)
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        self.backend.write(buffer, values)
    }

    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        self.backend.selection(row)
    }
}
