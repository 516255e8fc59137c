//! Recording straight into the driver's command buffers.
//!
//! wgpu follows every buffer of every dispatch to find out where a barrier is needed, checks sizes, and keeps everything alive: some
//! microseconds of the processor for each kernel, of which a token has 700. Here `wgpu::hal`, the layer below, is given pipelines,
//! bind groups, dispatches and copies, and barriers where the [`Recorder`](crate::recorder::Recorder) found that one is needed.
//! Buffers, uploads, submission, waiting and failures stay with wgpu. What it does not see must not matter to it:
//!
//! - It orders its own uploads only. Every piece of commands begins and ends with a barrier for all memory, so that uploads before and
//!   after it are ordered, too.
//! - It would fill a buffer with zeros before its first use. [`Gpu::create`](crate::gpu::Gpu::create) does that at once.
//! - It would keep alive what commands use. The recorder does, and waits before it lets go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu::hal::{self, CommandEncoder as _, Device as _};
use wgpu::{
    BindGroupLayoutEntry, Buffer, BufferSize, CommandEncoder, PollType, QuerySetDescriptor, QueryType,
    ShaderRuntimeChecks, naga,
};

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::recorder::View;

/// What is recorded.
pub(crate) enum Command {
    /// A kernel.
    Dispatch {
        /// Number that [`Direct::compile`] gave.
        pipeline: usize,
        /// Number that [`Direct::group`] gave.
        group: usize,
        /// Byte offset of its parameters.
        parameters: u32,
        /// Workgroups.
        grid: [u32; 3],
        /// Whether it needs what commands since the last barrier do.
        waits: bool,
        /// Time stamps around it and what follows until the next such kernel: the number of the first of two.
        stamps: Option<u32>,
    },
    /// A copy of bytes between two buffers, each with an offset.
    Copy { from: (Buffer, u64), to: (Buffer, u64), bytes: u64, waits: bool },
    /// The first time stamps go to a buffer.
    Stamps { count: u32, to: Buffer },
}

impl Command {
    /// Whether it is what keeps its buffers alive. Those of kernels belong to their groups.
    pub fn keeps_buffers(&self) -> bool {
        !matches!(self, Self::Dispatch { .. })
    }
}

/// What records for one interface.
pub(crate) trait Direct: Send + Sync {
    /// Compiles a kernel; its number. `entries`: its bindings.
    fn compile(&self, label: &str, text: &str, entries: &[BindGroupLayoutEntry]) -> Result<usize, WgpuError>;

    /// Binds buffers for a kernel, in the order of its bindings; the group's number.
    fn group(&self, pipeline: usize, views: &[(u32, &View)]) -> Result<usize, WgpuError>;

    /// Drops all groups, which nothing that still runs may use.
    fn drop_groups(&self);

    /// Makes room for so many time stamps.
    fn make_stamps(&self, count: u32) -> Result<(), WgpuError>;

    /// Records commands. Buffers, pipelines and groups must stay until the card is done with them.
    fn record(&self, encoder: &mut CommandEncoder, commands: &[Command]) -> Result<(), WgpuError>;

    /// What the driver made of the kernels, for the next start.
    fn compiled(&self) -> Option<Vec<u8>>;
}

/// An interface that commands are recorded for.
pub(crate) trait Interface: hal::Api {
    /// Whatever follows sees all that was written before.
    ///
    /// # Safety
    /// The encoder must be recording, outside of render passes.
    unsafe fn barrier(device: &Self::Device, encoder: &mut Self::CommandEncoder);
}

#[cfg(not(target_vendor = "apple"))]
impl Interface for hal::api::Vulkan {
    unsafe fn barrier(device: &Self::Device, encoder: &mut Self::CommandEncoder) {
        use ash::vk::{AccessFlags, DependencyFlags, MemoryBarrier, PipelineStageFlags};
        let stages = PipelineStageFlags::COMPUTE_SHADER | PipelineStageFlags::TRANSFER;
        let written = AccessFlags::SHADER_WRITE | AccessFlags::TRANSFER_WRITE;
        let read = AccessFlags::SHADER_READ | AccessFlags::UNIFORM_READ | AccessFlags::TRANSFER_READ;
        let barriers = [MemoryBarrier::default().src_access_mask(written).dst_access_mask(read | written)];
        // SAFETY: the command buffer is recording, as the caller promises; queues for kernels have both stages.
        unsafe {
            let commands = encoder.raw_handle();
            let flags = DependencyFlags::empty();
            device.raw_device().cmd_pipeline_barrier(commands, stages, stages, flags, &barriers, &[], &[]);
        }
    }
}

#[cfg(target_vendor = "apple")]
impl Interface for hal::api::Metal {
    /// Metal orders commands by the buffers that they use.
    unsafe fn barrier(_device: &Self::Device, _encoder: &mut Self::CommandEncoder) {}
}

/// What records for the card's interface. `kept`: what [`Direct::compiled`] said at an earlier start, of the same card and driver.
///
/// # Safety
/// `kept` must be unchanged.
pub(crate) unsafe fn open(gpu: &Arc<Gpu>, kept: Option<&[u8]>) -> Result<Box<dyn Direct>, WgpuError> {
    #[cfg(not(target_vendor = "apple"))]
    type Here = hal::api::Vulkan;
    #[cfg(target_vendor = "apple")]
    type Here = hal::api::Metal;
    // SAFETY: as the caller promises.
    unsafe { Ok(Box::new(Hal::<Here>::new(gpu, kept)?)) }
}

struct Compiled<A: hal::Api> {
    pipeline: A::ComputePipeline,
    layout: A::PipelineLayout,
    group: A::BindGroupLayout,
}

/// The recorder for the interface `A`.
struct Hal<A: hal::Api> {
    gpu: Arc<Gpu>,
    pipelines: Mutex<Vec<Compiled<A>>>,
    groups: Mutex<Vec<A::BindGroup>>,
    stamps: Mutex<Option<A::QuerySet>>,
    cache: Option<A::PipelineCache>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: Interface> Hal<A> {
    /// # Safety
    /// `kept` must be what the driver gave.
    unsafe fn new(gpu: &Arc<Gpu>, kept: Option<&[u8]>) -> Result<Self, WgpuError> {
        let mut this = Self {
            gpu: Arc::clone(gpu),
            pipelines: Mutex::default(),
            groups: Mutex::default(),
            stamps: Mutex::default(),
            cache: None,
        };
        if gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            let make = |data| {
                let descriptor = hal::PipelineCacheDescriptor { label: None, data };
                // SAFETY: the feature is on, and the data are the driver's, as the caller promises.
                this.with_device(|device| unsafe { device.create_pipeline_cache(&descriptor) })
            };
            let made = make(kept)?.or_else(|_| make(None).and_then(|made| made.map_err(|error| this.failed(error))));
            this.cache = made.ok();
        }
        Ok(this)
    }

    fn failed(&self, why: impl std::fmt::Display) -> WgpuError {
        WgpuError::Failed { adapter: self.gpu.report.name.clone(), why: why.to_string() }
    }

    fn with_device<R>(&self, run: impl FnOnce(&A::Device) -> R) -> Result<R, WgpuError> {
        // SAFETY: nobody here destroys the device, or gives it what is not its own.
        match unsafe { self.gpu.device.as_hal::<A>() } {
            Some(device) => Ok(run(&device)),
            None => Err(self.failed("the card's interface is another one")),
        }
    }

    /// The buffer as the interface has it. It stays where it is as long as there is a handle of wgpu's, because nobody here calls
    /// `destroy`; the guard that wgpu gives must not be held together with another.
    fn raw(&self, buffer: &Buffer) -> Result<*const A::Buffer, WgpuError> {
        // SAFETY: it is not destroyed here.
        let guard = unsafe { buffer.as_hal::<A>() };
        guard.map(|buffer| &raw const *buffer).ok_or_else(|| self.failed("a buffer is gone"))
    }
}

impl<A: Interface> Direct for Hal<A> {
    fn compile(&self, label: &str, text: &str, entries: &[BindGroupLayoutEntry]) -> Result<usize, WgpuError> {
        let invalid = |why: String| self.failed(format!("kernel {label}: {why}"));
        let module = naga::front::wgsl::parse_str(text).map_err(|error| invalid(error.emit_to_string(text)))?;
        let capabilities = naga::valid::Capabilities::SUBGROUP | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
            .validate(&module)
            .map_err(|error| invalid(error.emit_to_string(text)))?;
        let shader = hal::NagaShader { module: std::borrow::Cow::Owned(module), info, debug_source: None };
        // SAFETY: everything is of this device, entries are sorted and match the text's, which has the entry "main", and each thing is
        // destroyed once: here if a later step fails, or with `self`. That the kernel stays within its bindings without being
        // watched is what `Pipelines` says of all of them.
        let compiled = self.with_device(|device| unsafe {
            let failed = |error: hal::DeviceError| self.failed(error);
            let group = device
                .create_bind_group_layout(&hal::BindGroupLayoutDescriptor {
                    label: None,
                    flags: hal::BindGroupLayoutFlags::empty(),
                    entries,
                })
                .map_err(failed)?;
            let layout = device.create_pipeline_layout(&hal::PipelineLayoutDescriptor {
                label: None,
                flags: hal::PipelineLayoutFlags::empty(),
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            let layout = match layout {
                Ok(layout) => layout,
                Err(error) => {
                    device.destroy_bind_group_layout(group);
                    return Err(failed(error));
                }
            };
            let descriptor =
                hal::ShaderModuleDescriptor { label: None, runtime_checks: ShaderRuntimeChecks::unchecked() };
            let pipeline = device
                .create_shader_module(&descriptor, hal::ShaderInput::Naga(shader))
                .map_err(|error| invalid(error.to_string()))
                .and_then(|module| {
                    let made = device.create_compute_pipeline(&hal::ComputePipelineDescriptor {
                        label: Some(label),
                        layout: &layout,
                        stage: hal::ProgrammableStage {
                            module: &module,
                            entry_point: "main",
                            constants: &Default::default(),
                            // Kernels write workgroup memory before they read it.
                            zero_initialize_workgroup_memory: false,
                        },
                        cache: self.cache.as_ref(),
                    });
                    device.destroy_shader_module(module);
                    made.map_err(|error| invalid(error.to_string()))
                });
            match pipeline {
                Ok(pipeline) => Ok(Compiled { pipeline, layout, group }),
                Err(error) => {
                    device.destroy_pipeline_layout(layout);
                    device.destroy_bind_group_layout(group);
                    Err(error)
                }
            }
        })??;
        let mut pipelines = lock(&self.pipelines);
        pipelines.push(compiled);
        Ok(pipelines.len() - 1)
    }

    fn group(&self, pipeline: usize, views: &[(u32, &View)]) -> Result<usize, WgpuError> {
        let raw: Vec<_> = views.iter().map(|(_, view)| self.raw(&view.buffer)).collect::<Result<_, _>>()?;
        let buffers: Vec<_> = raw
            .into_iter()
            .zip(views)
            // SAFETY: the buffers are alive, since the views hold them. Views lie in their buffers.
            .map(|(raw, (_, view))| unsafe {
                hal::BufferBinding::new_unchecked(&*raw, view.offset, BufferSize::new(view.size))
            })
            .collect();
        let entries: Vec<_> = (0..)
            .zip(views)
            .map(|(resource_index, &(binding, _))| hal::BindGroupEntry { binding, resource_index, count: 1 })
            .collect();
        let pipelines = lock(&self.pipelines);
        // SAFETY: entries are those of the layout, sorted like it, with one buffer each.
        let group = self.with_device(|device| unsafe {
            device.create_bind_group(&hal::BindGroupDescriptor {
                label: None,
                layout: &pipelines[pipeline].group,
                buffers: &buffers,
                samplers: &[],
                textures: &[],
                entries: &entries,
                acceleration_structures: &[],
                external_textures: &[],
            })
        })?;
        let group = group.map_err(|error| self.failed(error))?;
        let mut groups = lock(&self.groups);
        groups.push(group);
        Ok(groups.len() - 1)
    }

    fn drop_groups(&self) {
        let groups = std::mem::take(&mut *lock(&self.groups));
        // SAFETY: nothing that runs uses them, as the caller promises, and their numbers are not used again.
        let _ =
            self.with_device(|device| unsafe { groups.into_iter().for_each(|group| device.destroy_bind_group(group)) });
    }

    fn make_stamps(&self, count: u32) -> Result<(), WgpuError> {
        let mut stamps = lock(&self.stamps);
        if stamps.is_none() {
            let descriptor = QuerySetDescriptor { label: None, ty: QueryType::Timestamp, count };
            // SAFETY: the caller has seen that the device has time stamps.
            let made = self.with_device(|device| unsafe { device.create_query_set(&descriptor) })?;
            *stamps = Some(made.map_err(|error| self.failed(error))?);
        }
        Ok(())
    }

    fn record(&self, encoder: &mut CommandEncoder, commands: &[Command]) -> Result<(), WgpuError> {
        // Where buffers lie is found out first: while the encoder is open, wgpu need not be asked for anything.
        let mut buffers = Vec::new();
        for command in commands {
            match command {
                Command::Dispatch { .. } => {}
                Command::Copy { from, to, .. } => buffers.extend([self.raw(&from.0)?, self.raw(&to.0)?]),
                Command::Stamps { to, .. } => buffers.push(self.raw(to)?),
            }
        }
        // SAFETY: they are alive, since the commands hold them.
        let mut buffers = buffers.into_iter().map(|buffer| unsafe { &*buffer });
        let mut next = move || buffers.next().expect("one was put there for every command");
        let (pipelines, groups, stamp_set) = (lock(&self.pipelines), lock(&self.groups), lock(&self.stamps));
        self.with_device(|device| {
            let record = |raw: Option<&mut A::CommandEncoder>| {
                let raw = raw.ok_or_else(|| self.failed("nothing can be recorded"))?;
                let mut open = false;
                let mut bound = None;
                // SAFETY: the encoder is wgpu's, open, and left without a pass. Pipelines and groups are of this device and belong together;
                // the recorder made sure that copies stay within buffers. Every dispatch that needs another's results has a barrier between
                // them.
                unsafe {
                    A::barrier(device, raw);
                    for command in commands {
                        match command {
                            Command::Dispatch { pipeline, group, parameters, grid, waits, stamps } => {
                                let stamped = stamps.and_then(|first| Some((first, stamp_set.as_ref()?)));
                                if open && stamped.is_some() {
                                    raw.end_compute_pass();
                                    open = false;
                                }
                                if *waits {
                                    A::barrier(device, raw);
                                }
                                if !open {
                                    let writes = stamped.map(|(first, set)| {
                                        raw.reset_queries(set, first..first + 2);
                                        hal::PassTimestampWrites {
                                            query_set: set,
                                            beginning_of_pass_write_index: Some(first),
                                            end_of_pass_write_index: Some(first + 1),
                                        }
                                    });
                                    raw.begin_compute_pass(&hal::ComputePassDescriptor {
                                        label: None,
                                        timestamp_writes: writes,
                                    });
                                    (open, bound) = (true, None);
                                }
                                let compiled = &pipelines[*pipeline];
                                if bound != Some(*pipeline) {
                                    raw.set_compute_pipeline(&compiled.pipeline);
                                    bound = Some(*pipeline);
                                }
                                raw.set_bind_group(&compiled.layout, 0, &groups[*group], &[*parameters]);
                                raw.dispatch_workgroups(*grid);
                            }
                            Command::Copy { from, to, bytes, waits } => {
                                if std::mem::take(&mut open) {
                                    raw.end_compute_pass();
                                }
                                if *waits {
                                    A::barrier(device, raw);
                                }
                                let (source, target) = (next(), next());
                                let copy = BufferSize::new(*bytes).map(|size| hal::BufferCopy {
                                    src_offset: from.1,
                                    dst_offset: to.1,
                                    size,
                                });
                                raw.copy_buffer_to_buffer(source, target, copy.into_iter());
                            }
                            Command::Stamps { count, to: _ } => {
                                if std::mem::take(&mut open) {
                                    raw.end_compute_pass();
                                }
                                let target = next();
                                if let Some(set) = stamp_set.as_ref() {
                                    let each = BufferSize::new(8).expect("is not 0");
                                    raw.copy_query_results(set, 0..*count, target, 0, each);
                                }
                                A::barrier(device, raw);
                            }
                        }
                    }
                    if open {
                        raw.end_compute_pass();
                    }
                    A::barrier(device, raw);
                }
                Ok(())
            };
            // SAFETY: as above.
            unsafe { encoder.as_hal_mut::<A, _, _>(record) }
        })?
    }

    fn compiled(&self) -> Option<Vec<u8>> {
        let cache = self.cache.as_ref()?;
        // SAFETY: it was made by this device.
        self.with_device(|device| unsafe { device.pipeline_cache_get_data(cache) }).ok()?
    }
}

impl<A: hal::Api> Drop for Hal<A> {
    fn drop(&mut self) {
        // A card that is lost does not use anything any more.
        let _ = self.gpu.device.poll(PollType::Wait { submission_index: None, timeout: None });
        let take = |mutex: &Mutex<Vec<_>>| std::mem::take(&mut *lock(mutex));
        let groups = std::mem::take(&mut *lock(&self.groups));
        // SAFETY: everything is of this device, the card is done with it, and it is destroyed once.
        unsafe {
            let Some(device) = self.gpu.device.as_hal::<A>() else { return };
            groups.into_iter().for_each(|group| device.destroy_bind_group(group));
            for compiled in take(&self.pipelines) {
                let Compiled { pipeline, layout, group } = compiled;
                device.destroy_compute_pipeline(pipeline);
                device.destroy_pipeline_layout(layout);
                device.destroy_bind_group_layout(group);
            }
            if let Some(stamps) = lock(&self.stamps).take() {
                device.destroy_query_set(stamps);
            }
            if let Some(cache) = self.cache.take() {
                device.destroy_pipeline_cache(cache);
            }
        }
    }
}
