//! Recording kernels and copies into command buffers, and moving bytes between host and card.
//!
//! Everything is recorded in order and handed over in pieces, so that the card works on one while the next is recorded. Pipelines
//! and bind groups are made once. A token's dispatches are those of the token before: the recorder remembers the last ones in
//! order, and finds pipeline and bind group of the next by comparing it with its predecessor. Parameters that are still
//! the same are not sent again. Kernels that only some tokens need leave their place empty ([`Recorder::skip`]), so that those behind
//! them keep theirs.
//!
//! Commands go to wgpu, or are collected for [`Direct`], with the barriers that they need.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferSize, BufferUsages,
    CommandEncoder, ComputePass, ComputePassDescriptor, MapMode,
};

use crate::direct::Command;
use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::pipelines::{Made, Pipeline, Pipelines};
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

/// What was recorded so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Kernels.
    pub kernels: u64,
    /// Kernels that were not those of the batch before, or had other buffers: each had to be looked up.
    pub changed: u64,
    /// Pieces in which all was handed over.
    pub pieces: u64,
}

/// Records what a card is to do.
pub(crate) struct Recorder {
    /// What was recorded so far.
    pub recorded: Recorded,
    gpu: Arc<Gpu>,
    pipelines: Pipelines,
    /// While this is there, kernels are only noted here and nothing is recorded.
    rehearsal: Option<Vec<Kernel>>,
    groups: HashMap<(Kernel, Vec<View>), Arc<Bound>>,
    /// Numbers of buffers, for `hazards`.
    numbers: HashMap<Buffer, u32>,
    /// The last dispatches, by their place among the parameters.
    last: Vec<Option<Dispatched>>,
    /// Place of the next dispatch.
    next: usize,
    parameters: Parameters,
    /// What small buffers are to begin with before anything runs that is not handed over yet.
    uploads: Vec<(Buffer, Vec<u8>)>,
    /// The open pass comes before the encoder that it belongs to is finished.
    pass: Option<ComputePass<'static>>,
    encoder: Option<CommandEncoder>,
    /// What is to be recorded directly, and what was and may still run.
    commands: Vec<Command>,
    running: Vec<Command>,
    hazards: Hazards,
    staging: Option<Buffer>,
    nothing: View,
    timing: Option<Timing>,
    /// Whether what is not handed over yet has time stamps.
    stamped: bool,
}

/// The parameters of all dispatches.
struct Parameters {
    uniform: Buffer,
    /// What `uniform` has once everything is handed over, and the bytes of it that are not there yet.
    bytes: Vec<u8>,
    unsent: Option<Range<usize>>,
}

impl Parameters {
    /// Those of the dispatch at a place.
    fn set(&mut self, place: usize, bytes: &[u8]) {
        debug_assert!(bytes.len() <= PARAMETERS);
        let range = place * PARAMETERS..place * PARAMETERS + bytes.len();
        let mine = &mut self.bytes[range.clone()];
        if mine != bytes {
            mine.copy_from_slice(bytes);
            let unsent = self.unsent.get_or_insert(range.clone());
            *unsent = unsent.start.min(range.start)..unsent.end.max(range.end);
        }
    }

    /// Sends what is not there yet.
    fn send(&mut self, gpu: &Gpu) {
        if let Some(range) = self.unsent.take() {
            let range = range.start..range.end.next_multiple_of(4);
            gpu.queue.write_buffer(&self.uniform, range.start as u64, &self.bytes[range]);
        }
    }
}

/// Buffers, bound for a kernel.
struct Bound {
    group: Group,
    uses: Vec<Use>,
}

/// A bind group: wgpu's, or the number of one of the direct recorder.
enum Group {
    Checked(BindGroup),
    Direct(usize),
}

/// A dispatch that may come again.
struct Dispatched {
    kernel: Kernel,
    views: Vec<View>,
    pipeline: Arc<Pipeline>,
    bound: Arc<Bound>,
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
            recorded: Recorded::default(),
            gpu,
            pipelines,
            rehearsal: None,
            groups: HashMap::new(),
            numbers: HashMap::new(),
            last: Vec::new(),
            next: 0,
            parameters: Parameters { uniform, bytes: vec![0; PARAMETERS * MOST_DISPATCHES], unsent: None },
            uploads: Vec::new(),
            pass: None,
            encoder: None,
            commands: Vec::new(),
            running: Vec::new(),
            hazards: Hazards::default(),
            staging: None,
            nothing,
            timing: None,
            stamped: false,
        })
    }

    /// A binding for what a kernel declares but does not use here.
    pub fn nothing(&self) -> View {
        self.nothing.clone()
    }

    /// Forgets bind groups: buffers were replaced, and the old ones should not be kept alive.
    pub fn forget(&mut self) -> Result<(), WgpuError> {
        if self.pipelines.direct().is_some()
            && !(self.groups.is_empty() && self.commands.is_empty() && self.running.is_empty())
        {
            self.submit()?;
            self.wait()?;
        }
        self.groups.clear();
        self.numbers.clear();
        self.last.clear();
        if let Some(direct) = self.pipelines.direct() {
            direct.drop_groups();
        }
        Ok(())
    }

    /// Waits until the card has done all that was handed over.
    pub fn wait(&mut self) -> Result<(), WgpuError> {
        self.gpu.wait()?;
        self.running.clear();
        Ok(())
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
        if !self.last[at].as_ref().is_some_and(|last| last.is(kernel, views)) {
            self.last[at] = Some(self.prepare(kernel, views)?);
            self.recorded.changed += 1;
        }
        self.recorded.kernels += 1;
        self.parameters.set(at, bytemuck::bytes_of(parameters));
        let parameters = (at * PARAMETERS) as u32;
        let Some(Dispatched { pipeline, bound, .. }) = &self.last[at] else { return Ok(()) };
        match (&pipeline.made, &bound.group) {
            (Made::Checked { pipeline, .. }, Group::Checked(group)) => {
                let (pipeline, group) = (pipeline.clone(), group.clone());
                let pass = self.pass(kernel, grid);
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[parameters]);
                pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
            }
            (&Made::Direct(pipeline), &Group::Direct(group)) => {
                let waits = self.hazards.add(&bound.uses);
                // Without `by_kernel`, one pair is around all that is handed over together.
                let timing = self.timing.as_mut().filter(|timing| timing.by_kernel || !self.stamped);
                let stamps = timing.map(|timing| timing.next(format!("{} {grid:?}", shader::label(kernel))));
                self.stamped |= stamps.is_some();
                self.commands.push(Command::Dispatch { pipeline, group, parameters, grid, waits, stamps });
            }
            _ => unreachable!("groups are made for their pipelines"),
        }
        Ok(())
    }

    /// Leaves the place of a kernel empty which other batches have here.
    pub fn skip(&mut self) {
        self.next = (self.next + 1).min(MOST_DISPATCHES);
    }

    /// What `buffer` is to begin with (a multiple of four bytes) before anything runs that is not handed over yet. The last one for a
    /// buffer counts.
    pub fn upload(&mut self, buffer: &Buffer, bytes: &[u8]) {
        match self.uploads.iter_mut().find(|(to, _)| to == buffer) {
            Some((_, held)) => {
                held.clear();
                held.extend_from_slice(bytes);
            }
            None => self.uploads.push((buffer.clone(), bytes.to_vec())),
        }
    }

    /// A dispatch that is not the one of the last batch at this place.
    fn prepare(&mut self, kernel: Kernel, views: &[&View]) -> Result<Dispatched, WgpuError> {
        let pipeline = self.pipelines.get(kernel)?;
        let views: Vec<View> = views.iter().map(|&view| view.clone()).collect();
        let key = (kernel, views.clone());
        let bound = match self.groups.get(&key) {
            Some(bound) => Arc::clone(bound),
            None => {
                let bound = Arc::new(self.bind(&pipeline, &key.1)?);
                self.groups.insert(key, Arc::clone(&bound));
                bound
            }
        };
        Ok(Dispatched { kernel, views, pipeline, bound })
    }

    /// Records a copy.
    pub fn copy(&mut self, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) {
        if self.rehearsal.is_some() {
            return;
        }
        self.stamped = false;
        if self.pipelines.direct().is_some() {
            assert!(from.1 + bytes <= from.0.size() && to.1 + bytes <= to.0.size(), "copies stay within buffers");
            let mut piece = |(buffer, start): (&Buffer, u64), writes| Use {
                buffer: number(&mut self.numbers, buffer),
                start,
                end: start + bytes,
                writes,
            };
            let waits = self.hazards.add(&[piece(from, false), piece(to, true)]);
            let [from, to] = [from, to].map(|(buffer, at)| (buffer.clone(), at));
            self.commands.push(Command::Copy { from, to, bytes, waits });
            return;
        }
        self.pass = None;
        self.encoder().copy_buffer_to_buffer(from.0, from.1, to.0, to.1, bytes);
    }

    /// Hands everything recorded to the card.
    pub fn submit(&mut self) -> Result<(), WgpuError> {
        self.pass = None;
        if !self.commands.is_empty() {
            self.encoder();
        }
        for (buffer, bytes) in self.uploads.drain(..).filter(|(_, bytes)| !bytes.is_empty()) {
            self.gpu.queue.write_buffer(&buffer, 0, &bytes);
        }
        if let Some(mut encoder) = self.encoder.take() {
            self.parameters.send(&self.gpu);
            if let Some(direct) = self.pipelines.direct() {
                direct.record(&mut encoder, &self.commands)?;
                // Every piece begins with a barrier.
                self.hazards.clear();
                self.stamped = false;
                self.running.extend(self.commands.drain(..).filter(Command::keeps_buffers));
            }
            self.gpu.queue.submit([encoder.finish()]);
            self.recorded.pieces += 1;
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
        self.wait()?;
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
            let first = timing.as_mut().map(|timing| timing.next(format!("{} {grid:?}", shader::label(next))));
            let timestamp_writes = timing.as_ref().zip(first).and_then(|(timing, first)| timing.writes(first));
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
        self.timing = Timing::new(&self.gpu, by_kernel, self.pipelines.direct())?;
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
        let (count, to) = (timing.count(), timing.resolved.clone());
        self.pass = None;
        if self.pipelines.direct().is_none() {
            timing.resolve(self.encoder());
        } else if count > 0 {
            self.commands.push(Command::Stamps { count, to: to.clone() });
        }
        let stamps = self.read(&[(&to, 0, u64::from(count) * 8)])?;
        timing.note(&stamps);
        self.timing = Some(timing);
        Ok(())
    }

    fn bind(&mut self, pipeline: &Pipeline, views: &[View]) -> Result<Bound, WgpuError> {
        debug_assert_eq!(views.len(), pipeline.bindings.len(), "a view for every binding");
        let parameters = View { buffer: self.parameters.uniform.clone(), offset: 0, size: PARAMETERS as u64 };
        let numbered = pipeline.bindings.iter().map(|binding| binding.number).zip(views);
        let places = std::iter::once((0, &parameters)).chain(numbered);
        let group = match (&pipeline.made, self.pipelines.direct()) {
            (&Made::Direct(number), Some(direct)) => Group::Direct(direct.group(number, &places.collect::<Vec<_>>())?),
            (Made::Checked { layout, .. }, _) => {
                let entries: Vec<_> = places
                    .map(|(binding, view)| {
                        let size = BufferSize::new(view.size);
                        let buffer = BufferBinding { buffer: &view.buffer, offset: view.offset, size };
                        BindGroupEntry { binding, resource: BindingResource::Buffer(buffer) }
                    })
                    .collect();
                let descriptor = BindGroupDescriptor { label: None, layout, entries: &entries };
                Group::Checked(self.gpu.device.create_bind_group(&descriptor))
            }
            _ => unreachable!("pipelines are made for their recorder"),
        };
        let uses = pipeline.bindings.iter().zip(views).map(|(binding, view)| Use {
            buffer: number(&mut self.numbers, &view.buffer),
            start: view.offset,
            end: view.offset + view.size,
            writes: binding.writable,
        });
        Ok(Bound { group, uses: uses.collect() })
    }
}

impl Drop for Recorder {
    /// What is handed over runs to its end before what it uses goes.
    fn drop(&mut self) {
        if self.pipelines.direct().is_some() {
            let _ = self.gpu.wait();
        }
    }
}

/// A part of a buffer that a command reads, or may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    buffer: u32,
    start: u64,
    end: u64,
    writes: bool,
}

impl Use {
    /// Whether the order of two matters.
    fn conflicts(&self, other: &Self) -> bool {
        self.buffer == other.buffer && (self.writes || other.writes) && self.start < other.end && other.start < self.end
    }
}

/// The number of a buffer.
#[expect(clippy::mutable_key_type, reason = "buffers are told apart by what they are, not by what is in them")]
fn number(numbers: &mut HashMap<Buffer, u32>, buffer: &Buffer) -> u32 {
    let next = numbers.len() as u32;
    match numbers.get(buffer) {
        Some(&number) => number,
        None => *numbers.entry(buffer.clone()).or_insert(next),
    }
}

/// What commands since the last barrier read and write.
#[derive(Default)]
struct Hazards(Vec<Use>);

impl Hazards {
    /// Another command; whether a barrier has to come before it.
    fn add(&mut self, uses: &[Use]) -> bool {
        let waits = uses.iter().any(|mine| self.0.iter().any(|other| mine.conflicts(other)));
        if waits {
            self.0.clear();
        }
        self.0.extend_from_slice(uses);
        waits
    }

    /// There was a barrier.
    fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a card does where the language leaves it open; asked once for each card.
pub(crate) struct Found {
    /// Whether exchanges between neighbours work as the kernels assume.
    pub neighbours: bool,
    /// Whether float16 becomes float32 exactly, its smallest numbers included.
    pub halves: bool,
}

pub(crate) fn probe(gpu: &Arc<Gpu>, shape: &Shape, direct: bool) -> Result<Found, WgpuError> {
    /// Every float16 below the smallest normal number is tried.
    const TRIED: u32 = 1024;
    let pipelines = Pipelines::new(Arc::clone(gpu), shape.clone(), None, direct)?;
    let mut recorder = Recorder::new(Arc::clone(gpu), pipelines)?;
    let found = View::all(gpu.storage("probe", u64::from(TRIED * 4))?);
    recorder.dispatch(Kernel::Probe, &[0u32], &[&found], [TRIED / Kernel::Probe.workgroup(), 1, 1])?;
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&recorder.read(&[(&found.buffer, 0, found.size)])?);
    let all = |bit: u32| words.iter().all(|word| word & bit != 0);
    Ok(Found { neighbours: all(1), halves: all(2) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn part(buffer: u32, start: u64, end: u64, writes: bool) -> Use {
        Use { buffer, start, end, writes }
    }

    #[test]
    fn barriers_come_where_order_matters() {
        let mut hazards = Hazards::default();
        assert!(!hazards.add(&[part(0, 0, 64, false), part(1, 0, 64, true)]), "the first has nothing to wait for");
        assert!(!hazards.add(&[part(0, 0, 64, false), part(2, 0, 64, true)]), "two may read the same");
        assert!(!hazards.add(&[part(1, 64, 128, true)]), "another part of a buffer");
        assert!(hazards.add(&[part(1, 32, 96, false)]), "reads what was written");
        assert!(!hazards.add(&[part(2, 0, 64, false)]), "that was before the barrier");
        assert!(hazards.add(&[part(1, 95, 96, true)]), "writes what is read");
        assert!(hazards.add(&[part(1, 0, 256, true)]), "writes what is written");
        hazards.clear();
        assert!(!hazards.add(&[part(1, 0, 256, true)]), "there was a barrier");
    }
}
