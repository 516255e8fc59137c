//! The model's operations on a CUDA device.
//!
//! Operations are noted and run when somebody looks at a result: a whole token is then one graph of kernels, recorded at the
//! second batch of a shape and replayed from then on. Tokens, positions and page tables are device data, so the graph
//! does not depend on them.

mod attention;
mod digest;
mod executor;
mod experts;
mod hyper;
mod linear;
mod linear_one;
mod workspace;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use ds4_model::logits::{Digest, DigestRequest};
use ds4_model::rope::Frequencies;
use ds4_model::state::StateParts;
use ds4_model::{
    Backend, Buffer, Compute, Config, LayerTensors, Model, ModelError, Numerics, Rows, Sequence, StateLayout, Sublayer,
    Tensor,
};

use crate::cache::{CacheLayout, CudaSequence, Sequences};
use crate::device::counting::CountingDevice;
use crate::device::{Device, DeviceError};
use crate::residency::Residency;
use crate::tensors::DeviceTensors;
use crate::weights::Storage;
use executor::{Executor, Step};

/// How to run on a CUDA device.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaOptions {
    /// Numeric switches.
    pub numerics: Numerics,
    /// Whether tensors that are the same bytes of the file (as in a synthetic model whose layers share their weights) take
    /// memory once.
    pub share_weights: bool,
}

/// Which forms of activations any product of the model takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub integers: bool,
    /// float16, of any activations.
    pub halves: bool,
    /// float16 of the query latent, of the attention's result, of what the output's first half leaves, and of what is between an expert's
    /// matrices: where a matrix that they meet is float16.
    pub latent: bool,
    pub attended: bool,
    pub low: bool,
    pub mid: bool,
    /// Whether large batches run on warpgroup instructions, which want the int8 codes in an order of their own.
    pub turned: bool,
}

impl Needs {
    /// What the model's products need. `turned`: whether the device has warpgroup instructions.
    fn of(model: &Model, numerics: Numerics, turned: bool) -> Self {
        let forms = is_int8(numerics.compute);
        let half = |tensor: &Tensor| Storage::of(tensor.ty) == Storage::F16;
        let any = |of: &dyn Fn(&LayerTensors) -> bool| forms && model.layers.iter().any(of);
        Self {
            integers: forms,
            halves: forms,
            latent: any(&|t| half(&t.q_b) || t.indexer.as_ref().is_some_and(|indexer| half(&indexer.q_b))),
            attended: any(&|t| half(&t.out_a)),
            low: any(&|t| half(&t.out_b)),
            mid: any(&|t| half(&t.down_shexp)),
            turned: forms && turned,
        }
    }
}

/// The CUDA backend.
pub struct CudaBackend {
    model: Arc<Model>,
    numerics: Numerics,
    prefill_rows: usize,
    device: Arc<dyn Device>,
    sequences: Sequences,
    executor: RefCell<Executor>,
}

impl CudaBackend {
    /// A backend for `model`, its weights brought to the device. `progress` hears how many bytes of the file are there.
    ///
    /// # Errors
    /// A shape that the kernels are not made for; not enough memory; a failing device.
    pub fn new(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        options: CudaOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, DeviceError> {
        let config = model.config();
        let plan = Residency::plan(&model, device.memory()?, options)?;
        plan.check()?;
        let frequencies = [Frequencies::plain(config), Frequencies::compressed(config)];
        let frequencies: Vec<f32> = frequencies.iter().flat_map(|f| f.as_slice().to_vec()).collect();
        let tensors = DeviceTensors::load(&device, &model, options.share_weights, &frequencies, progress)?;
        let host = Arc::new(StateLayout::new(config, options.numerics.kv));
        let sequences = Sequences::new(&device, CacheLayout::new(config, Arc::clone(&host)))?;
        let layout = CacheLayout::new(config, host);
        let executor = Executor::new(&device, &model, tensors, layout, options.numerics)?;
        let executor = RefCell::new(executor);
        Ok(Self { numerics: options.numerics, prefill_rows: plan.prefill_rows, device, sequences, executor, model })
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Forgets recorded graphs; batches are recorded anew.
    pub fn forget_graphs(&mut self) {
        self.executor.get_mut().graphs_clear();
    }

    fn note(&mut self, step: Step) {
        self.executor.get_mut().note(step);
    }

    /// What a batch needs of its sequences, noted once per batch.
    fn bring_sequences(&mut self, rows: &Rows, sequences: &mut [&mut CudaSequence]) -> Result<(), DeviceError> {
        let executor = self.executor.get_mut();
        if executor.has_sequences() {
            return Ok(());
        }
        for span in rows.spans() {
            let sequence = &mut *sequences[span.sequence];
            let mut place = self.sequences.make_room(sequence, span.len)?;
            place.first_row = span.first_row as u32;
            place.first_position = span.first_position as u32;
            executor.add_span(place, self.sequences.hold(sequence));
        }
        Ok(())
    }
}

/// Refuses shapes that the kernels are not made for.
fn check_shape(c: &Config) -> Result<(), DeviceError> {
    let width = c.n_head * c.head_dim / c.o_groups;
    let rules = [
        (c.hc == 4, "hyper_connection.count", c.hc, "4"),
        (
            c.n_embd.is_multiple_of(64) && c.n_embd <= 8192,
            "embedding_length",
            c.n_embd,
            "a multiple of 64, at most 8192",
        ),
        (
            c.head_dim.is_multiple_of(128) && c.head_dim <= 512,
            "attention.key_length",
            c.head_dim,
            "128, 256, 384 or 512",
        ),
        (c.rope_dim.is_multiple_of(4), "rope.dimension_count", c.rope_dim, "a multiple of 4"),
        (c.idx_dim == 128, "attention.indexer.key_length", c.idx_dim, "128"),
        (c.idx_heads <= 64, "attention.indexer.head_count", c.idx_heads, "at most 64"),
        (c.n_expert <= 512, "expert_count", c.n_expert, "at most 512"),
        (c.n_expert_used <= 32, "expert_used_count", c.n_expert_used, "at most 32"),
        (c.n_ff.is_multiple_of(32), "expert_feed_forward_length", c.n_ff, "a multiple of 32"),
        (c.o_rank.is_multiple_of(32), "attention.output_lora_rank", c.o_rank, "a multiple of 32"),
        (width.is_multiple_of(32), "attention.output_group_count", c.o_groups, "groups of whole 32 channels"),
    ];
    match rules.into_iter().find(|rule| !rule.0) {
        Some((_, key, found, expected)) => Err(DeviceError::new(format!(
            "the CUDA kernels are not made for this model: deepseek4.{key} is {found}, expected {expected}. Use --backend cpu"
        ))),
        None => Ok(()),
    }
}

impl Backend for CudaBackend {
    type Sequence = CudaSequence;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn prefill_rows(&self) -> usize {
        self.prefill_rows
    }

    fn new_sequence(&self) -> CudaSequence {
        self.sequences.create()
    }

    fn export(&self, sequence: &CudaSequence) -> Result<Sequence, ModelError> {
        self.executor.borrow_mut().flush()?;
        self.sequences.export(sequence)
    }

    fn export_parts(&self, sequence: &CudaSequence, pages: Range<usize>) -> Result<StateParts, ModelError> {
        self.executor.borrow_mut().flush()?;
        self.sequences.export_parts(sequence, pages)
    }

    fn import(&self, state: &Sequence) -> Result<CudaSequence, ModelError> {
        self.executor.borrow_mut().flush()?;
        self.sequences.import(state)
    }

    fn arithmetic(&self) -> &'static str {
        "cuda"
    }

    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        Ok(self.executor.get_mut().begin(rows)?)
    }

    fn embed(&mut self, _rows: &Rows) -> Result<(), ModelError> {
        self.note(Step::Embed);
        Ok(())
    }

    fn hc_mix(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        self.note(Step::HyperMix(layer, sublayer));
        Ok(())
    }

    fn attn_in(&mut self, layer: usize) -> Result<(), ModelError> {
        self.note(Step::AttentionIn(layer));
        Ok(())
    }

    fn attn_q(&mut self, layer: usize, _rows: &Rows) -> Result<(), ModelError> {
        self.note(Step::Query(layer));
        Ok(())
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut CudaSequence]) -> Result<(), ModelError> {
        self.bring_sequences(rows, sequences)?;
        self.note(Step::Append(layer));
        Ok(())
    }

    fn index_select(
        &mut self,
        layer: usize,
        rows: &Rows,
        sequences: &mut [&mut CudaSequence],
    ) -> Result<(), ModelError> {
        self.bring_sequences(rows, sequences)?;
        self.note(Step::Select(layer));
        Ok(())
    }

    fn attend(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut CudaSequence]) -> Result<(), ModelError> {
        self.bring_sequences(rows, sequences)?;
        self.note(Step::Attend(layer));
        Ok(())
    }

    fn attn_out(&mut self, layer: usize) -> Result<(), ModelError> {
        self.note(Step::AttentionOut(layer));
        Ok(())
    }

    fn hc_merge(&mut self, _layer: usize, _sublayer: Sublayer) -> Result<(), ModelError> {
        self.note(Step::HyperMerge);
        Ok(())
    }

    fn route(&mut self, layer: usize, _rows: &Rows) -> Result<(), ModelError> {
        self.note(Step::Route(layer));
        Ok(())
    }

    fn moe(&mut self, layer: usize) -> Result<(), ModelError> {
        self.note(Step::Experts(layer));
        Ok(())
    }

    fn head(&mut self, _rows: &Rows) -> Result<(), ModelError> {
        self.note(Step::Head);
        Ok(())
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        Ok(self.executor.borrow_mut().read(buffer)?)
    }

    fn digest(&mut self, requests: &[DigestRequest]) -> Result<Option<Vec<Digest>>, ModelError> {
        Ok(Some(self.executor.get_mut().digest(requests)?))
    }

    fn read_logits(&mut self, row: usize, tokens: Range<usize>) -> Result<Vec<f32>, ModelError> {
        Ok(self.executor.get_mut().read_logits(row, tokens)?)
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        Ok(self.executor.get_mut().write(buffer, values)?)
    }

    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        Ok(self.executor.borrow_mut().selection(row)?)
    }
}

/// Bytes of activations and scratch memory for batches of `rows` rows.
pub(crate) fn scratch_bytes(
    device: &Arc<dyn Device>,
    counting: &CountingDevice,
    model: &Model,
    layout: &CacheLayout,
    numerics: Numerics,
    rows: usize,
) -> Result<u64, DeviceError> {
    let config = model.config();
    check_shape(config)?;
    // The larger of what devices take.
    let needs = Needs::of(model, numerics, true);
    let work = workspace::Workspace::new(device, config, layout, needs, rows)?;
    let head = workspace::HeadSpace::new(device, config, needs, executor::MOST_GRAPH_ROWS)?;
    let bytes = counting.used() + (executor::SCORE_BYTES + executor::PART_BYTES) as u64;
    drop((work, head));
    Ok(bytes)
}

/// Whether products run on int8 activations where the weights allow it.
pub(crate) fn is_int8(compute: Compute) -> bool {
    compute == Compute::Int8
}
