//! The model's operations on a graphics card.

mod attention;
mod checks;
mod experts;
mod hyper;
mod params;
mod products;
mod workspace;

use std::cell::Cell;
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
use crate::recorder::{self, Recorder, View};
use crate::shader::Shape;
use crate::tensors::Tensors;
use crate::timing::KernelTime;
use crate::transfer;
use crate::weights::{Loader, Source};
use checks::{check_memory, check_shape, source};
use workspace::{HeadSpace, Scratch, Workspace, merge_step};

/// How to run on a card.
pub struct WgpuOptions<'a> {
    /// Which interface leads to the card.
    pub api: Api,
    /// Numeric switches.
    pub numerics: Numerics,
    /// Whether subgroup operations are used where the card has them. Results are the same either way; tests compare them.
    pub subgroups: bool,
    /// Whether copied weights are taken apart into planes. Results are the same either way; tests compare them.
    pub planes: bool,
    /// Whether tensors that are the same bytes of the file take the card's memory once.
    pub share_weights: bool,
    /// Whether kernels for short prompts and single tokens are compiled at once, several at a time, instead of when they are needed.
    pub prepare: bool,
    /// Folder in which the driver's results of compiling are kept for the next start.
    pub kernel_folder: Option<&'a Path>,
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

/// The batch that is being computed.
#[derive(Default)]
struct Batch {
    rows: usize,
    wanted: usize,
    /// Tokens of the longest sequence, the batch included.
    reach: usize,
    positions: Vec<usize>,
    /// Whether the tables of sequences and pages are on the card.
    has_tables: bool,
    spans: usize,
    /// Layer of the last attention input: its compressor features' width is that of the buffers.
    layer: usize,
    /// Whether `kv_stored` is that of the KV rows, and the indexer's codes those of its queries.
    kv_is_stored: bool,
    /// Whether the KV rows were made final before `append_rows`.
    kv_is_ahead: bool,
    has_codes: bool,
    /// Whether the last sublayer's output has still to enter the streams.
    unmerged: Cell<bool>,
    /// The sublayer whose merging weights have still to be made.
    unweighted: Cell<Option<(usize, Sublayer)>>,
    /// The layer whose queries have still to be normalized and rotated.
    unfinished: Cell<Option<usize>>,
    /// Whether the rows of the layer have entered rings and frontiers.
    is_stored: Cell<bool>,
    /// Token, position, span and slot of each row.
    info: Vec<[u32; 4]>,
    /// Whether the last `index_select` chose for some row.
    selecting: bool,
}

/// Layers of a small batch that are handed over together: the card begins while the rest is recorded.
const LAYERS_AT_ONCE: usize = 6;
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
        let found = recorder::probe(&opened, &Shape::new(config, kv, opened.span, false))?;
        gpu = Arc::into_inner(opened).ok_or_else(|| WgpuError::Shape("the card is in use".to_owned()))?;
        if !found.neighbours {
            gpu.span = 1;
        }
        let gpu = Arc::new(gpu);
        let layout = CacheLayout::new(config, kv);
        check_memory(&gpu, &model, &layout, options.share_weights)?;
        let source = source(&gpu, &model)?;
        // The file's layout is only for those who use the file itself.
        let planes = options.planes && matches!(source, Source::Copied);
        let mut shape = Shape::new(config, kv, gpu.span, planes);
        shape.halves = found.halves;
        shape.invocations = gpu.most_invocations();
        let pipelines = Pipelines::new(Arc::clone(&gpu), shape, options.kernel_folder);
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
        Ok(lock(&self.context).recorder.start_timing()?)
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

    /// Cosine and sine of every pair, for each row and kind. A window's start counts for the row that ends the window.
    fn angles(&self) -> Vec<f32> {
        let pairs = self.plain.pairs();
        let kinds = self.kinds() as usize;
        let mut out = vec![0.0; self.batch.positions.len() * kinds * pairs * 2];
        let mut angles = vec![(0.0, 0.0); pairs];
        for (row, &position) in out.chunks_exact_mut(kinds * pairs * 2).zip(&self.batch.positions) {
            for (kind, to) in row.chunks_exact_mut(pairs * 2).enumerate() {
                let at = match kind {
                    0 | 1 => position,
                    _ if (position + 1).is_multiple_of(self.ratios[kind - 2]) => position + 1 - self.ratios[kind - 2],
                    _ => continue,
                };
                let frequencies = if kind == 0 { &self.plain } else { &self.compressed };
                frequencies.angles(at, &mut angles);
                for (pair, &(cos, sin)) in to.chunks_exact_mut(2).zip(&angles) {
                    pair.copy_from_slice(&[cos, sin]);
                }
            }
        }
        out
    }

    /// Puts sequences and pages of the batch on the card, at the first operation that has the sequences.
    fn set_tables(&mut self, rows: &Rows, sequences: &mut [&mut WgpuSequence]) -> Result<(), ModelError> {
        if self.batch.has_tables {
            return Ok(());
        }
        const SPAN_WORDS: usize = 8;
        let mut context = lock(&self.context);
        let mut spans = Vec::new();
        let mut pages: Vec<u32> = Vec::new();
        for span in rows.spans() {
            let sequence = &mut *sequences[span.sequence];
            context.make_room(sequence, span.end_position())?;
            let pages_at = rows.spans().len() * SPAN_WORDS + pages.len();
            let numbers = [span.first_row, span.len, span.first_position, pages_at];
            spans.push(sequence.slot_number());
            spans.extend(numbers.map(|n| n as u32));
            spans.extend([0; SPAN_WORDS - 5]);
            pages.extend(sequence.pages.iter().map(|page| page.number));
        }
        spans.extend(pages);
        if workspace::ensure(&self.gpu, &mut self.scratch.tables, "tables", spans.len())? {
            context.recorder.forget();
        }
        // Handed over before what was recorded so far runs, none of which reads the tables.
        self.gpu.queue.write_buffer(&self.scratch.tables.buffer, 0, bytemuck::cast_slice(&spans));
        for span in rows.spans() {
            let slot = sequences[span.sequence].slot_number();
            span.rows().for_each(|(row, _)| self.batch.info[row][3] = slot);
        }
        self.gpu.queue.write_buffer(&self.work.row_info.buffer, 0, bytemuck::cast_slice(&self.batch.info));
        self.batch.has_tables = true;
        Ok(())
    }

    /// The buffer that a name stands for, and its values per row.
    fn place(&self, buffer: Buffer) -> (View, usize) {
        let config = self.model.config();
        let work = &self.work;
        let ratio = config.ratios[self.batch.layer];
        let feature = if ratio == 0 { 0 } else { config.compressor_width(ratio, config.head_dim) };
        let (view, width) = match buffer {
            Buffer::Streams => (&work.streams, config.hc * config.n_embd),
            Buffer::Input => (&work.input.float, config.n_embd),
            Buffer::Post => (&work.merge, config.hc),
            Buffer::Comb => (&work.merge, config.hc * config.hc),
            Buffer::QueryLatent => (&work.latent.float, config.q_rank),
            Buffer::Query => (&work.query, config.n_head * config.head_dim),
            Buffer::Kv => (&work.kv, config.head_dim),
            Buffer::CompressorKv => (&work.compressor_kv, feature),
            Buffer::CompressorGate => (&work.compressor_gate, feature),
            Buffer::IndexerKv => (&work.indexer_kv, 2 * config.idx_dim),
            Buffer::IndexerGate => (&work.indexer_gate, 2 * config.idx_dim),
            Buffer::IndexerWeights => (&work.indexer_weights, config.idx_heads),
            Buffer::IndexerQuery => (&work.indexer_query, config.idx_heads * config.idx_dim),
            Buffer::Attended => (&work.attended.float, config.n_head * config.head_dim),
            Buffer::Output => (&work.output, config.n_embd),
            Buffer::ExpertIds => (&work.ids, config.n_expert_used),
            Buffer::ExpertWeights => (&work.weights, config.n_expert_used),
            Buffer::Logits => (&self.head.logits, config.n_vocab),
        };
        (view.clone(), width)
    }

    fn read_words(&self, view: &View, first: usize, count: usize) -> Result<Vec<u32>, ModelError> {
        let piece = (&view.buffer, view.offset + first as u64 * 4, count as u64 * 4);
        let bytes = lock(&self.context).recorder.read(&[piece])?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Post and mixing weights lie together in rows: their place in a row.
    fn merge_part(&self, buffer: Buffer) -> Option<(usize, Range<usize>)> {
        let hc = self.model.config().hc;
        let stride = merge_step(hc);
        match buffer {
            Buffer::Post => Some((stride, 0..hc)),
            Buffer::Comb => Some((stride, hc..hc + hc * hc)),
            _ => None,
        }
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
        let config = self.model.config();
        let (n, wanted) = (rows.len(), rows.wanted().len());
        lock(&self.context).recorder.restart()?;
        if n > self.work.rows {
            let room = n.next_power_of_two();
            self.work = Workspace::new(&self.gpu, config, self.kinds() as usize, self.layout.kv_row as usize, room)?;
            lock(&self.context).recorder.forget();
        }
        if wanted > self.head.rows {
            self.head = HeadSpace::new(&self.gpu, config, wanted.next_power_of_two())?;
            lock(&self.context).recorder.forget();
        }
        let mut info = vec![[0u32; 4]; n];
        for (number, span) in rows.spans().iter().enumerate() {
            for (row, position) in span.rows() {
                info[row] = [rows.tokens()[row], position as u32, number as u32, 0];
            }
        }
        let reach = rows.positions().iter().max().map_or(0, |last| last + 1);
        self.batch = Batch {
            rows: n,
            wanted,
            reach,
            positions: rows.positions().to_vec(),
            spans: rows.spans().len(),
            info,
            ..Batch::default()
        };
        let wanted: Vec<u32> = rows.wanted().iter().map(|&row| row as u32).collect();
        let angles = self.angles();
        let queue = &self.gpu.queue;
        queue.write_buffer(&self.work.row_info.buffer, 0, bytemuck::cast_slice(&self.batch.info));
        queue.write_buffer(&self.work.angles.buffer, 0, bytemuck::cast_slice(&angles));
        if !wanted.is_empty() {
            queue.write_buffer(&self.head.wanted.buffer, 0, bytemuck::cast_slice(&wanted));
        }
        Ok(self.gpu.check()?)
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
            let every = if self.batch.rows > SMALL_BATCH { 1 } else { LAYERS_AT_ONCE };
            if last && self.batch.wanted == 0 {
                self.merge_streams()?;
            }
            // The first layer goes alone: until it is there, the card waits.
            if last || layer == 0 || (layer + 1).is_multiple_of(every) {
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
        self.output_head()?;
        Ok(lock(&self.context).recorder.submit()?)
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        self.finish_queries(false)?;
        if buffer == Buffer::Streams {
            self.merge_streams()?;
        }
        if matches!(buffer, Buffer::Post | Buffer::Comb) {
            self.make_merge_weights()?;
        }
        let rows = if buffer == Buffer::Logits { self.batch.wanted } else { self.batch.rows };
        let (view, width) = self.place(buffer);
        if let Some((stride, part)) = self.merge_part(buffer) {
            let words = self.read_words(&view, 0, rows * stride)?;
            return Ok(words
                .chunks_exact(stride)
                .flat_map(|row| &row[part.clone()])
                .map(|&w| f32::from_bits(w))
                .collect());
        }
        let words = self.read_words(&view, 0, rows * width)?;
        Ok(match buffer {
            Buffer::ExpertIds => words.into_iter().map(|id| id as f32).collect(),
            _ => words.into_iter().map(f32::from_bits).collect(),
        })
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        self.finish_queries(false)?;
        if matches!(buffer, Buffer::Streams | Buffer::Post | Buffer::Comb | Buffer::Output) {
            self.merge_streams()?;
            self.make_merge_weights()?;
        }
        let rows = if buffer == Buffer::Logits { self.batch.wanted } else { self.batch.rows };
        let (view, width) = self.place(buffer);
        assert_eq!(values.len(), rows * width, "{buffer:?} of {rows} rows");
        let words: Vec<u32> = match (self.merge_part(buffer), buffer) {
            (Some((stride, part)), _) => {
                let mut words = self.read_words(&view, 0, rows * stride)?;
                for (row, values) in words.chunks_exact_mut(stride).zip(values.chunks_exact(width)) {
                    row[part.clone()].iter_mut().zip(values).for_each(|(word, value)| *word = value.to_bits());
                }
                words
            }
            (None, Buffer::ExpertIds) => values.iter().map(|&id| id as u32).collect(),
            (None, _) => values.iter().map(|value| value.to_bits()).collect(),
        };
        lock(&self.context).recorder.write(&view.buffer, view.offset, bytemuck::cast_slice(&words))?;
        match buffer {
            Buffer::Input => self.work.input.quantized = false,
            Buffer::QueryLatent => self.work.latent.quantized = false,
            Buffer::Attended => self.work.attended.quantized = false,
            Buffer::Kv => (self.batch.kv_is_stored, self.batch.kv_is_ahead) = (false, false),
            Buffer::IndexerQuery => self.batch.has_codes = false,
            _ => {}
        }
        Ok(())
    }

    fn selection(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        if !self.batch.selecting || row >= self.batch.rows {
            return Ok(None);
        }
        let top_k = self.model.config().idx_topk;
        let words = self.read_words(&self.work.selection, row * (top_k + 1), top_k + 1)?;
        Ok((words[0] != u32::MAX).then(|| words[1..].to_vec()))
    }
}

/// Whether `kv` means that rows are kept in float32.
fn is_exact(kv: KvPrecision) -> bool {
    kv == KvPrecision::Exact
}
