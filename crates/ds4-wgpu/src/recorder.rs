//! Recording kernels and copies into command buffers, and moving bytes between host and card.
//!
//! Everything is recorded in order and submitted together: when results are read, when a batch is complete, or when there is too
//! much of it. Pipelines and bind groups are made once and found again by what they are made of, so that after the first token a
//! dispatch is a look-up and 256 bytes of parameters.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Pod;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry,
    BindingResource, BindingType, Buffer, BufferBinding, BufferBindingType, BufferSize, BufferUsages, CommandEncoder,
    ComputePass, ComputePipeline, ComputePipelineDescriptor, MapMode, PipelineLayoutDescriptor, ShaderModuleDescriptor,
    ShaderSource, ShaderStages,
};

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::shader::{self, Kernel, Shape};

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
const PARAMETERS: u64 = 256;
/// Dispatches of one submission at most.
const MOST_DISPATCHES: u64 = 4096;

struct Pipeline {
    pipeline: ComputePipeline,
    layout: BindGroupLayout,
    bindings: Vec<shader::Binding>,
}

/// Records what a card is to do.
pub(crate) struct Recorder {
    gpu: Arc<Gpu>,
    shape: Shape,
    pipelines: HashMap<Kernel, Arc<Pipeline>>,
    groups: HashMap<(Kernel, Vec<View>), BindGroup>,
    uniform: Buffer,
    parameters: Vec<u8>,
    /// The open pass comes before the encoder that it belongs to is finished.
    pass: Option<ComputePass<'static>>,
    encoder: Option<CommandEncoder>,
    staging: Option<Buffer>,
    nothing: View,
}

impl Recorder {
    pub fn new(gpu: Arc<Gpu>, shape: Shape) -> Result<Self, WgpuError> {
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let uniform = gpu.create("parameters", PARAMETERS * MOST_DISPATCHES, usage)?;
        let nothing = View::all(gpu.storage("nothing", 16)?);
        Ok(Self {
            gpu,
            shape,
            pipelines: HashMap::new(),
            groups: HashMap::new(),
            uniform,
            parameters: Vec::new(),
            pass: None,
            encoder: None,
            staging: None,
            nothing,
        })
    }

    /// A binding for what a kernel declares but does not use here.
    pub fn nothing(&self) -> View {
        self.nothing.clone()
    }

    /// Forgets bind groups: buffers were replaced, and the old ones should not be kept alive.
    pub fn forget(&mut self) {
        self.groups.clear();
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
        if self.parameters.len() as u64 >= PARAMETERS * MOST_DISPATCHES {
            self.submit()?;
        }
        let pipeline = self.pipeline(kernel)?;
        let key = (kernel, views.iter().map(|&view| view.clone()).collect::<Vec<_>>());
        let group = match self.groups.get(&key) {
            Some(group) => group.clone(),
            None => {
                let group = self.group(&pipeline, &key.1);
                self.groups.insert(key, group.clone());
                group
            }
        };
        let offset = self.parameters.len() as u32;
        let bytes = bytemuck::bytes_of(parameters);
        debug_assert!(bytes.len() as u64 <= PARAMETERS);
        self.parameters.extend_from_slice(bytes);
        self.parameters.resize(offset as usize + PARAMETERS as usize, 0);
        let pass = self.pass();
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[offset]);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        Ok(())
    }

    /// Records a copy.
    pub fn copy(&mut self, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) {
        self.pass = None;
        self.encoder().copy_buffer_to_buffer(from.0, from.1, to.0, to.1, bytes);
    }

    /// Hands everything recorded to the card.
    pub fn submit(&mut self) -> Result<(), WgpuError> {
        self.pass = None;
        if let Some(encoder) = self.encoder.take() {
            if !self.parameters.is_empty() {
                self.gpu.queue.write_buffer(&self.uniform, 0, &self.parameters);
                self.parameters.clear();
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

    fn pass(&mut self) -> &mut ComputePass<'static> {
        if self.pass.is_none() {
            let pass = self.encoder().begin_compute_pass(&Default::default()).forget_lifetime();
            self.pass = Some(pass);
        }
        self.pass.as_mut().expect("was just made")
    }

    fn group(&self, pipeline: &Pipeline, views: &[View]) -> BindGroup {
        let uniform = BufferBinding { buffer: &self.uniform, offset: 0, size: BufferSize::new(PARAMETERS) };
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

    fn pipeline(&mut self, kernel: Kernel) -> Result<Arc<Pipeline>, WgpuError> {
        if let Some(pipeline) = self.pipelines.get(&kernel) {
            return Ok(Arc::clone(pipeline));
        }
        let text = shader::source(kernel, &self.shape);
        let bindings = shader::bindings(&text);
        let label = shader::label(kernel);
        let device = &self.gpu.device;
        let module = device.create_shader_module(ShaderModuleDescriptor {
            label: Some(&label),
            source: ShaderSource::Wgsl(text.into()),
        });
        let entry = |number: u32, ty: BufferBindingType, dynamic: bool| BindGroupLayoutEntry {
            binding: number,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, BufferBindingType::Uniform, true)];
        entries.extend(
            bindings.iter().map(|binding| {
                entry(binding.number, BufferBindingType::Storage { read_only: !binding.writable }, false)
            }),
        );
        let layout =
            device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        self.gpu.check()?;
        let pipeline = Arc::new(Pipeline { pipeline, layout, bindings });
        self.pipelines.insert(kernel, Arc::clone(&pipeline));
        Ok(pipeline)
    }
}

/// Whether exchanges between neighbours work as the kernels assume; asked once for each card.
pub(crate) fn neighbours_exchange(gpu: &Arc<Gpu>, shape: &Shape) -> Result<bool, WgpuError> {
    let mut recorder = Recorder::new(Arc::clone(gpu), shape.clone())?;
    let wg = Kernel::Probe.workgroup();
    let found = View::all(gpu.storage("probe", u64::from(4 * wg * 4))?);
    recorder.dispatch(Kernel::Probe, &[0u32], &[&found], [4, 1, 1])?;
    let bytes = recorder.read(&[(&found.buffer, 0, found.size)])?;
    Ok(bytemuck::pod_collect_to_vec::<u8, u32>(&bytes).iter().all(|&right| right == 1))
}
