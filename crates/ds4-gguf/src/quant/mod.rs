//! Block formats: layout, decoding, encoding and integer dot product of each, one file per format.
//!
//! # Canonical arithmetic
//!
//! The integer path of every backend produces the bits that [`dot`] produces. Activations are
//! quantized per group of 32 ([`activation`]). The dot product of a weight row and an activation
//! row goes through the groups `g` in order with one `f32` accumulator:
//!
//! ```text
//! acc = fma(I_g as f32, sw_g * dx_g, acc)
//! acc = fma(M_g as f32, -(mw_g * dx_g), acc)      Q2_K and Q4_K only
//! ```
//!
//! `I_g` and `M_g` are exact integers, `dx_g` is the activation scale, `sw_g` and `mw_g` are the
//! weight scales that each format's file gives. No reordering of the integer sums can change a bit.

pub mod activation;
mod affine_search;
mod float;
pub mod iq2_xxs;
pub mod iq2_xxs_grid;
mod iq2_xxs_search;
pub mod mxfp4;
pub mod q2_k;
pub mod q4_k;
pub mod q8_0;

use crate::TensorType;
use activation::ActivationRow;
use iq2_xxs::Iq2Xxs;
use mxfp4::Mxfp4;
use q2_k::Q2K;
use q4_k::Q4K;
use q8_0::Q8_0;

/// One block format.
pub trait BlockFormat {
    /// The type that this implements.
    const TYPE: TensorType;
    /// Elements per block.
    const LEN: usize = Self::TYPE.block_len();
    /// Bytes per block.
    const BYTES: usize = Self::TYPE.block_bytes();

    /// Decodes one block. `block`: `BYTES` bytes; `out`: `LEN` elements.
    fn dequantize(block: &[u8], out: &mut [f32]);

    /// Encodes one block so that `sum w (x - y)^2` is small.
    /// `x`: `LEN` finite elements; `w`: their positive weights; `block`: `BYTES` bytes, all written.
    fn quantize(x: &[f32], w: &[f32], block: &mut [u8]);

    /// Adds the groups of one block to the accumulator, by the canonical arithmetic.
    /// `x` holds the block's `LEN` activations.
    fn dot(block: &[u8], x: ActivationRow<'_>, acc: f32) -> f32;

    /// Finds what no encoder writes: scales that are not finite.
    ///
    /// # Errors
    /// A description of the defect.
    fn check(block: &[u8]) -> Result<(), &'static str>;
}

/// Calls `$function::<Format>($args)` for a block format; evaluates `$otherwise` for plain types.
macro_rules! for_format {
    ($ty:expr, $function:ident($($arg:expr),*), $otherwise:expr) => {
        match $ty {
            TensorType::Q8_0 => $function::<Q8_0>($($arg),*),
            TensorType::Q2_K => $function::<Q2K>($($arg),*),
            TensorType::Q4_K => $function::<Q4K>($($arg),*),
            TensorType::IQ2_XXS => $function::<Iq2Xxs>($($arg),*),
            TensorType::MXFP4 => $function::<Mxfp4>($($arg),*),
            TensorType::F32 | TensorType::F16 | TensorType::I32 | TensorType::BF16 => $otherwise,
        }
    };
}

/// Decodes whole rows (or any whole number of blocks) to `f32`.
///
/// I32 elements are converted, which is exact up to 2^24.
///
/// # Panics
/// If `bytes` is not the storage of exactly `out.len()` elements.
pub fn dequantize_row(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    check_lengths(ty, bytes.len(), out.len());
    for_format!(ty, dequantize_blocks(bytes, out), float::dequantize(ty, bytes, out));
}

fn dequantize_blocks<F: BlockFormat>(bytes: &[u8], out: &mut [f32]) {
    for (block, y) in bytes.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::LEN)) {
        F::dequantize(block, y);
    }
}

/// Encodes whole rows (or any whole number of blocks).
///
/// `importance` weighs the squared error of each element: for a matrix, the mean square of the
/// activation that the column is multiplied by, repeated for each row of `x`. Negative and
/// non-finite weights count as zero, a block without positive weights as one without importance.
/// Q8_0 and the plain types do not use it. I32 elements are rounded and saturate.
///
/// # Errors
/// [`NotFinite`] if an element is a NaN or an infinity; what `out` then holds is unspecified.
///
/// # Panics
/// If `out` is not the storage of exactly `x.len()` elements, or `importance` is not as long as `x`.
pub fn quantize_row(ty: TensorType, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<(), NotFinite> {
    check_lengths(ty, out.len(), x.len());
    assert!(importance.is_none_or(|importance| importance.len() == x.len()), "one weight of importance per element");
    if let Some(index) = x.iter().position(|x| !x.is_finite()) {
        return Err(NotFinite { index });
    }
    for_format!(ty, quantize_blocks(x, importance, out), float::quantize(ty, x, out));
    Ok(())
}

fn quantize_blocks<F: BlockFormat>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    // Long enough for every format.
    let mut weights = [1.0; 256];
    let weights = &mut weights[..F::LEN];
    let blocks = x.chunks_exact(F::LEN).zip(out.chunks_exact_mut(F::BYTES));
    for (i, (x, block)) in blocks.enumerate() {
        if let Some(importance) = importance {
            block_weights(&importance[i * F::LEN..][..F::LEN], weights);
        }
        F::quantize(x, weights, block);
    }
}

/// Weights relative to their mean. None is zero, so that an element that no calibration text
/// touched still gets a sensible code.
fn block_weights(importance: &[f32], weights: &mut [f32]) {
    let usable = |x: f32| if x.is_finite() && x > 0.0 { f64::from(x) } else { 0.0 };
    let mean = importance.iter().map(|&x| usable(x)).sum::<f64>() / importance.len() as f64;
    for (w, &x) in weights.iter_mut().zip(importance) {
        *w = if mean > 0.0 { (usable(x) / mean).max(1e-4) as f32 } else { 1.0 };
    }
}

/// An element that no format can encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("element {index} is infinite or not a number and cannot be quantized")]
pub struct NotFinite {
    /// Its position in the given row.
    pub index: usize,
}

/// Integer dot product of a weight row in a block format and a quantized activation row.
///
/// # Panics
/// If `ty` is a plain number type, or if `row` is not the storage of exactly `x.len()` elements.
pub fn dot(ty: TensorType, row: &[u8], x: ActivationRow<'_>) -> f32 {
    check_lengths(ty, row.len(), x.len());
    for_format!(ty, dot_blocks(row, x), panic!("{ty} is not a block format and has no integer dot product"))
}

fn dot_blocks<F: BlockFormat>(row: &[u8], x: ActivationRow<'_>) -> f32 {
    let mut acc = 0.0;
    for (i, block) in row.chunks_exact(F::BYTES).enumerate() {
        acc = F::dot(block, x.slice(i * F::LEN, F::LEN), acc);
    }
    acc
}

/// A block (or, in the plain types, an element) that no encoder writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {index} of type {ty} {defect}", if ty.is_block_format() { "block" } else { "element" })]
pub struct BadBlock {
    /// The block's number, from 0; for plain types the element's number.
    pub index: usize,
    /// The storage type.
    pub ty: TensorType,
    /// What is wrong with it, as a predicate.
    pub defect: &'static str,
}

/// Looks through a tensor's bytes for infinities and NaNs, in scales or in plain floats.
/// Trailing bytes short of a block are not looked at.
///
/// # Errors
/// The first bad block.
pub fn validate(ty: TensorType, bytes: &[u8]) -> Result<(), BadBlock> {
    let found = for_format!(ty, find_bad_block(bytes), float::find_bad(ty, bytes));
    match found {
        None => Ok(()),
        Some((index, defect)) => Err(BadBlock { index, ty, defect }),
    }
}

fn find_bad_block<F: BlockFormat>(bytes: &[u8]) -> Option<(usize, &'static str)> {
    bytes.chunks_exact(F::BYTES).enumerate().find_map(|(i, block)| F::check(block).err().map(|defect| (i, defect)))
}

fn check_lengths(ty: TensorType, bytes: usize, elements: usize) {
    assert!(
        ty.row_bytes(elements) == Some(bytes),
        "{bytes} bytes are not the storage of {elements} elements of type {ty}"
    );
}

/// The half-precision number at `at`.
fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Sum of the products of codes and activations.
fn int_dot(codes: impl IntoIterator<Item = i32>, x: &[i8]) -> i32 {
    codes.into_iter().zip(x).map(|(c, &x)| c * i32::from(x)).sum()
}
