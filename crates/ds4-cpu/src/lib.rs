//! The CPU backend: kernels and memory.

pub mod kernels;
pub mod pool;
