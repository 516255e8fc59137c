//! The CPU backend: kernels and memory.

pub mod backend;
pub mod bandwidth;
pub mod kernels;
pub mod pool;
pub mod processors;

pub use backend::{CpuBackend, CpuOptions, Placement};
