//! Functions of vectors: sums, norms, activations, softmax, and decoding of small number formats.
//!
//! Every function is written once in portable Rust and compiled per instruction set; see the rule on
//! bits in [the parent module](super). Sums use sixteen accumulators and the fixed tree.

mod convert;
mod exp;
mod sum;
mod vector;

pub(crate) use convert::f16_bits_to_f32;
pub use convert::{bf16_to_f32, decode_fp4, decode_fp8, f16_to_f32};
pub use exp::{exp, exp_sum, sigmoid, silu, softplus, swiglu};
pub(crate) use sum::add_lanes;
pub use sum::{dot, max, rms_factor, rms_norm, sum, sum_of_squares};
pub use vector::{add, axpy, merge_streams, mul, scale, weighted_sum};
