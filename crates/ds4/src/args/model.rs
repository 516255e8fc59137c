//! Which model to run, and on what.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ds4_cpu::kernels::Isa;
use ds4_model::{Compute, KvPrecision};

use super::number::whole;

/// The model file.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// The model, a GGUF file [default: the built-in demo model]
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// What to compute with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Computation")]
pub struct BackendArgs {
    /// What to compute on
    #[arg(long, value_enum, default_value_t = BackendKind::Auto)]
    pub backend: BackendKind,

    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole::<u16>(1..=1024))]
    pub threads: Option<u16>,

    /// Leave the CPU threads to the system; else each is bound to its core if there is one for every core
    #[arg(long)]
    pub cpu_free: bool,

    /// CPU instruction set: scalar, avx2, avx512, amx, neon or i8mm [default: the best one this processor has]
    #[arg(long, value_name = "SET")]
    pub cpu_features: Option<Isa>,

    /// How matrices are multiplied: int8 rounds activations (fast), f32 does not
    #[arg(long, value_name = "int8|f32", default_value_t = Compute::default())]
    pub compute: Compute,

    /// How cached rows are kept: model rounds them as in training (small), exact keeps float32
    #[arg(long, value_name = "model|exact", default_value_t = KvPrecision::default())]
    pub kv_precision: KvPrecision,
}

/// The backends of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// An NVIDIA card if the model fits into its memory, else the processor; always that for the demo model
    Auto,
    /// The processor
    Cpu,
    /// An NVIDIA graphics card
    Cuda,
    /// The graphics card, through whatever leads to it: Metal on a Mac, Vulkan elsewhere
    Wgpu,
    /// The graphics card, through Metal
    Metal,
    /// The graphics card, through Vulkan
    Vulkan,
    /// Plain and slow, to compare others with
    Reference,
}
