//! The CPU backend: kernels and memory.

pub mod backend;
pub mod bandwidth;
pub mod kernels;
pub mod pool;
pub mod processors;
mod tasks;

pub use backend::{CpuBackend, CpuOptions, Placement};
