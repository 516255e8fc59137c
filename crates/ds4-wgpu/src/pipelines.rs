//! Kernels, compiled: each once, several at a time, and kept on disk for the next start where the driver lets them be kept.

use std::collections::HashMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline,
    ComputePipelineDescriptor, PipelineCompilationOptions, PipelineLayoutDescriptor, ShaderModuleDescriptor,
    ShaderRuntimeChecks, ShaderSource, ShaderStages,
};

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::pipeline_file::PipelineFile;
use crate::shader::{self, Kernel, Shape};

/// A compiled kernel.
pub(crate) struct Pipeline {
    pub pipeline: ComputePipeline,
    pub layout: BindGroupLayout,
    pub bindings: Vec<shader::Binding>,
}

/// A kernel that is compiled by whoever needs it first; others wait.
type Place = Arc<OnceLock<Result<Arc<Pipeline>, WgpuError>>>;

/// All kernels that were needed so far.
pub(crate) struct Pipelines {
    gpu: Arc<Gpu>,
    shape: Shape,
    places: Mutex<HashMap<Kernel, Place>>,
    file: Option<PipelineFile>,
    /// Whether there are some that the file may not have.
    unsaved: AtomicBool,
}

impl Pipelines {
    /// None yet. `folder`: where the driver's results are kept.
    pub fn new(gpu: Arc<Gpu>, shape: Shape, folder: Option<&Path>) -> Self {
        let file = folder.and_then(|folder| PipelineFile::open(&gpu, folder));
        Self { gpu, shape, places: Mutex::default(), file, unsaved: AtomicBool::new(false) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A kernel, which is compiled if it is not yet.
    pub fn get(&self, kernel: Kernel) -> Result<Arc<Pipeline>, WgpuError> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(kernel).or_default())
        };
        place.get_or_init(|| self.compile(kernel).map(Arc::new)).clone()
    }

    /// Compiles these on as many threads as there are processors, and keeps them on disk.
    pub fn compile_all(&self, kernels: &[Kernel]) -> Result<(), WgpuError> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(kernels.len());
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(&kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.get(kernel) {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            break;
                        }
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        self.save();
        Ok(())
    }

    fn save(&self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.unsaved.swap(false, Ordering::Relaxed)) {
            file.save();
        }
    }

    fn compile(&self, kernel: Kernel) -> Result<Pipeline, WgpuError> {
        let text = shader::source(kernel, &self.shape);
        let bindings = shader::bindings(&text);
        let label = shader::label(kernel);
        let device = &self.gpu.device;
        // Counters that end endless loops would keep compilers from unrolling; guards of indices and divisions cost as much as what
        // they guard.
        let descriptor = ShaderModuleDescriptor { label: Some(&label), source: ShaderSource::Wgsl(text.into()) };
        // SAFETY: the kernels are this crate's own. Every loop counts to a bound with a step that is not 0; divisors are constants
        // or dimensions of the model, none of which may be 0. Indices follow from those dimensions, for which buffers are made,
        // and from positions, slots and page numbers of the host; tokens and experts by token were checked against their ranges.
        let module = unsafe { device.create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked()) };
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
            // Kernels write workgroup memory before they read it.
            compilation_options: PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.file.as_ref().map(PipelineFile::cache),
        });
        self.gpu.check()?;
        self.unsaved.store(true, Ordering::Relaxed);
        Ok(Pipeline { pipeline, layout, bindings })
    }
}

impl Drop for Pipelines {
    /// Keeps what was compiled on the way.
    fn drop(&mut self) {
        self.save();
    }
}
