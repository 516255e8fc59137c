//! The choice of a backend, made at run time.

use std::sync::Arc;

use anyhow::Context;
use ds4_chat::tokenizer::Tokenizer;
use ds4_cpu::{CpuBackend, CpuOptions, Placement};
use ds4_cuda::{CudaBackend, CudaDevice, CudaOptions, Device, Residency};
use ds4_engine::{Engine, EngineError, EngineOptions};
use ds4_kvstore::KvStore;
use ds4_model::reference::ReferenceBackend;
use ds4_model::{Model, Numerics};
use ds4_wgpu::{Api, WgpuBackend, WgpuOptions};

use crate::args::{BackendArgs, BackendKind};
use crate::exit::UsageError;
use crate::kv_cache::user_cache_folder;
use crate::model_source::LoadedModel;
use crate::terminal::{self, Progress, Unit};

/// A backend of any kind; its users are generic over `ds4_model::Backend` and match here once.
pub enum AnyBackend {
    /// The processor.
    Cpu(Box<CpuBackend>),
    /// An NVIDIA card.
    Cuda(Box<CudaBackend>),
    /// A graphics card.
    Wgpu(Box<WgpuBackend>),
    /// The plain reference.
    Reference(Box<ReferenceBackend>),
}

impl AnyBackend {
    /// The backend that the arguments ask for.
    ///
    /// # Errors
    /// The device cannot be used.
    pub fn open(model: Arc<Model>, args: &BackendArgs) -> anyhow::Result<AnyBackend> {
        Self::open_with(model, args, false)
    }

    /// The same; `share_weights`: what is the same bytes of the file takes a card's memory once.
    ///
    /// # Errors
    /// The device cannot be used.
    pub fn open_with(model: Arc<Model>, args: &BackendArgs, share_weights: bool) -> anyhow::Result<AnyBackend> {
        let numerics = Numerics { compute: args.compute, kv: args.kv_precision };
        match args.backend {
            BackendKind::Cuda => open_cuda(model, CudaOptions { numerics, share_weights }),
            BackendKind::Auto if suits_cuda(&model, CudaOptions { numerics, share_weights }) => {
                open_cuda(model, CudaOptions { numerics, share_weights })
            }
            BackendKind::Auto | BackendKind::Cpu => {
                let placement = if args.cpu_free { Placement::Free } else { Placement::Cores };
                let threads = args.threads.map(usize::from);
                let options = CpuOptions { threads, placement, isa: args.cpu_features, numerics };
                let backend = CpuBackend::new(model, options).context("cannot start the CPU backend")?;
                Ok(AnyBackend::Cpu(Box::new(backend)))
            }
            BackendKind::Wgpu => open_card(model, Api::Any, numerics, share_weights),
            BackendKind::Metal => open_card(model, Api::Metal, numerics, share_weights),
            BackendKind::Vulkan => open_card(model, Api::Vulkan, numerics, share_weights),
            BackendKind::Reference => {
                Ok(AnyBackend::Reference(Box::new(ReferenceBackend::new(model, args.kv_precision))))
            }
        }
    }

    /// What it runs on, in words.
    pub fn device(&self) -> String {
        match self {
            AnyBackend::Cpu(backend) => format!("CPU, {} threads, {}", backend.threads(), backend.isa()),
            AnyBackend::Cuda(backend) => Device::name(&**backend.device()),
            AnyBackend::Wgpu(backend) => {
                let card = backend.adapter();
                format!("{} ({}, {})", card.name, card.api, card.driver)
            }
            AnyBackend::Reference(_) => "reference, 1 thread".to_owned(),
        }
    }

    /// Gives it to an engine, whose states are kept in memory, and in `store` if there is one.
    ///
    /// # Errors
    /// An option that is out of range, such as `--ctx` or `--kv-ram`.
    pub fn into_engine(
        self,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
        store: Option<&KvStore>,
    ) -> anyhow::Result<Engine> {
        let engine = match self {
            AnyBackend::Cpu(backend) => Engine::start_with_store(*backend, tokenizer, options, store),
            AnyBackend::Cuda(backend) => Engine::start_with_store(*backend, tokenizer, options, store),
            AnyBackend::Wgpu(backend) => Engine::start_with_store(*backend, tokenizer, options, store),
            AnyBackend::Reference(backend) => Engine::start_with_store(*backend, tokenizer, options, store),
        };
        engine.map_err(|error| match error {
            EngineError::Option { option: option @ ("ctx" | "kv_ram"), value, expected } => {
                let option = option.replace('_', "-");
                UsageError(format!("--{option} is {value}; it must be {expected}")).into()
            }
            error => error.into(),
        })
    }
}

/// Smallest file that is worth a card: below, starting one takes longer than what it saves.
const WORTH_A_CARD: u64 = 1 << 30;

/// Whether there is a card that the model fits into.
fn suits_cuda(model: &Model, options: CudaOptions) -> bool {
    model.gguf().file_len() >= WORTH_A_CARD
        && ds4_cuda::devices().is_ok_and(|devices| !devices.is_empty())
        && CudaDevice::open(0).and_then(|device| Residency::plan(model, device.memory()?, options)?.check()).is_ok()
}

fn open_cuda(model: Arc<Model>, options: CudaOptions) -> anyhow::Result<AnyBackend> {
    let device = CudaDevice::open(0)?;
    let plan = Residency::plan(&model, device.memory()?, options)?;
    let words = format!("ds4: {}: {plan}", device.name());
    terminal::tell(&terminal::printable(&words), |style, line| style.dim(line).into_owned());
    let progress = Progress::new("loading", model.gguf().file_len(), Unit::Bytes);
    let backend = CudaBackend::new(model, device, options, &mut |done| progress.set(done))?;
    Ok(AnyBackend::Cuda(Box::new(backend)))
}

fn open_card(model: Arc<Model>, api: Api, numerics: Numerics, share_weights: bool) -> anyhow::Result<AnyBackend> {
    let bytes: u64 = model.gguf().tensors().iter().map(|info| info.size).sum();
    let progress = Progress::new("loading", bytes, Unit::Bytes);
    // Of a small model there is nothing to plan.
    let mut planned = |plan: &ds4_wgpu::Residency| {
        if bytes >= WORTH_A_CARD {
            let words = format!("ds4: {}: {plan}", plan.adapter);
            terminal::tell(&terminal::printable(&words), |style, line| style.dim(line).into_owned());
        }
    };
    let mut report = |done| progress.set(done);
    let kernels = user_cache_folder().map(|folder| folder.join("ds4").join("wgpu"));
    let options = WgpuOptions {
        api,
        numerics,
        subgroups: true,
        halves: true,
        planes: true,
        direct: ds4_wgpu::DIRECT,
        share_weights,
        prepare: true,
        kernel_folder: kernels.as_deref(),
        planned: &mut planned,
        progress: &mut report,
    };
    let backend = WgpuBackend::new(model, options).context("cannot start the graphics card")?;
    Ok(AnyBackend::Wgpu(Box::new(backend)))
}

/// Starts an engine for `loaded` on the backend that the arguments ask for. Its states are kept in memory, and in `store` if there
/// is one.
///
/// # Errors
/// The device cannot be used, or `--ctx` or `--kv-ram` is out of range.
pub fn start_engine(
    loaded: &LoadedModel,
    args: &BackendArgs,
    options: EngineOptions,
    store: Option<&KvStore>,
) -> anyhow::Result<Engine> {
    AnyBackend::open(Arc::clone(&loaded.model), args)?.into_engine(Arc::clone(&loaded.tokenizer), options, store)
}
