//! Every operation of a backend against the reference, one at a time.
//!
//! Both backends run the same batch through the model. After each operation its results are compared and the
//! reference's values replace the backend's, so that each operation is judged on exact inputs and an error is found
//! where it is made. The batch mixes a fresh sequence, one that crosses window and page borders, and single tokens
//! deep enough in a context that the indexer has to choose.

use std::sync::Arc;

use crate::logits::{Digest, DigestRequest, DrawRequest, softmax};
use crate::reference::ReferenceBackend;
use crate::rows::Wanted;
use crate::state::{OVERLAPPING_RATIO, SequenceState};
use crate::{Backend, Buffer, Compute, KvPrecision, Model, ModelError, Rows, Sequence, Sublayer, forward};

/// How one operation compared, over all layers.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The operation.
    pub operation: &'static str,
    /// What was compared.
    pub result: String,
    /// Largest error of any layer: root mean square of the differences over that of the reference's values, or for
    /// choices the share that differs.
    pub error: f64,
    /// The bound that `error` must keep.
    pub bound: f64,
    /// The layer with that error.
    pub layer: usize,
}

impl Comparison {
    /// Whether the error keeps its bound. NaN does not.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}

/// Error bound of results without rounding.
const EXACT: f64 = 1e-4;
/// Of results where a value next to a rounding border may fall to either side.
const ROUNDED: f64 = 5e-3;
/// Of products with int8 activations.
const INT8: f64 = 0.04;
/// Of the experts with int8 activations: two quantizations in a row, and outputs that are small against the sum of
/// their terms' magnitudes, so that the same noise weighs more (the tiny random models show 0.06 to 0.17).
const INT8_EXPERTS: f64 = 0.25;
/// Share of choices (experts, compressed rows) that may differ where scores tie within float error.
const CHOICES: f64 = 5e-3;

/// A batch and the sequences before it, made with the reference once and used for any number of backends.
pub struct Scenario {
    model: Arc<Model>,
    kv: KvPrecision,
    rows: Rows,
    sequences: Vec<Sequence>,
}

impl Scenario {
    /// A scenario on pseudo-random tokens for backends that keep their cache in precision `kv`.
    ///
    /// # Errors
    /// None on a valid model.
    pub fn new(model: &Arc<Model>, kv: KvPrecision, seed: u64) -> Result<Self, ModelError> {
        let config = model.config();
        let mut reference = ReferenceBackend::new(Arc::clone(model), kv);
        // Sequences that end just before something happens, and one past the indexer's limit.
        let deep = (config.idx_topk + 8) * OVERLAPPING_RATIO + 1;
        let lengths =
            [(0, 7), (config.window - 1, 5), (config.page_tokens() - 2, 4), (deep.min(config.context_length - 1), 1)];
        let mut tokens = Tokens { state: seed, vocab: config.n_vocab as u64 };
        let mut sequences = Vec::new();
        let mut rows = Rows::new();
        for (i, (before, new)) in lengths.into_iter().enumerate() {
            let mut sequence = reference.new_sequence();
            for part in tokens.take(before).chunks(256) {
                let mut rows = Rows::new();
                rows.push(0, sequence.len(), part, Wanted::None);
                forward(&mut reference, &rows, &mut [&mut sequence])?;
            }
            rows.push(i, before, &tokens.take(new), Wanted::Last);
            sequences.push(sequence);
        }
        Ok(Self { model: Arc::clone(model), kv, rows, sequences })
    }

    /// Compares every operation of `backend` with the reference.
    ///
    /// # Errors
    /// A failing device.
    ///
    /// # Panics
    /// When the backend keeps its cache in another precision.
    pub fn compare<B: Backend>(&self, backend: &mut B) -> Result<Vec<Comparison>, ModelError> {
        assert_eq!(backend.numerics().kv, self.kv, "a scenario belongs to one cache precision");
        let mut expected_sequences = self.sequences.clone();
        let sequences = expected_sequences.iter().map(|s| backend.import(s)).collect::<Result<Vec<_>, _>>()?;
        let mut reference = ReferenceBackend::new(Arc::clone(&self.model), self.kv);
        compare(backend, &mut reference, &self.rows, sequences, &mut expected_sequences)
    }
}

fn compare<B: Backend>(
    backend: &mut B,
    reference: &mut ReferenceBackend,
    rows: &Rows,
    mut sequences: Vec<B::Sequence>,
    expected_sequences: &mut [Sequence],
) -> Result<Vec<Comparison>, ModelError> {
    let numerics = backend.numerics();
    let config = reference.model().config().clone();
    let has_compressor: Vec<bool> = reference.model().layers.iter().map(|layer| layer.compressor.is_some()).collect();
    let has_indexer: Vec<bool> = reference.model().layers.iter().map(|layer| layer.indexer.is_some()).collect();

    let mut judge = Judge { backend, reference, found: Vec::new() };
    let int8 = |exact: f64| if numerics.compute == Compute::Int8 { INT8 } else { exact };
    judge.backend.begin(rows)?;
    judge.reference.begin(rows)?;
    judge.backend.embed(rows)?;
    judge.reference.embed(rows)?;
    judge.values("embed", 0, Buffer::Streams, 0.0)?;
    for layer in 0..config.n_layer {
        let mut theirs: Vec<&mut B::Sequence> = sequences.iter_mut().collect();
        let mut ours: Vec<_> = expected_sequences.iter_mut().collect();

        judge.both(|b| b.hc_mix(layer, Sublayer::Attention), |r| r.hc_mix(layer, Sublayer::Attention))?;
        for buffer in [Buffer::Input, Buffer::Post, Buffer::Comb] {
            judge.values("hc_mix", layer, buffer, EXACT)?;
        }
        judge.both(|b| b.attn_in(layer), |r| r.attn_in(layer))?;
        judge.values("attn_in", layer, Buffer::QueryLatent, int8(EXACT))?;
        judge.values("attn_in", layer, Buffer::Kv, int8(EXACT))?;
        if has_compressor[layer] {
            judge.values("attn_in", layer, Buffer::CompressorKv, int8(EXACT))?;
            judge.values("attn_in", layer, Buffer::CompressorGate, int8(EXACT))?;
        }
        if has_indexer[layer] {
            for buffer in [Buffer::IndexerKv, Buffer::IndexerGate, Buffer::IndexerWeights] {
                judge.values("attn_in", layer, buffer, int8(EXACT))?;
            }
        }
        judge.both(|b| b.attn_q(layer, rows), |r| r.attn_q(layer, rows))?;
        judge.values("attn_q", layer, Buffer::QueryLatent, EXACT)?;
        judge.values("attn_q", layer, Buffer::Query, int8(EXACT))?;
        if has_indexer[layer] {
            judge.values("attn_q", layer, Buffer::IndexerQuery, int8(ROUNDED))?;
        }
        judge.both(|b| b.kv_append(layer, rows, &mut theirs), |r| r.kv_append(layer, rows, &mut ours))?;
        judge.values("kv_append", layer, Buffer::Kv, ROUNDED)?;
        judge.both(|b| b.index_select(layer, rows, &mut theirs), |r| r.index_select(layer, rows, &mut ours))?;
        judge.selections(layer, rows.len())?;
        judge.both(|b| b.attend(layer, rows, &mut theirs), |r| r.attend(layer, rows, &mut ours))?;
        judge.values("attend", layer, Buffer::Attended, ROUNDED)?;
        judge.both(|b| b.attn_out(layer), |r| r.attn_out(layer))?;
        judge.values("attn_out", layer, Buffer::Output, int8(EXACT))?;
        judge.both(|b| b.hc_merge(layer, Sublayer::Attention), |r| r.hc_merge(layer, Sublayer::Attention))?;
        judge.values("hc_merge", layer, Buffer::Streams, EXACT)?;

        judge.both(|b| b.hc_mix(layer, Sublayer::Experts), |r| r.hc_mix(layer, Sublayer::Experts))?;
        for buffer in [Buffer::Input, Buffer::Post, Buffer::Comb] {
            judge.values("hc_mix", layer, buffer, EXACT)?;
        }
        judge.both(|b| b.route(layer, rows), |r| r.route(layer, rows))?;
        judge.choices(layer, config.n_expert_used)?;
        judge.values("route", layer, Buffer::ExpertWeights, int8(ROUNDED))?;
        judge.both(|b| b.moe(layer), |r| r.moe(layer))?;
        let bound = if numerics.compute == Compute::Int8 { INT8_EXPERTS } else { EXACT };
        judge.values("moe", layer, Buffer::Output, bound)?;
        judge.both(|b| b.hc_merge(layer, Sublayer::Experts), |r| r.hc_merge(layer, Sublayer::Experts))?;
        judge.values("hc_merge", layer, Buffer::Streams, EXACT)?;
    }
    judge.both(|b| b.head(rows), |r| r.head(rows))?;
    judge.values("head", config.n_layer, Buffer::Logits, int8(EXACT))?;
    judge.digests(config.n_layer, config.n_vocab)?;

    let mut found = judge.found;
    for span in rows.spans() {
        sequences[span.sequence].advance(span.len);
        expected_sequences[span.sequence].advance(span.len);
    }
    for (theirs, ours) in sequences.iter().zip(expected_sequences.iter()) {
        let theirs = backend.export(theirs)?;
        for (layer, error) in theirs.difference_by_layer(ours).into_iter().enumerate() {
            note(&mut found, "state", "rows and frontiers".to_owned(), layer, error, ROUNDED);
        }
    }
    Ok(found)
}

struct Judge<'a, B> {
    backend: &'a mut B,
    reference: &'a mut ReferenceBackend,
    found: Vec<Comparison>,
}

impl<B: Backend> Judge<'_, B> {
    fn both(
        &mut self,
        theirs: impl FnOnce(&mut B) -> Result<(), ModelError>,
        ours: impl FnOnce(&mut ReferenceBackend) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        theirs(self.backend)?;
        ours(self.reference)
    }

    /// Compares a buffer and puts the reference's values into the backend.
    fn values(&mut self, operation: &'static str, layer: usize, buffer: Buffer, bound: f64) -> Result<(), ModelError> {
        let (theirs, ours) = (self.backend.read(buffer)?, self.reference.read(buffer)?);
        note(&mut self.found, operation, format!("{buffer:?}"), layer, relative_rms(&theirs, &ours), bound);
        self.backend.write(buffer, &ours)
    }

    /// Digests of logits must be those of the definition to the bit: of the model's, which may tie nowhere, and of some that do, and
    /// that no model should give.
    fn digests(&mut self, layer: usize, n_vocab: usize) -> Result<(), ModelError> {
        let plain = self.reference.read(Buffer::Logits)?;
        let mut odd: Vec<f32> = plain.iter().map(|logit| (logit * 4.0).round() / 4.0).collect();
        let largest = odd.iter().copied().fold(f32::MIN, f32::max);
        for (i, value) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, largest].into_iter().enumerate() {
            odd[(i * 37 + 3) % n_vocab] = value;
        }
        let draw = |temperature, below| Some(DrawRequest { temperature, below });
        let draws = [None, draw(1.0, 2.5), draw(0.3, 0.0), draw(2.0, f32::MAX), draw(1e-30, 1.0)];
        let mut wrong = 0;
        for logits in [&plain, &odd] {
            self.backend.write(Buffer::Logits, logits)?;
            for (row, logits) in logits.chunks(n_vocab).enumerate() {
                let (likeliest, _) = softmax::largest(logits).unwrap_or((0, 0.0));
                for banned in [&[][..], &[likeliest, n_vocab as u32 - 1]] {
                    let requests: Vec<_> = draws.iter().map(|&draw| DigestRequest::new(row, banned, draw)).collect();
                    let requests: Vec<_> = requests.into_iter().flatten().collect();
                    let Some(found) = self.backend.digest(&requests)? else { return Ok(()) };
                    let right = |(i, request)| found.get(i) == Some(&Digest::of(logits, request));
                    wrong += requests.iter().enumerate().filter(|&pair| !right(pair)).count();
                }
            }
        }
        note(&mut self.found, "head", "digests".to_owned(), layer, wrong as f64, 0.0);
        self.backend.write(Buffer::Logits, &plain)
    }

    fn choices(&mut self, layer: usize, used: usize) -> Result<(), ModelError> {
        let (theirs, ours) = (self.backend.read(Buffer::ExpertIds)?, self.reference.read(Buffer::ExpertIds)?);
        let share = if theirs.len() == ours.len() {
            let pairs = theirs.chunks(used).zip(ours.chunks(used));
            let missing: usize = pairs.map(|(t, o)| o.iter().filter(|id| !t.contains(id)).count()).sum();
            missing as f64 / ours.len() as f64
        } else {
            f64::INFINITY
        };
        note(&mut self.found, "route", "ExpertIds".to_owned(), layer, share, CHOICES);
        self.backend.write(Buffer::ExpertIds, &ours)
    }

    fn selections(&mut self, layer: usize, rows: usize) -> Result<(), ModelError> {
        for row in 0..rows {
            let share = match (self.backend.selection(row)?, self.reference.selection(row)?) {
                (None, None) => continue,
                (Some(theirs), Some(ours)) if theirs.len() == ours.len() => {
                    let missing = ours.iter().filter(|k| theirs.binary_search(k).is_err()).count();
                    missing as f64 / ours.len() as f64
                }
                _ => f64::INFINITY,
            };
            // One row of a short selection is more than the share that many rows would allow.
            note(&mut self.found, "index_select", "selection".to_owned(), layer, share, 0.02);
        }
        Ok(())
    }
}

/// Keeps the worst layer of each result.
fn note(found: &mut Vec<Comparison>, operation: &'static str, result: String, layer: usize, error: f64, bound: f64) {
    match found.iter_mut().find(|c| c.operation == operation && c.result == result) {
        Some(known) if error > known.error || error.is_nan() => (known.error, known.layer) = (error, layer),
        Some(_) => {}
        None => found.push(Comparison { operation, result, error, bound, layer }),
    }
}

/// Root mean square of the differences over that of the expected values.
pub(crate) fn relative_rms(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let (mut difference, mut size) = (0.0f64, 0.0f64);
    for (&f, &e) in found.iter().zip(expected) {
        // Equal infinities (gates that were never reached) are no difference.
        if f.to_bits() != e.to_bits() {
            difference += (f64::from(f) - f64::from(e)).powi(2);
        }
        if e.is_finite() {
            size += f64::from(e).powi(2);
        }
    }
    if difference == 0.0 { 0.0 } else { (difference / size.max(f64::MIN_POSITIVE)).sqrt() }
}

/// A small generator of token ids (SplitMix64).
struct Tokens {
    state: u64,
    vocab: u64,
}

impl Tokens {
    fn take(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| (self.next() % self.vocab) as u32).collect()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
