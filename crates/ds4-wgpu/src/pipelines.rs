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

use crate::direct::{self, Direct};
use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::pipeline_file::PipelineFile;
use crate::shader::{self, Kernel, Shape};

/// A compiled kernel.
pub(crate) struct Pipeline {
    pub made: Made,
    pub bindings: Vec<shader::Binding>,
}

/// By whom it is recorded.
pub(crate) enum Made {
    /// By wgpu.
    Checked {
        /// The kernel.
        pipeline: ComputePipeline,
        /// What its buffers are bound with.
        layout: BindGroupLayout,
    },
    /// By [`Direct`], which knows it under this number.
    Direct(usize),
}

/// A kernel that is compiled by whoever needs it first; others wait.
type Place = Arc<OnceLock<Result<Arc<Pipeline>, WgpuError>>>;

/// All kernels that were needed so far.
pub(crate) struct Pipelines {
    gpu: Arc<Gpu>,
    shape: Shape,
    places: Mutex<HashMap<Kernel, Place>>,
    direct: Option<Box<dyn Direct>>,
    file: Option<PipelineFile>,
    /// Whether there are some that the file may not have.
    unsaved: AtomicBool,
}

impl Pipelines {
    /// None yet. `direct`: they are recorded without wgpu's bookkeeping; then `folder` is where the driver's results are kept.
    pub fn new(gpu: Arc<Gpu>, shape: Shape, folder: Option<&Path>, direct: bool) -> Result<Self, WgpuError> {
        let (file, kept) = match folder.filter(|_| direct) {
            Some(folder) => {
                let (file, kept) = PipelineFile::open(&gpu, folder);
                (Some(file), kept)
            }
            None => (None, None),
        };
        // SAFETY: the file's mark says that this program wrote the data, the checksum that they are as they were written. The file is in
        // the user's own cache folder.
        let direct = if direct { Some(unsafe { direct::open(&gpu, kept.as_deref())? }) } else { None };
        Ok(Self { gpu, shape, places: Mutex::default(), direct, file, unsaved: AtomicBool::new(false) })
    }

    /// What records them, if it is not wgpu.
    pub fn direct(&self) -> Option<&dyn Direct> {
        self.direct.as_deref()
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
        if let (Some(file), Some(direct)) = (&self.file, &self.direct)
            && self.unsaved.swap(false, Ordering::Relaxed)
            && let Some(data) = direct.compiled()
        {
            file.save(&data);
        }
    }

    fn compile(&self, kernel: Kernel) -> Result<Pipeline, WgpuError> {
        let text = shader::source(kernel, &self.shape);
        let bindings = shader::bindings(&text);
        let label = shader::label(kernel);
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
        let made = match &self.direct {
            Some(direct) => Made::Direct(direct.compile(&label, &text, &entries)?),
            None => self.compile_checked(&label, text, &entries),
        };
        self.gpu.check()?;
        self.unsaved.store(true, Ordering::Relaxed);
        Ok(Pipeline { made, bindings })
    }

    fn compile_checked(&self, label: &str, text: String, entries: &[BindGroupLayoutEntry]) -> Made {
        let device = &self.gpu.device;
        let label = Some(label);
        // Counters that end endless loops would keep compilers from unrolling; guards of indices and divisions cost as much as what
        // they guard.
        let descriptor = ShaderModuleDescriptor { label, source: ShaderSource::Wgsl(text.into()) };
        // SAFETY: the kernels are this crate's own. Every loop counts to a bound with a step that is not 0; divisors are constants
        // or dimensions of the model, none of which may be 0. Indices follow from those dimensions, for which buffers are made,
        // and from positions, slots and page numbers of the host; tokens and experts by token were checked against their ranges.
        let module = unsafe { device.create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked()) };
        let layout = device.create_bind_group_layout(&BindGroupLayoutDescriptor { label, entries });
        let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            // Kernels write workgroup memory before they read it.
            compilation_options: PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Made::Checked { pipeline, layout }
    }
}

impl Drop for Pipelines {
    /// Keeps what was compiled on the way.
    fn drop(&mut self) {
        self.save();
    }
}
