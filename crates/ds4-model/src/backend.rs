//! The operations that a device has to offer: the seam between the model and its kernels.

use std::ops::Range;

use crate::logits::{Digest, DigestRequest};
use crate::numerics::Numerics;
use crate::state::{SequenceState, StateParts};
use crate::{Model, ModelError, Rows, Sequence};

/// Which of a layer's two sublayers a hyper-connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sublayer {
    /// The attention sublayer.
    Attention,
    /// The expert sublayer.
    Experts,
}

/// The values that one operation leaves for the next, by name. A backend keeps them where it likes; tests read
/// and write them to run one operation alone.
///
/// All are float32, row-major, the first dimension being the rows of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Buffer {
    /// Hyper-connection streams, [rows, hc, n_embd].
    Streams,
    /// Normalized sublayer input, [rows, n_embd].
    Input,
    /// Weight of the sublayer output in each stream, [rows, hc].
    Post,
    /// Mixing of the streams, [rows, hc (from), hc (to)].
    Comb,
    /// Query latent, [rows, q_rank]: before its norm after `attn_in`, normalized after `attn_q`.
    QueryLatent,
    /// Queries, [rows, n_head, head_dim].
    Query,
    /// The KV row, [rows, head_dim]: raw projection after `attn_in`, as cached after `kv_append`.
    Kv,
    /// Compressor values, [rows, width].
    CompressorKv,
    /// Compressor gates before the position bias, [rows, width].
    CompressorGate,
    /// Indexer compressor values, [rows, 2 * idx_dim].
    IndexerKv,
    /// Indexer compressor gates before the position bias, [rows, 2 * idx_dim].
    IndexerGate,
    /// Indexer head weights, scaled, [rows, idx_heads].
    IndexerWeights,
    /// Indexer queries, [rows, idx_heads, idx_dim].
    IndexerQuery,
    /// Attention result per head, rotated back, [rows, n_head, head_dim].
    Attended,
    /// Sublayer output, [rows, n_embd].
    Output,
    /// Chosen experts as numbers, [rows, n_expert_used].
    ExpertIds,
    /// Their weights, [rows, n_expert_used].
    ExpertWeights,
    /// Logits of the wanted rows, [wanted rows, n_vocab].
    Logits,
}

/// A device that can run the model.
///
/// The operations work on buffers that the backend holds ([`Buffer`]); [`begin`](Self::begin) sizes them for a batch.
/// The one rule beyond the formulas: **a row's result does not depend on which other rows share the batch**, on
/// how a prompt is cut into batches, on thread count or on timing. Reductions have a fixed order.
pub trait Backend {
    /// The state of one sequence, in the device's memory.
    type Sequence: SequenceState + Send;

    /// The model that it runs.
    fn model(&self) -> &Model;

    /// The numeric switches that it was built with.
    fn numerics(&self) -> Numerics;

    /// A new, empty sequence.
    fn new_sequence(&self) -> Self::Sequence;

    /// The sequence's state in host memory, in the layout that every backend shares.
    fn export(&self, sequence: &Self::Sequence) -> Result<Sequence, ModelError>;

    /// The sequence on this device that a host state describes.
    fn import(&self, state: &Sequence) -> Result<Self::Sequence, ModelError>;

    /// Full pages of the sequence's state and the rest of it, for a store. Backends whose memory is elsewhere may have a way
    /// that does not copy the pages that are not asked for.
    fn export_parts(&self, sequence: &Self::Sequence, pages: Range<usize>) -> Result<StateParts, ModelError> {
        Ok(self.export(sequence)?.parts(pages))
    }

    /// A name for how it computes. States of backends with different names are never mixed: their bits may differ.
    fn arithmetic(&self) -> &'static str {
        std::any::type_name::<Self>()
    }

    /// Rows of one step of a prompt with which it is quick while nobody else waits, and for which its memory is planned.
    fn prefill_rows(&self) -> usize {
        512
    }

    /// Prepares for a batch. The rows are valid (tokens inside the vocabulary, sequences at the right positions).
    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError>;

    /// Token embedding, copied into every stream: tokens → `Streams`.
    fn embed(&mut self, rows: &Rows) -> Result<(), ModelError>;

    /// Hyper-connection before a sublayer, with the sublayer's norm: `Streams` → `Input`, `Post`, `Comb`.
    fn hc_mix(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError>;

    /// Every projection of the attention input:
    /// `Input` → `QueryLatent`, `Kv`, `CompressorKv`, `CompressorGate`, `IndexerKv`, `IndexerGate`, `IndexerWeights`.
    fn attn_in(&mut self, layer: usize) -> Result<(), ModelError>;

    /// Queries: `QueryLatent` → `QueryLatent` (normalized), `Query` (normalized, rotated), `IndexerQuery` (rotated, rounded).
    fn attn_q(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError>;

    /// Norm, rotation and rounding of `Kv`; feeds the compressors and appends every row that they complete.
    /// The window ring is not touched yet: `attend` still needs the rows that this batch pushes out.
    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Self::Sequence])
    -> Result<(), ModelError>;

    /// The indexer's choice of compressed rows for every row that sees more than `idx_topk` of them. Kept inside the backend.
    fn index_select(
        &mut self,
        layer: usize,
        rows: &Rows,
        sequences: &mut [&mut Self::Sequence],
    ) -> Result<(), ModelError>;

    /// Attention over the window and the selected (or all) compressed rows: `Query`, `Kv` → `Attended`.
    /// Afterwards the batch's `Kv` rows are in the window ring.
    fn attend(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Self::Sequence]) -> Result<(), ModelError>;

    /// Grouped low-rank output projection: `Attended` → `Output`.
    fn attn_out(&mut self, layer: usize) -> Result<(), ModelError>;

    /// Hyper-connection after a sublayer: `Streams`, `Output`, `Post`, `Comb` → `Streams`.
    fn hc_merge(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError>;

    /// Expert choice and weights: `Input`, tokens → `ExpertIds`, `ExpertWeights`.
    fn route(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError>;

    /// Routed and shared experts, summed in the order of `ExpertIds`, the shared expert last: → `Output`.
    fn moe(&mut self, layer: usize) -> Result<(), ModelError>;

    /// Output head for the wanted rows: `Streams` → `Logits`.
    fn head(&mut self, rows: &Rows) -> Result<(), ModelError>;

    /// Copies a buffer out. For logits and tests.
    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError>;

    /// What sampling needs of rows of `Logits`, one digest per request ([`Digest::of`], bit for bit), computed where the logits are.
    /// `None`, whatever is asked for: they are as near to the host as digests would be.
    fn digest(&mut self, _requests: &[DigestRequest]) -> Result<Option<Vec<Digest>>, ModelError> {
        Ok(None)
    }

    /// A part of one row of `Logits`: `row` counts the rows that have logits, `tokens` lie within the vocabulary.
    fn read_logits(&mut self, row: usize, tokens: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let first = row * self.model().config().n_vocab;
        let all = self.read(Buffer::Logits)?;
        let part = all.get(first + tokens.start..first + tokens.end);
        let missing = || ModelError::Device(format!("the backend gave {} logits, too few for row {row}", all.len()));
        part.map(<[f32]>::to_vec).ok_or_else(missing)
    }

    /// Overwrites a buffer. For tests.
    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError>;

    /// The compressed rows that `index_select` chose for `row`, ascending; `None` where all visible rows are attended.
    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError>;
}
