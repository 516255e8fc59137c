//! The arithmetic of the CPU backend: matrix products over stored weights, and vector functions.
//!
//! **The rule**: a result depends on its operands only, bit for bit, never on the instruction set,
//! the number of threads, how many rows are computed together or how the work was cut. Decoding one
//! row and prefilling 512 therefore agree exactly, and a server's answers do not change under load.
//! Two orders of summation make it so:
//!
//! - *Integer products* ([`matmul_i8`]): activations are quantized to int8 in groups of 32
//!   ([`QuantizedRows`]); one f32 accumulator per (output, row) takes the groups in order,
//!   `acc = fma(I as f32, weight scale * activation scale, acc)`, where `I` is the exact integer sum of
//!   the group. Formats with minima (Q2_K, Q4_K) add `acc = fma(M as f32, -(min scale * activation
//!   scale), acc)` with a second exact integer sum `M`.
//! - *Float products* ([`matmul_f32`]) and float sums: sixteen accumulators, number `l` taking elements
//!   `l, l + 16, ...` in order by fused multiply-add, then added in a fixed tree (distance 8, 4, 2, 1).
//!   A length that is no multiple of 16 is continued with zeros.
//!
//! [`Isa::SCALAR`] is the readable definition; the other sets are tested to give equal bits.

mod activation;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod direct;
mod float_micro;
mod format;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod gemv;
mod int_micro;
mod isa;
pub mod math;
mod matmul_f32;
mod matmul_i8;
mod matrix;
mod out;
mod panel;
mod prefetch;
mod tile;

pub use activation::QuantizedRows;
pub(crate) use aligned::AlignedVec;
pub use isa::{Isa, IsaError};
pub use matmul_f32::{matmul_f32, matmul_f32_in};
pub use matmul_i8::{matmul_i8, matmul_i8_in};
pub use matrix::{Matrix, MatrixError, Rows};
pub use out::{OutCols, SharedOut};

#[cfg(target_endian = "big")]
compile_error!("weights are stored little endian and are read in place; big-endian machines are not supported");
