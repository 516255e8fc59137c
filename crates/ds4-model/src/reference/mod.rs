//! The model as plainly as it can be written: the measure for every other backend.
//!
//! Float32 values, sums in float64, one row after the other, weights decoded where they are used. Nothing here is
//! fast; everything is meant to be read beside `docs/model.md`. [`Compute`](crate::Compute) is ignored: this
//! backend always multiplies in float.

mod attention;
mod experts;
mod hyper;
mod math;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::numerics::{KvPrecision, Numerics};
use crate::rope::Frequencies;
use crate::state::StateLayout;
use crate::{Backend, Buffer, Config, Model, ModelError, Rows, Sequence, Sublayer, Tensor};

/// The reference backend.
pub struct ReferenceBackend {
    model: Arc<Model>,
    kv: KvPrecision,
    layout: Arc<StateLayout>,
    plain: Frequencies,
    compressed: Frequencies,
    /// The buffers of the current batch.
    values: HashMap<Buffer, Vec<f32>>,
    /// Per row: the compressed rows to attend, `None` for all visible ones.
    selection: Vec<Option<Vec<u32>>>,
    /// Matrices decoded earlier.
    kept: RefCell<DecodedMatrices>,
}

/// Decoded matrices by address of the tensor's data and number of the slab.
type DecodedMatrices = HashMap<(usize, usize), Arc<[f32]>>;

impl ReferenceBackend {
    /// A reference backend for `model`.
    pub fn new(model: Arc<Model>, kv: KvPrecision) -> Self {
        let config = model.config();
        Self {
            layout: Arc::new(StateLayout::new(config, kv)),
            plain: Frequencies::plain(config),
            compressed: Frequencies::compressed(config),
            values: HashMap::new(),
            selection: Vec::new(),
            kept: RefCell::default(),
            kv,
            model,
        }
    }

    fn config(&self) -> &Config {
        self.model.config()
    }

    fn frequencies(&self, layer: usize) -> &Frequencies {
        if self.config().ratios[layer] == 0 { &self.plain } else { &self.compressed }
    }

    /// A buffer's values; empty before an operation has made them.
    fn get(&self, buffer: Buffer) -> &[f32] {
        self.values.get(&buffer).map_or(&[], Vec::as_slice)
    }

    fn set(&mut self, buffer: Buffer, values: Vec<f32>) {
        self.values.insert(buffer, values);
    }

    /// `y = W x` for each row of `x`: slab `slab` of `weight`. x: [n, cols]; result [n, rows of W].
    fn apply(&self, weight: &Tensor, slab: usize, x: &[f32]) -> Vec<f32> {
        let (n, out) = (x.len() / weight.cols, weight.rows);
        let mut y = vec![0.0; n * out];
        for (o, w) in self.decoded(weight, slab).chunks_exact(weight.cols).enumerate() {
            for (row, x) in x.chunks_exact(weight.cols).enumerate() {
                y[row * out + o] = math::dot(w, x);
            }
        }
        y
    }

    /// One matrix in float32, [rows, cols]; kept for the next use while that takes little memory.
    fn decoded(&self, weight: &Tensor, slab: usize) -> Arc<[f32]> {
        const LARGEST_KEPT: usize = 1 << 20;
        let key = (self.model.bytes(weight).as_ptr() as usize, slab);
        if let Some(kept) = self.kept.borrow().get(&key) {
            return Arc::clone(kept);
        }
        let mut values = vec![0.0; weight.rows * weight.cols];
        for (o, row) in values.chunks_exact_mut(weight.cols).enumerate() {
            self.model.decode_row(weight, slab * weight.rows + o, row);
        }
        let values: Arc<[f32]> = values.into();
        if values.len() <= LARGEST_KEPT {
            self.kept.borrow_mut().insert(key, Arc::clone(&values));
        }
        values
    }
}

impl Backend for ReferenceBackend {
    type Sequence = Sequence;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        Numerics { compute: crate::Compute::F32, kv: self.kv }
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
        self.values.clear();
        self.selection = vec![None; rows.len()];
        Ok(())
    }

    fn embed(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let (hc, n_embd) = (self.config().hc, self.config().n_embd);
        let mut x = vec![0.0; n_embd];
        let mut streams = Vec::with_capacity(rows.len() * hc * n_embd);
        for &token in rows.tokens() {
            self.model.decode_row(&self.model.token_embd, token as usize, &mut x);
            for _ in 0..hc {
                streams.extend_from_slice(&x);
            }
        }
        self.set(Buffer::Streams, streams);
        Ok(())
    }

    fn hc_mix(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        self.mix_streams(layer, sublayer);
        Ok(())
    }

    fn attn_in(&mut self, layer: usize) -> Result<(), ModelError> {
        self.project_attention_input(layer);
        Ok(())
    }

    fn attn_q(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError> {
        self.make_queries(layer, rows);
        Ok(())
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        self.append_rows(layer, rows, sequences);
        Ok(())
    }

    fn index_select(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        self.select_rows(layer, rows, sequences);
        Ok(())
    }

    fn attend(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        self.attend_rows(layer, rows, sequences);
        Ok(())
    }

    fn attn_out(&mut self, layer: usize) -> Result<(), ModelError> {
        self.project_attention_output(layer);
        Ok(())
    }

    fn hc_merge(&mut self, _layer: usize, _sublayer: Sublayer) -> Result<(), ModelError> {
        self.merge_streams();
        Ok(())
    }

    fn route(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError> {
        self.choose_experts(layer, rows);
        Ok(())
    }

    fn moe(&mut self, layer: usize) -> Result<(), ModelError> {
        self.run_experts(layer);
        Ok(())
    }

    fn head(&mut self, rows: &Rows) -> Result<(), ModelError> {
        self.output_head(rows);
        Ok(())
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        Ok(self.get(buffer).to_vec())
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        self.set(buffer, values.to_vec());
        Ok(())
    }

    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        Ok(self.selection.get(row).cloned().flatten())
    }
}
