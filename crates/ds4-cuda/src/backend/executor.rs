//! Noted operations, and how they come to run: at once, recorded as a graph, or replayed.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Zeroable;
use ds4_model::{Buffer, KvPrecision, Model, Numerics, Rows, Sublayer};

use super::Needs;
use super::digest::DigestSpace;
use super::hyper::Merged;
use super::workspace::{HeadSpace, Scratch, Workspace};
use crate::cache::{CacheLayout, Held};
use crate::device::{Device, DeviceError, Graph, Launch, Memory};
use crate::params;
use crate::tensors::DeviceTensors;

/// An operation of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Embed,
    HyperMix(usize, Sublayer),
    AttentionIn(usize),
    Query(usize),
    Append(usize),
    Select(usize),
    Attend(usize),
    AttentionOut(usize),
    HyperMerge,
    Route(usize),
    Experts(usize),
    Head,
}

/// What a recorded graph depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    wanted: usize,
    reach: usize,
    steps: Vec<Step>,
}

/// A recorded graph, or how often the shape was seen without one.
enum Known {
    Seen,
    Recorded(Graph),
}

/// Largest batch that is worth a graph: beyond, kernels take longer than their launches.
pub(super) const MOST_GRAPH_ROWS: usize = 64;
/// Steps from which a graph is recorded: tests that run single operations gain nothing.
const FEWEST_GRAPH_STEPS: usize = 24;
/// Graphs kept; all are forgotten when there are more.
const MOST_GRAPHS: usize = 64;
/// Bytes of indexer scores held at a time.
pub(super) const SCORE_BYTES: usize = 256 << 20;
/// Bytes of parts of the attention of small batches.
pub(super) const PART_BYTES: usize = 512 << 20;

/// Runs operations on a device.
pub(super) struct Executor {
    pub device: Arc<dyn Device>,
    pub model: Arc<Model>,
    pub tensors: DeviceTensors,
    pub layout: CacheLayout,
    pub numerics: Numerics,
    pub work: Workspace,
    pub head: HeadSpace,
    pub scratch: Scratch,
    pub digests: DigestSpace,
    pub batch: Batch,
    /// Layer of the last attention input: its compressor features' width is that of the buffers.
    layer: usize,
    pub needs: Needs,
    pending: Vec<Step>,
    graphs: HashMap<Shape, Known>,
}

/// The batch that operations are noted for.
#[derive(Default)]
pub(super) struct Batch {
    pub rows: usize,
    pub wanted: Vec<u32>,
    info: Vec<params::RowInfo>,
    spans: Vec<params::Span>,
    held: Vec<Held>,
    /// A power of two above every position: what launches are sized for.
    pub reach: usize,
    uploaded: bool,
}

impl Executor {
    pub fn new(
        device: &Arc<dyn Device>,
        model: &Arc<Model>,
        tensors: DeviceTensors,
        layout: CacheLayout,
        numerics: Numerics,
    ) -> Result<Self, DeviceError> {
        let needs = Needs::of(model, numerics, device.has_warpgroups());
        let config = model.config();
        Ok(Self {
            work: Workspace::new(device, config, &layout, needs, 8)?,
            head: HeadSpace::new(device, config, needs, 8)?,
            scratch: Scratch::new(device)?,
            digests: DigestSpace::new(device)?,
            device: Arc::clone(device),
            model: Arc::clone(model),
            tensors,
            layout,
            numerics,
            batch: Batch::default(),
            layer: 0,
            needs,
            pending: Vec::new(),
            graphs: HashMap::new(),
        })
    }

    pub fn begin(&mut self, rows: &Rows) -> Result<(), DeviceError> {
        self.flush()?;
        let mut info = Vec::with_capacity(rows.len());
        for (number, span) in rows.spans().iter().enumerate() {
            for (row, position) in span.rows() {
                let token = rows.tokens()[row];
                info.push(params::RowInfo { token, position: position as u32, span: number as u32, pad: 0 });
            }
        }
        let furthest = rows.positions().iter().max().map_or(0, |&p| p + 1);
        self.batch = Batch {
            rows: rows.len(),
            wanted: rows.wanted().iter().map(|&row| row as u32).collect(),
            info,
            spans: Vec::new(),
            held: Vec::new(),
            reach: furthest.next_power_of_two().max(512),
            uploaded: false,
        };
        self.make_room()
    }

    /// Memory for the batch. What was recorded with other addresses is forgotten.
    fn make_room(&mut self) -> Result<(), DeviceError> {
        let model = Arc::clone(&self.model);
        let config = model.config();
        let rows = self.batch.rows;
        let mut moved = false;
        if rows > self.work.rows {
            moved = true;
            // The old memory first: both at once may not fit.
            self.graphs_clear();
            self.work = Workspace::new(&self.device, config, &self.layout, self.needs, 0)?;
            self.work = Workspace::new(&self.device, config, &self.layout, self.needs, capacity(rows))?;
        }
        if self.batch.wanted.len() > self.head.rows {
            moved = true;
            self.head = HeadSpace::new(&self.device, config, self.needs, capacity(self.batch.wanted.len()))?;
        }
        let grow = |memory: &mut Memory, bytes: usize| -> Result<bool, DeviceError> {
            if memory.bytes() >= bytes {
                return Ok(false);
            }
            *memory = Memory::new(&self.device, 0)?;
            *memory = Memory::new(&self.device, bytes)?;
            Ok(true)
        };
        let scores = self.score_rows() * self.score_stride() * 4;
        let scratch = &mut self.scratch;
        moved |= grow(&mut scratch.scores, scores)?;
        if let Some(chunks) = most_chunks(config, self.numerics, rows, self.batch.reach) {
            let parts = rows * config.n_head * chunks;
            moved |= grow(&mut scratch.part_max, parts * 4)?;
            moved |= grow(&mut scratch.part_sum, parts * 4)?;
            moved |= grow(&mut scratch.part_out, parts * config.head_dim * 4)?;
        }
        if moved {
            self.graphs_clear();
        }
        Ok(())
    }

    /// Floats from one row's indexer scores to the next.
    pub fn score_stride(&self) -> usize {
        self.batch.reach / ds4_model::state::OVERLAPPING_RATIO
    }

    /// Rows whose indexer scores are held at a time.
    pub fn score_rows(&self) -> usize {
        (SCORE_BYTES / 4 / self.score_stride()).clamp(1, self.batch.rows.max(1))
    }

    pub fn graphs_clear(&mut self) {
        for (_, known) in self.graphs.drain() {
            if let Known::Recorded(graph) = known {
                self.device.drop_graph(graph);
            }
        }
    }

    pub fn has_sequences(&self) -> bool {
        !self.batch.spans.is_empty()
    }

    pub fn add_span(&mut self, span: params::Span, held: Option<Held>) {
        self.batch.spans.push(span);
        self.batch.held.extend(held);
    }

    pub fn note(&mut self, step: Step) {
        self.pending.push(step);
    }

    /// Runs what was noted.
    pub fn flush(&mut self) -> Result<(), DeviceError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let steps = std::mem::take(&mut self.pending);
        if !self.batch.uploaded {
            self.device.write(self.work.row_info.address(), bytemuck::cast_slice(&self.batch.info))?;
            if !self.batch.wanted.is_empty() {
                self.device.write(self.work.wanted.address(), bytemuck::cast_slice(&self.batch.wanted))?;
            }
            // Spans come with the first operation that has sequences.
            self.batch.uploaded = self.has_sequences();
            if self.has_sequences() {
                self.device.write(self.work.spans.address(), bytemuck::cast_slice(&self.batch.spans))?;
            }
            self.angles()?;
        }
        if self.batch.rows > MOST_GRAPH_ROWS || steps.len() < FEWEST_GRAPH_STEPS {
            return self.run_all(&steps);
        }
        let shape = Shape { rows: self.batch.rows, wanted: self.batch.wanted.len(), reach: self.batch.reach, steps };
        match self.graphs.get(&shape) {
            None => {
                self.run_all(&shape.steps)?;
                if self.graphs.len() >= MOST_GRAPHS {
                    self.graphs_clear();
                }
                self.graphs.insert(shape, Known::Seen);
            }
            Some(Known::Seen) => {
                self.device.begin_capture()?;
                let ran = self.run_all(&shape.steps);
                let graph = self.device.end_capture();
                ran?;
                let graph = graph?;
                self.device.replay(&graph)?;
                self.graphs.insert(shape, Known::Recorded(graph));
            }
            Some(Known::Recorded(graph)) => {
                self.device.replay(graph)?;
                self.leave_as_after(&shape.steps);
            }
        }
        Ok(())
    }

    /// What running the steps leaves on the host's side.
    fn leave_as_after(&mut self, steps: &[Step]) {
        if let Some(&Step::AttentionIn(layer)) = steps.iter().rev().find(|step| matches!(step, Step::AttentionIn(_))) {
            self.layer = layer;
        }
    }

    fn run_all(&mut self, steps: &[Step]) -> Result<(), DeviceError> {
        // What the last sublayer left, and whether it is to be merged by the next mixing.
        let (mut output, mut merged) = (Merged::Output, Merged::Nothing);
        // A sublayer's input that the step behind the mixing is to make; whether the row is in the cache already.
        let (mut streamed, mut stored) = (None, false);
        for (i, &step) in steps.iter().enumerate() {
            match step {
                Step::Embed => self.embed()?,
                Step::HyperMix(layer, sublayer) => {
                    let deferred = match sublayer {
                        Sublayer::Attention => {
                            steps.get(i + 1) == Some(&Step::AttentionIn(layer)) && self.attends_one(layer)
                        }
                        Sublayer::Experts => {
                            steps[i + 1..].starts_with(&[Step::Route(layer), Step::Experts(layer)])
                                && self.routes_from_streams(layer)
                        }
                    };
                    if deferred {
                        streamed = Some(self.hyper_project(layer, sublayer, merged)?);
                    } else {
                        self.hyper_mix(layer, sublayer, merged)?;
                    }
                    merged = Merged::Nothing;
                }
                Step::AttentionIn(layer) => {
                    self.layer = layer;
                    self.attention_in(layer, streamed.take())?;
                }
                Step::Query(layer) => {
                    let next = [Step::Append(layer), Step::Select(layer), Step::Attend(layer)];
                    stored = steps[i + 1..].starts_with(&next) && self.attends_one(layer);
                    if stored {
                        self.query_and_append(layer)?;
                    } else {
                        self.query(layer, steps[i..].contains(&Step::Attend(layer)))?;
                    }
                }
                Step::Append(_) if stored => {}
                Step::Append(layer) => self.append(layer)?,
                Step::Select(layer) => self.select(layer)?,
                Step::Attend(layer) => {
                    let projected = steps.get(i + 1) == Some(&Step::AttentionOut(layer));
                    self.attend(layer, std::mem::take(&mut stored), projected)?;
                }
                Step::AttentionOut(layer) => {
                    self.attention_out(layer)?;
                    output = Merged::Output;
                }
                // Merging and the next mixing read the same streams: one kernel where they follow each other.
                Step::HyperMerge if matches!(steps.get(i + 1), Some(Step::HyperMix(..))) => merged = output,
                Step::HyperMerge => self.hyper_merge(output)?,
                // Where the experts follow their choice, what does not depend on it comes with it.
                Step::Route(layer) => {
                    self.route(layer, steps.get(i + 1) == Some(&Step::Experts(layer)), streamed.take())?;
                }
                Step::Experts(layer) => {
                    let shared_done = i > 0 && steps[i - 1] == Step::Route(layer);
                    let in_parts = steps.get(i + 1) == Some(&Step::HyperMerge);
                    output = self.experts(layer, shared_done, in_parts)?;
                }
                Step::Head => self.output_head()?,
            }
        }
        Ok(())
    }

    /// Starts a kernel of `crate::kernels` on memory of this executor.
    pub fn launch<P: bytemuck::Pod>(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        params: &P,
    ) -> Result<(), DeviceError> {
        self.launch_with(kernel, grid, threads, 0, params)
    }

    /// The same with dynamic shared memory.
    pub fn launch_with<P: bytemuck::Pod>(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), DeviceError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let launch = Launch { kernel, grid, threads, shared };
        // SAFETY: callers pass the kernel's own struct (the emulated device compares sizes), filled with addresses of weights,
        // workspace and held sequences, all of which outlive the work that was given to the device before they are dropped:
        // memory is given back in the device's order.
        unsafe { self.device.launch(&launch, bytemuck::bytes_of(params)) }
    }

    /// Width of the compressor features that the buffers hold.
    fn width(&self) -> usize {
        let config = self.model.config();
        config.compressor_width(config.ratios[self.layer], config.head_dim)
    }

    pub fn read(&mut self, buffer: Buffer) -> Result<Vec<f32>, DeviceError> {
        self.flush()?;
        let (mut address, per_row) = self.work.place(buffer, self.model.config(), self.width());
        let mut rows = self.batch.rows;
        if buffer == Buffer::Logits {
            (address, rows) = (self.head.logits.address(), self.batch.wanted.len());
        }
        let mut values = vec![0f32; rows * per_row];
        if !values.is_empty() {
            self.device.read(address, bytemuck::cast_slice_mut(&mut values))?;
        }
        if buffer == Buffer::ExpertIds {
            values.iter_mut().for_each(|v| *v = v.to_bits() as f32);
        }
        Ok(values)
    }

    pub fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), DeviceError> {
        self.flush()?;
        let (mut address, per_row) = self.work.place(buffer, self.model.config(), self.width());
        let mut rows = self.batch.rows;
        if buffer == Buffer::Logits {
            (address, rows) = (self.head.logits.address(), self.batch.wanted.len());
        }
        if values.len() != rows * per_row {
            return Err(DeviceError::new(format!("{} values for a buffer of {}", values.len(), rows * per_row)));
        }
        if buffer == Buffer::ExpertIds {
            let ids: Vec<u32> = values.iter().map(|&v| v as u32).collect();
            return self.device.write(address, bytemuck::cast_slice(&ids));
        }
        if !values.is_empty() {
            self.device.write(address, bytemuck::cast_slice(values))?;
        }
        // Other forms of the same values.
        match buffer {
            Buffer::Input => self.work.input.changed(),
            Buffer::QueryLatent => self.work.latent.changed(),
            Buffer::Attended => self.work.attended.changed(),
            Buffer::Query => self.query_heads(self.layer, true, false)?,
            Buffer::IndexerQuery => self.query_heads(self.layer, false, true)?,
            Buffer::Kv => self.store_kv()?,
            _ => {}
        }
        Ok(())
    }

    pub fn selection(&mut self, row: usize) -> Result<Option<Vec<u32>>, DeviceError> {
        self.flush()?;
        if row >= self.batch.rows || !self.selects(self.layer) {
            return Ok(None);
        }
        let mut count = [0u8; 4];
        self.device.read(self.work.selected.address() + row as u64 * 4, &mut count)?;
        let count = u32::from_ne_bytes(count);
        if count == u32::MAX {
            return Ok(None);
        }
        let mut rows = vec![0u32; count as usize];
        let stride = self.model.config().idx_topk as u64 * 4;
        self.device.read(self.work.selection.address() + row as u64 * stride, bytemuck::cast_slice_mut(&mut rows))?;
        Ok(Some(rows))
    }

    fn embed(&mut self) -> Result<(), DeviceError> {
        let config = self.model.config();
        let rows = self.batch.rows as u32;
        let embed = params::Embed {
            table: self.tensors.embedding,
            rows: self.work.row_info.address(),
            streams: self.work.streams.address(),
            ty: self.tensors.embedding_storage as u32,
            n_embd: config.n_embd as u32,
            hc: config.hc as u32,
            row_bytes: (self.model.bytes(&self.model.token_embd).len() / config.n_vocab) as u32,
        };
        self.launch("embed", [config.n_embd.div_ceil(256) as u32, rows, 1], 256, &embed)
    }

    /// The rotary angles of the batch's positions.
    fn angles(&self) -> Result<(), DeviceError> {
        let angles = params::Angles {
            rows: self.work.row_info.address(),
            frequencies: self.tensors.frequencies,
            angles: self.work.angles.address(),
            pairs: (self.model.config().rope_dim / 2) as u32,
            pad: 0,
        };
        self.launch("angles", [self.batch.rows as u32, 1, 1], 128, &angles)
    }

    /// A zeroed parameter struct.
    pub fn empty<P: Zeroable>() -> P {
        P::zeroed()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Nothing may be running on memory that is given back.
        let _ = self.device.synchronize();
        self.graphs_clear();
    }
}

/// Rows that memory is taken for: few different sizes.
fn capacity(rows: usize) -> usize {
    if rows <= 64 { rows.next_multiple_of(8) } else { rows.next_multiple_of(256) }
}

/// Keys of one chunk of the attention.
pub(super) fn chunk_keys(kv: KvPrecision) -> usize {
    if kv == KvPrecision::Exact { 32 } else { 64 }
}

/// The most chunks that any row of a batch has in any layer, if the chunks of such a batch are blocks of their own.
pub(super) fn most_chunks(config: &ds4_model::Config, numerics: Numerics, rows: usize, reach: usize) -> Option<usize> {
    let compressed = |&ratio: &usize| {
        let visible = reach.checked_div(ratio).unwrap_or(0);
        if config.has_indexer(ratio) { visible.min(config.idx_topk) } else { visible }
    };
    let keys = config.window + config.ratios.iter().map(compressed).max().unwrap_or(0);
    let chunks = keys.div_ceil(chunk_keys(numerics.kv));
    let bytes = rows * config.n_head * chunks * config.head_dim * 4;
    (rows <= MOST_GRAPH_ROWS && bytes <= PART_BYTES).then_some(chunks)
}
