//! The model's operations on a CPU.
//!
//! Weights stay in the file mapping and are multiplied as they are stored. Every operation is cut into tasks for
//! the thread pool so that each value is computed whole by one task, in a fixed order: results do not depend on the
//! cut, the batch or the number of threads (see [`kernels`](crate::kernels)).

mod attend;
mod cached;
mod compress;
mod experts;
mod hyper;
mod linear;
mod projections;
mod select;
mod workspace;

use std::sync::Arc;

use ds4_gguf::Access;
use ds4_model::rope::Frequencies;
use ds4_model::{Backend, Buffer, Config, Model, ModelError, Numerics, Rows, Sequence, StateLayout, Sublayer};

use crate::kernels::Isa;
use crate::pool::{Pool, PoolError};
use crate::processors;
use workspace::Workspace;

/// How to run on this CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Where they run.
    pub placement: Placement,
    /// Instruction set; `None` for the best one that the CPU has.
    pub isa: Option<Isa>,
    /// Numeric switches.
    pub numerics: Numerics,
}

/// Where threads run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the operating system puts them.
    #[default]
    Free,
    /// Each on a core of its own, if there is one thread per core; see [`Pool::new_bound`].
    Cores,
}

/// The CPU backend.
pub struct CpuBackend {
    model: Arc<Model>,
    numerics: Numerics,
    layout: Arc<StateLayout>,
    pool: Pool,
    isa: Isa,
    plain: Frequencies,
    compressed: Frequencies,
    work: Workspace,
}

impl CpuBackend {
    /// A backend for `model`.
    ///
    /// # Errors
    /// The operating system refuses the threads.
    pub fn new(model: Arc<Model>, options: CpuOptions) -> Result<Self, PoolError> {
        let threads = options.threads.unwrap_or_else(processors::default_threads);
        let pool = match options.placement {
            Placement::Free => Pool::new(threads)?,
            Placement::Cores => Pool::new_bound(threads)?,
        };
        // Weights are read where they lie.
        model.gguf().advise_all(Access::HugePages);
        let config = model.config();
        Ok(Self {
            numerics: options.numerics,
            layout: Arc::new(StateLayout::new(config, options.numerics.kv)),
            pool,
            isa: options.isa.unwrap_or_else(Isa::detect),
            plain: Frequencies::plain(config),
            compressed: Frequencies::compressed(config),
            work: Workspace::default(),
            model,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads, for measurements beside the model.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn config(&self) -> &Config {
        self.model.config()
    }

    /// The rotary frequencies of a layer.
    fn frequencies(&self, layer: usize) -> &Frequencies {
        if self.config().ratios[layer] == 0 { &self.plain } else { &self.compressed }
    }
}

impl Backend for CpuBackend {
    type Sequence = Sequence;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        self.numerics
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
        self.work.resize(&self.pool, self.model.config(), rows);
        self.work.set_angles(&self.plain, &self.compressed, rows.positions());
        Ok(())
    }

    fn embed(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let (hc, n_embd) = (self.config().hc, self.config().n_embd);
        for (streams, &token) in self.work.streams.chunks_exact_mut(hc * n_embd).zip(rows.tokens()) {
            let (first, rest) = streams.split_at_mut(n_embd);
            self.model.decode_row(&self.model.token_embd, token as usize, first);
            for stream in rest.chunks_exact_mut(n_embd) {
                stream.copy_from_slice(first);
            }
        }
        Ok(())
    }

    fn hc_mix(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        self.mix_streams(layer, sublayer);
        Ok(())
    }

    fn attn_in(&mut self, layer: usize) -> Result<(), ModelError> {
        self.project_input(layer);
        Ok(())
    }

    fn attn_q(&mut self, layer: usize, rows: &Rows) -> Result<(), ModelError> {
        self.make_queries(layer, rows);
        Ok(())
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        self.round_kv(layer);
        self.compress(layer, rows, sequences);
        Ok(())
    }

    fn index_select(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        self.select_rows(layer, rows, sequences);
        Ok(())
    }

    fn attend(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Sequence]) -> Result<(), ModelError> {
        self.attend_rows(layer, rows, sequences);
        self.store_window(layer, rows, sequences);
        Ok(())
    }

    fn attn_out(&mut self, layer: usize) -> Result<(), ModelError> {
        self.project_output(layer);
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
        Ok(self.work.read(buffer))
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        self.work.write(buffer, values);
        Ok(())
    }

    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        Ok(self.work.selection.get(row).cloned().flatten())
    }
}
