//! The model's operations on a graphics card.

mod attention;
mod batch;
mod buffers;
mod checks;
mod experts;
mod hyper;
mod params;
mod products;
mod workspace;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ds4_model::rope::Frequencies;
use ds4_model::rows::Wanted;
use ds4_model::state::StateParts;
use ds4_model::{
    Backend, Buffer, Compute, KvPrecision, Model, ModelError, Numerics, Rows, Sequence, Sublayer, forward,
};

use crate::adapter::{AdapterReport, Api};
use crate::bandwidth;
use crate::cache::{CacheLayout, Context, WgpuSequence, lock};
use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::pipelines::Pipelines;
use crate::recorder::{self, Recorded, Recorder};
use crate::residency::Residency;
use crate::shader::Shape;
use crate::tensors::Tensors;
use crate::timing::KernelTime;
use crate::transfer;
use crate::weights::{Loader, Source};
use batch::Batch;
use checks::{check_shape, source};
use workspace::{HeadSpace, Scratch, Workspace};

/// How to run on a card.
pub struct WgpuOptions<'a> {
    /// Which interface leads to the card.
    pub api: Api,
    /// Numeric switches.
    pub numerics: Numerics,
    /// Whether subgroup operations are used where the card has them. Results are the same either way; tests compare them.
    pub subgroups: bool,
    /// Whether the card converts float16 where it does so exactly. Results are the same either way; tests compare them.
    pub halves: bool,
    /// Whether copied weights are taken apart into planes. Results are the same either way; tests compare them.
    pub planes: bool,
    /// Whether kernels are recorded without wgpu's bookkeeping, which takes a part of the processor's time. Results are the same either
    /// way; tests compare them.
    pub direct: bool,
    /// Whether tensors that are the same bytes of the file take the card's memory once.
    pub share_weights: bool,
    /// Whether kernels for short prompts and single tokens are compiled at once, several at a time, instead of when they are needed.
    pub prepare: bool,
    /// Folder in which the driver's results of compiling are kept for the next start, if kernels are recorded directly.
    pub kernel_folder: Option<&'a Path>,
    /// Hears what will lie in the card's memory, before anything is loaded.
    pub planned: &'a mut dyn FnMut(&Residency),
    /// Hears how many bytes of the model have been brought to the card.
    pub progress: &'a mut dyn FnMut(u64),
}

/// The backend for graphics cards, over Vulkan or Metal.
pub struct WgpuBackend {
    model: Arc<Model>,
    numerics: Numerics,
    gpu: Arc<Gpu>,
    context: Arc<Mutex<Context>>,
    layout: CacheLayout,
    tensors: Tensors,
    /// Compression ratios in the model, each once: their windows' starts have angles of their own.
    ratios: Vec<usize>,
    plain: Frequencies,
    compressed: Frequencies,
    work: Workspace,
    head: HeadSpace,
    scratch: Scratch,
    batch: Batch,
    /// Whether weights lie in planes.
    planes: bool,
    name: &'static str,
}

/// Larger batches are handed over layer by layer: no command buffer may run for seconds, because some systems take a card away
/// that does not answer.
const SMALL_BATCH: usize = 16;

impl WgpuBackend {
    /// A backend for `model` on the best card that there is.
    ///
    /// # Errors
    /// No card, or one that cannot run the kernels; a model that does not fit its memory; a failing driver.
    pub fn new(model: Arc<Model>, options: WgpuOptions<'_>) -> Result<Self, WgpuError> {
        let config = model.config();
        check_shape(&model)?;
        let mut gpu = Gpu::open(options.api, options.subgroups)?;
        let kv = options.numerics.kv;
        let opened = Arc::new(gpu);
        let found = recorder::probe(&opened, &Shape::new(config, kv, opened.span, false), options.direct)?;
        gpu = Arc::into_inner(opened).ok_or_else(|| WgpuError::Shape("the card is in use".to_owned()))?;
        if !found.neighbours {
            gpu.span = 1;
        }
        let gpu = Arc::new(gpu);
        let layout = CacheLayout::new(config, kv);
        let plan = Residency::plan(&model, &gpu.report, options.numerics, options.share_weights);
        plan.check()?;
        (options.planned)(&plan);
        let source = source(&gpu, &model)?;
        // The file's layout is only for those who use the file itself.
        let planes = options.planes && matches!(source, Source::Copied);
        let mut shape = Shape::new(config, kv, gpu.span, planes);
        shape.halves = found.halves && options.halves;
        shape.invocations = gpu.most_invocations();
        let pipelines = Pipelines::new(Arc::clone(&gpu), shape, options.kernel_folder, options.direct)?;
        let recorder = Recorder::new(Arc::clone(&gpu), pipelines)?;
        let tensors =
            Tensors::load(&model, Loader::new(&gpu, &model, source, planes, options.share_weights, options.progress))?;
        let context = Context::new(&gpu, recorder, layout.clone())?;
        let mut ratios: Vec<usize> = config.ratios.iter().copied().filter(|&ratio| ratio > 0).collect();
        ratios.sort_unstable();
        ratios.dedup();
        let work = Workspace::new(&gpu, config, 2 + ratios.len(), layout.kv_row as usize, 8)?;
        let head = HeadSpace::new(&gpu, config, 1)?;
        let scratch = Scratch::new(&gpu)?;
        let name = format!("wgpu {} {} {}", gpu.report.api, gpu.report.name, gpu.report.driver);
        let mut backend = Self {
            numerics: options.numerics,
            context: Arc::new(Mutex::new(context)),
            layout,
            tensors,
            ratios,
            plain: Frequencies::plain(config),
            compressed: Frequencies::compressed(config),
            work,
            head,
            scratch,
            batch: Batch::default(),
            planes,
            // A backend is made once or a few times in a process.
            name: Box::leak(name.into_boxed_str()),
            gpu,
            model,
        };
        if options.prepare {
            backend.prepare()?;
        }
        Ok(backend)
    }

    /// Compiles the kernels of short prompts and of single tokens, with and without what happens only at some positions.
    fn prepare(&mut self) -> Result<(), WgpuError> {
        const PROMPT: usize = 16;
        let config = self.model.config();
        // The last position of windows of every compressor, where the indexer has more rows than it chooses.
        let ratios = || config.ratios.iter().copied().filter(|&ratio| ratio > 0);
        let longest = ratios().max().unwrap_or(1);
        let end = ((config.idx_topk + 1) * ratios().min().unwrap_or(1)).next_multiple_of(longest);
        lock(&self.context).recorder.rehearse()?;
        let mut result = Ok(());
        for (first, count) in [(0, PROMPT), (PROMPT, 1), (end - PROMPT, PROMPT), (end - 1, 1)] {
            let mut sequence = WgpuSequence::new(&self.context, &self.layout);
            sequence.len = first;
            let mut rows = Rows::new();
            rows.push(0, first, &vec![0; count], Wanted::Last);
            result = result.and_then(|()| forward(self, &rows, &mut [&mut sequence]));
        }
        let mut context = lock(&self.context);
        context.recorder.end_rehearsal()?;
        result.map_err(|error| WgpuError::Shape(error.to_string()))
    }

    /// How many kernels have been compiled so far.
    pub fn kernels(&self) -> usize {
        lock(&self.context).recorder.pipelines()
    }

    /// The card.
    pub fn adapter(&self) -> &AdapterReport {
        &self.gpu.report
    }

    /// Neighbouring invocations that exchange values directly; 1 without subgroup operations.
    pub fn span(&self) -> u32 {
        self.gpu.span
    }

    /// What was recorded so far, for measurements.
    pub fn recorded(&self) -> Recorded {
        lock(&self.context).recorder.recorded
    }

    /// Hands everything recorded to the card, for measurements; it happens by itself before something is read.
    ///
    /// # Errors
    /// A failing card.
    pub fn submit(&mut self) -> Result<(), ModelError> {
        Ok(lock(&self.context).recorder.submit()?)
    }

    /// Waits until the card has done everything, for measurements.
    ///
    /// # Errors
    /// A failing card.
    pub fn finish(&mut self) -> Result<(), ModelError> {
        lock(&self.context).recorder.submit()?;
        Ok(self.gpu.wait()?)
    }

    /// Bytes per second at which the card reads its memory, measured on the model's weights: the roofline of decoding.
    ///
    /// # Errors
    /// A failing card.
    pub fn read_bandwidth(&mut self) -> Result<f64, ModelError> {
        let parts = self.tensors.layers.iter().flat_map(|layer| &layer.gate_exps.parts);
        let largest = parts.map(|part| &part.view).max_by_key(|view| view.size).cloned();
        Ok(bandwidth::measure(&self.gpu, &mut lock(&self.context).recorder, largest)?)
    }

    /// From now on, kernels run one by one and are timed. False if the card cannot tell.
    ///
    /// # Errors
    /// A failing card.
    pub fn start_timing(&mut self) -> Result<bool, ModelError> {
        Ok(lock(&self.context).recorder.start_timing(true)?)
    }

    /// From now on it is counted how long the card works. False if the card cannot tell.
    ///
    /// # Errors
    /// A failing card.
    pub fn start_counting(&mut self) -> Result<bool, ModelError> {
        Ok(lock(&self.context).recorder.start_timing(false)?)
    }

    /// Milliseconds in which the card worked since [`Self::start_counting`].
    ///
    /// # Errors
    /// A failing card.
    pub fn finish_counting(&mut self) -> Result<f64, ModelError> {
        Ok(lock(&self.context).recorder.finish_busy()?)
    }

    /// Time of each kernel since [`Self::start_timing`], the longest first.
    ///
    /// # Errors
    /// A failing card.
    pub fn finish_timing(&mut self) -> Result<Vec<KernelTime>, ModelError> {
        Ok(lock(&self.context).recorder.finish_timing()?)
    }

    fn int8(&self) -> bool {
        self.numerics.compute == Compute::Int8
    }

    /// Which rotary angles a layer has: 0 without compression, 1 with.
    fn kind(&self, layer: usize) -> u32 {
        u32::from(self.model.config().ratios[layer] != 0)
    }

    /// Which angles are those of the starts of a layer's windows.
    fn window_kind(&self, layer: usize) -> u32 {
        let ratio = self.model.config().ratios[layer];
        2 + self.ratios.iter().position(|&r| r == ratio).unwrap_or(0) as u32
    }

    fn kinds(&self) -> u32 {
        2 + self.ratios.len() as u32
    }
}

impl Backend for WgpuBackend {
    type Sequence = WgpuSequence;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn new_sequence(&self) -> WgpuSequence {
        WgpuSequence::new(&self.context, &self.layout)
    }

    fn export(&self, sequence: &WgpuSequence) -> Result<Sequence, ModelError> {
        lock(&self.context).export(sequence)
    }

    fn import(&self, state: &Sequence) -> Result<WgpuSequence, ModelError> {
        transfer::import(&self.context, state)
    }

    fn export_parts(&self, sequence: &WgpuSequence, pages: Range<usize>) -> Result<StateParts, ModelError> {
        lock(&self.context).export_parts(sequence, pages)
    }

    fn arithmetic(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        self.begin_batch(rows)
    }

    fn embed(&mut self, _rows: &Rows) -> Result<(), ModelError> {
        Ok(self.embed_tokens()?)
    }

    fn hc_mix(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        Ok(self.mix_streams(layer, sublayer)?)
    }

    fn attn_in(&mut self, layer: usize) -> Result<(), ModelError> {
        self.batch.layer = layer;
        Ok(self.attention_in(layer)?)
    }

    fn attn_q(&mut self, layer: usize, _rows: &Rows) -> Result<(), ModelError> {
        Ok(self.queries(layer)?)
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut WgpuSequence]) -> Result<(), ModelError> {
        self.set_tables(rows, sequences)?;
        Ok(self.append_rows(layer)?)
    }

    fn index_select(
        &mut self,
        layer: usize,
        rows: &Rows,
        sequences: &mut [&mut WgpuSequence],
    ) -> Result<(), ModelError> {
        self.set_tables(rows, sequences)?;
        Ok(self.select_rows(layer)?)
    }

    fn attend(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut WgpuSequence]) -> Result<(), ModelError> {
        self.set_tables(rows, sequences)?;
        Ok(self.attend_rows(layer)?)
    }

    fn attn_out(&mut self, layer: usize) -> Result<(), ModelError> {
        Ok(self.attention_out(layer)?)
    }

    fn hc_merge(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), ModelError> {
        self.batch.unmerged.set(true);
        if sublayer == Sublayer::Experts {
            let last = layer + 1 == self.model.config().n_layer;
            if last && self.batch.wanted == 0 {
                self.merge_streams()?;
            }
            let done = layer + 1;
            let hand_over = match self.batch.rows {
                // The first layer goes alone: until it is there, the card waits. Recording takes less than a third of the time of
                // computing, so that three times as many layers are recorded while it works on the last ones. Handing over costs as much
                // as recording two layers. The last layers go with the head and the copy of the logits.
                1 => done.is_power_of_two() && done.trailing_zeros().is_multiple_of(2),
                2..=SMALL_BATCH => done.is_power_of_two(),
                _ => true,
            };
            if hand_over || last && self.batch.wanted == 0 {
                lock(&self.context).recorder.submit()?;
            }
        }
        Ok(())
    }

    fn route(&mut self, layer: usize, _rows: &Rows) -> Result<(), ModelError> {
        Ok(self.choose_experts(layer)?)
    }

    fn moe(&mut self, layer: usize) -> Result<(), ModelError> {
        Ok(self.run_experts(layer)?)
    }

    fn head(&mut self, _rows: &Rows) -> Result<(), ModelError> {
        Ok(self.output_head()?)
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        self.read_buffer(buffer)
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        self.write_buffer(buffer, values)
    }

    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        self.selected_rows(row)
    }
}

/// Whether `kv` means that rows are kept in float32.
fn is_exact(kv: KvPrecision) -> bool {
    kv == KvPrecision::Exact
}
