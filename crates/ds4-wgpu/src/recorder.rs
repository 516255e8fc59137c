//! Recording kernels and copies into command buffers, and moving bytes between host and card.
//!
//! Everything is recorded in order and handed over in pieces, so that the card works on one while the next is recorded. Pipelines
//! and bind groups are made once. A token's dispatches are those of the token before: the recorder remembers the last ones in
//! order, and finds pipeline and bind group of the next by comparing it with its predecessor. Parameters that are still
//! the same are not sent again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferSize, BufferUsages,
    CommandEncoder, ComputePass, ComputePassDescriptor, MapMode,
};

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::pipelines::{Pipeline, Pipelines};
use crate::shader::{self, Kernel, Shape};
use crate::timing::{KernelTime, Timing};

/// A piece of a buffer, as kernels see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub buffer: Buffer,
    pub offset: u64,
    pub size: u64,
}

impl View {
    /// All of a buffer.
    pub fn all(buffer: Buffer) -> Self {
        let size = buffer.size();
        Self { buffer, offset: 0, size }
    }
}

/// Bytes that each dispatch has for parameters.
const PARAMETERS: usize = 256;
/// Dispatches whose parameters have a place at a time.
const MOST_DISPATCHES: usize = 4096;

/// Records what a card is to do.
pub(crate) struct Recorder {
    gpu: Arc<Gpu>,
    pipelines: Pipelines,
    /// While this is there, kernels are only noted here and nothing is recorded.
    rehearsal: Option<Vec<Kernel>>,
    groups: HashMap<(Kernel, Vec<View>), BindGroup>,
    /// The last dispatches, by their place among the parameters.
    last: Vec<Option<Dispatched>>,
    /// Place of the next dispatch.
    next: usize,
    uniform: Buffer,
    /// What `uniform` has once everything is handed over, and the bytes of it that are not there yet.
    parameters: Vec<u8>,
    unsent: Option<Range<usize>>,
    /// The open pass comes before the encoder that it belongs to is finished.
    pass: Option<ComputePass<'static>>,
    encoder: Option<CommandEncoder>,
    staging: Option<Buffer>,
    nothing: View,
    timing: Option<Timing>,
}

/// A dispatch that may come again.
struct Dispatched {
    kernel: Kernel,
    views: Vec<View>,
    pipeline: Arc<Pipeline>,
    group: BindGroup,
}

impl Dispatched {
    fn is(&self, kernel: Kernel, views: &[&View]) -> bool {
        self.kernel == kernel
            && self.views.len() == views.len()
            && self.views.iter().zip(views).all(|(mine, &theirs)| mine == theirs)
    }
}

impl Recorder {
    pub fn new(gpu: Arc<Gpu>, pipelines: Pipelines) -> Result<Self, WgpuError> {
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let uniform = gpu.create("parameters", (PARAMETERS * MOST_DISPATCHES) as u64, usage)?;
        let nothing = View::all(gpu.storage("nothing", 16)?);
        Ok(Self {
            gpu,
            pipelines,
            rehearsal: None,
            groups: HashMap::new(),
            last: Vec::new(),
            next: 0,
            uniform,
            parameters: vec![0; PARAMETERS * MOST_DISPATCHES],
            unsent: None,
            pass: None,
            encoder: None,
            staging: None,
            nothing,
            timing: None,
        })
    }

    /// A binding for what a kernel declares but does not use here.
    pub fn nothing(&self) -> View {
        self.nothing.clone()
    }

    /// Forgets bind groups: buffers were replaced, and the old ones should not be kept alive.
    pub fn forget(&mut self) {
        self.groups.clear();
        self.last.clear();
    }

    /// The next dispatch is the first of a batch: those that follow are compared with the last batch's.
    pub fn restart(&mut self) -> Result<(), WgpuError> {
        self.submit()?;
        self.next = 0;
        Ok(())
    }

    /// From now on, nothing is recorded: it is only noted which kernels would be.
    pub fn rehearse(&mut self) -> Result<(), WgpuError> {
        self.submit()?;
        self.rehearsal = Some(Vec::new());
        Ok(())
    }

    /// Ends what [`Self::rehearse`] began and compiles the kernels that were noted, several at a time.
    pub fn end_rehearsal(&mut self) -> Result<(), WgpuError> {
        let kernels = self.rehearsal.take().unwrap_or_default();
        self.pipelines.compile_all(&kernels)
    }

    /// Whether nothing is recorded.
    pub fn is_rehearsing(&self) -> bool {
        self.rehearsal.is_some()
    }

    /// How many kernels have been compiled.
    pub fn pipelines(&self) -> usize {
        self.pipelines.len()
    }

    /// Records a kernel. `views` belong to its storage bindings in the order of their numbers.
    pub fn dispatch<P: Pod>(
        &mut self,
        kernel: Kernel,
        parameters: &P,
        views: &[&View],
        grid: [u32; 3],
    ) -> Result<(), WgpuError> {
        if grid.contains(&0) {
            return Ok(());
        }
        if let Some(kernels) = &mut self.rehearsal {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
            return Ok(());
        }
        if self.next == MOST_DISPATCHES {
            self.restart()?;
        }
        if self.timing.as_ref().is_some_and(Timing::is_full) {
            self.collect_times()?;
        }
        let at = self.next;
        self.next += 1;
        if self.last.len() <= at {
            self.last.resize_with(at + 1, || None);
        }
        let last = self.last[at].take().filter(|last| last.is(kernel, views));
        let dispatched = match last {
            Some(last) => last,
            None => self.prepare(kernel, views)?,
        };
        self.set_parameters(at, bytemuck::bytes_of(parameters));
        let pass = self.pass(kernel, grid);
        pass.set_pipeline(&dispatched.pipeline.pipeline);
        pass.set_bind_group(0, &dispatched.group, &[(at * PARAMETERS) as u32]);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        self.last[at] = Some(dispatched);
        Ok(())
    }

    /// A dispatch that is not the one of the last batch at this place.
    fn prepare(&mut self, kernel: Kernel, views: &[&View]) -> Result<Dispatched, WgpuError> {
        let pipeline = self.pipelines.get(kernel)?;
        let views: Vec<View> = views.iter().map(|&view| view.clone()).collect();
        let key = (kernel, views.clone());
        let group = match self.groups.get(&key) {
            Some(group) => group.clone(),
            None => {
                let group = self.group(&pipeline, &key.1);
                self.groups.insert(key, group.clone());
                group
            }
        };
        Ok(Dispatched { kernel, views, pipeline, group })
    }

    fn set_parameters(&mut self, place: usize, bytes: &[u8]) {
        debug_assert!(bytes.len() <= PARAMETERS);
        let range = place * PARAMETERS..place * PARAMETERS + bytes.len();
        let mine = &mut self.parameters[range.clone()];
        if mine != bytes {
            mine.copy_from_slice(bytes);
            let unsent = self.unsent.get_or_insert(range.clone());
            *unsent = unsent.start.min(range.start)..unsent.end.max(range.end);
        }
    }

    /// Records a copy.
    pub fn copy(&mut self, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) {
        if self.rehearsal.is_some() {
            return;
        }
        self.pass = None;
        self.encoder().copy_buffer_to_buffer(from.0, from.1, to.0, to.1, bytes);
    }

    /// Hands everything recorded to the card.
    pub fn submit(&mut self) -> Result<(), WgpuError> {
        self.pass = None;
        if let Some(encoder) = self.encoder.take() {
            if let Some(range) = self.unsent.take() {
                let range = range.start..range.end.next_multiple_of(4);
                self.gpu.queue.write_buffer(&self.uniform, range.start as u64, &self.parameters[range]);
            }
            self.gpu.queue.submit([encoder.finish()]);
        }
        self.gpu.check()
    }

    /// Writes bytes (a multiple of four) after everything recorded so far.
    pub fn write(&mut self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<(), WgpuError> {
        self.submit()?;
        if !bytes.is_empty() {
            self.gpu.queue.write_buffer(buffer, offset, bytes);
        }
        self.gpu.check()
    }

    /// Reads pieces of buffers (offset and size in bytes, multiples of four), one after the other.
    pub fn read(&mut self, pieces: &[(&Buffer, u64, u64)]) -> Result<Vec<u8>, WgpuError> {
        let total: u64 = pieces.iter().map(|piece| piece.2).sum();
        if total == 0 {
            return Ok(Vec::new());
        }
        let staging = match &self.staging {
            Some(staging) if staging.size() >= total => staging.clone(),
            _ => {
                let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
                let staging = self.gpu.create("read back", total.next_power_of_two().max(4096), usage)?;
                self.staging = Some(staging.clone());
                staging
            }
        };
        let mut at = 0;
        for &(buffer, offset, size) in pieces {
            self.copy((buffer, offset), (&staging, at), size);
            at += size;
        }
        self.submit()?;
        let slice = staging.slice(..total);
        // An error shows when the range is asked for.
        slice.map_async(MapMode::Read, |_| {});
        self.gpu.wait()?;
        let failed = |why: String| WgpuError::Failed { adapter: self.gpu.report.name.clone(), why };
        let bytes = slice.get_mapped_range().map_err(|error| failed(error.to_string()))?.to_vec();
        staging.unmap();
        Ok(bytes)
    }

    fn encoder(&mut self) -> &mut CommandEncoder {
        self.encoder.get_or_insert_with(|| self.gpu.device.create_command_encoder(&Default::default()))
    }

    /// The open pass; while kernels are timed, one of the next kernel's own.
    fn pass(&mut self, next: Kernel, grid: [u32; 3]) -> &mut ComputePass<'static> {
        if self.timing.as_ref().is_some_and(|timing| timing.by_kernel) {
            self.pass = None;
        }
        if self.pass.is_none() {
            let mut timing = self.timing.take();
            let timestamp_writes =
                timing.as_mut().map(|timing| timing.writes(format!("{} {grid:?}", shader::label(next))));
            let descriptor = ComputePassDescriptor { label: None, timestamp_writes };
            let pass = self.encoder().begin_compute_pass(&descriptor).forget_lifetime();
            self.pass = Some(pass);
            self.timing = timing;
        }
        self.pass.as_mut().expect("was just made")
    }

    /// From now on there are time stamps around what is handed over together, or with `by_kernel` around kernels, which then run one
    /// by one. False if the card has none.
    pub fn start_timing(&mut self, by_kernel: bool) -> Result<bool, WgpuError> {
        self.submit()?;
        self.timing = Timing::new(&self.gpu, by_kernel)?;
        Ok(self.timing.is_some())
    }

    /// Milliseconds in which the card worked since [`Self::start_timing`].
    pub fn finish_busy(&mut self) -> Result<f64, WgpuError> {
        self.collect_times()?;
        Ok(self.timing.take().map_or(0.0, |timing| timing.busy()))
    }

    /// Time of each kernel since [`Self::start_timing`], the longest first.
    pub fn finish_timing(&mut self) -> Result<Vec<KernelTime>, WgpuError> {
        self.collect_times()?;
        Ok(self.timing.take().map_or_else(Vec::new, Timing::finish))
    }

    fn collect_times(&mut self) -> Result<(), WgpuError> {
        let Some(mut timing) = self.timing.take() else { return Ok(()) };
        self.pass = None;
        let (buffer, bytes) = timing.resolve(self.encoder());
        let stamps = self.read(&[(&buffer, 0, bytes)])?;
        timing.note(&stamps);
        self.timing = Some(timing);
        Ok(())
    }

    fn group(&self, pipeline: &Pipeline, views: &[View]) -> BindGroup {
        let uniform = BufferBinding { buffer: &self.uniform, offset: 0, size: BufferSize::new(PARAMETERS as u64) };
        let mut entries = vec![BindGroupEntry { binding: 0, resource: BindingResource::Buffer(uniform) }];
        debug_assert_eq!(views.len(), pipeline.bindings.len(), "a view for every binding");
        for (binding, view) in pipeline.bindings.iter().zip(views) {
            let resource =
                BufferBinding { buffer: &view.buffer, offset: view.offset, size: BufferSize::new(view.size) };
            entries.push(BindGroupEntry { binding: binding.number, resource: BindingResource::Buffer(resource) });
        }
        self.gpu.device.create_bind_group(&BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}

/// What a card does where the language leaves it open; asked once for each card.
pub(crate) struct Found {
    /// Whether exchanges between neighbours work as the kernels assume.
    pub neighbours: bool,
    /// Whether float16 becomes float32 exactly, its smallest numbers included.
    pub halves: bool,
}

pub(crate) fn probe(gpu: &Arc<Gpu>, shape: &Shape) -> Result<Found, WgpuError> {
    /// Every float16 below the smallest normal number is tried.
    const TRIED: u32 = 1024;
    let pipelines = Pipelines::new(Arc::clone(gpu), shape.clone(), None);
    let mut recorder = Recorder::new(Arc::clone(gpu), pipelines)?;
    let found = View::all(gpu.storage("probe", u64::from(TRIED * 4))?);
    recorder.dispatch(Kernel::Probe, &[0u32], &[&found], [TRIED / Kernel::Probe.workgroup(), 1, 1])?;
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&recorder.read(&[(&found.buffer, 0, found.size)])?);
    let all = |bit: u32| words.iter().all(|word| word & bit != 0);
    Ok(Found { neighbours: all(1), halves: all(2) })
}
