//! Products of stored weights with f32 activations.

use super::aligned::AlignedVec;
use super::float_micro::{self, Float, W_ROWS, X_ROWS};
use super::isa::Isa;
use super::matmul_i8::split;
use super::matrix::{Matrix, Rows};
use super::out::OutCols;
use crate::pool::Pool;
use ds4_gguf::{TensorType, quant};
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Each thread's decoded weight rows, kept so that their memory is allocated once.
    static WEIGHTS: RefCell<AlignedVec<f32>> = RefCell::new(AlignedVec::new());
}

/// Output rows `out_rows` of `w` times the activation rows chosen by `rows`:
/// `y[output row][i]` = row `out_rows.start + i` of `w` times the activation row.
///
/// - `w`: `[rows, cols]` of any weight type; block formats are decoded to f32 first
/// - `x`: `[n, cols]` f32, row-major
/// - `y`: `out_rows.len()` columns
///
/// To divide a product among tasks, cut `out_rows` anywhere (multiples of 16 are fastest) and give each task
/// the matching columns. The result does not depend on the cut.
///
/// # Panics
/// Shapes do not fit.
pub fn matmul_f32(isa: Isa, w: &Matrix<'_>, out_rows: Range<usize>, x: &[f32], rows: Rows<'_>, y: &mut OutCols<'_>) {
    let cols = w.cols();
    assert!(x.len().is_multiple_of(cols), "{} activations in rows of {cols}", x.len());
    assert!(out_rows.start <= out_rows.end && out_rows.end <= w.rows(), "{out_rows:?} of {} rows", w.rows());
    assert_eq!(out_rows.len(), y.cols(), "weight rows and output columns differ in number");
    let n = rows.check(x.len() / cols, y.rows());
    if n == 0 {
        return;
    }
    WEIGHTS.with_borrow_mut(|scratch| {
        for first in out_rows.clone().step_by(W_ROWS) {
            let used = (out_rows.end - first).min(W_ROWS);
            let at = first - out_rows.start;
            let stored: [&[u8]; W_ROWS] = std::array::from_fn(|i| w.row(first + i.min(used - 1)));
            let (ty, weights) = as_floats(isa, w, stored, used, n, scratch);
            for begin in (0..n).step_by(X_ROWS) {
                let count = (n - begin).min(X_ROWS);
                let x: [&[f32]; X_ROWS] =
                    std::array::from_fn(|i| &x[rows.get(begin + i.min(count - 1)).0 * cols..][..cols]);
                let mut out = [[0.0; W_ROWS]; X_ROWS];
                float_micro::multiply(isa, ty, &weights[..used], &x[..count], &mut out[..count]);
                for (i, out) in out[..count].iter().enumerate() {
                    y.row_mut(rows.get(begin + i).1)[at..at + used].copy_from_slice(&out[..used]);
                }
            }
        }
    });
}

/// The first `used` of the rows `stored` as plain floats: where they are if they are, and few or no conversions are
/// saved, else decoded to f32 into `scratch`.
fn as_floats<'a>(
    isa: Isa,
    w: &Matrix<'_>,
    stored: [&'a [u8]; W_ROWS],
    used: usize,
    n: usize,
    scratch: &'a mut AlignedVec<f32>,
) -> (Float, [&'a [u8]; W_ROWS]) {
    match w.ty() {
        TensorType::F32 => return (Float::F32, stored),
        TensorType::F16 if n <= X_ROWS => return (Float::F16, stored),
        TensorType::BF16 if n <= X_ROWS => return (Float::BF16, stored),
        _ => {}
    }
    // One more line per row: rows a multiple of 4096 bytes apart would compete for the same few lines of the cache.
    let stride = w.cols() + 16;
    scratch.resize(used * stride);
    for (row, decoded) in stored.iter().zip(scratch.as_mut_slice().chunks_exact_mut(stride)) {
        decode(isa, w.ty(), row, &mut decoded[..w.cols()]);
    }
    let scratch = &*scratch;
    let row = |i: usize| bytemuck::cast_slice(&scratch.as_slice()[i.min(used - 1) * stride..][..w.cols()]);
    (Float::F32, std::array::from_fn(row))
}

/// All of `w` times the chosen rows of `x`, divided among the pool's threads; `y` is `[rows, ld]` with
/// results in its first `w.rows()` columns.
///
/// # Panics
/// As [`matmul_f32`]; also from inside a pool task.
pub fn matmul_f32_in(pool: &Pool, isa: Isa, w: &Matrix<'_>, x: &[f32], rows: Rows<'_>, y: &mut [f32], ld: usize) {
    split(pool, w.rows(), y, ld, |out_rows, y| matmul_f32(isa, w, out_rows, x, rows, y));
}

/// Decodes one row of weights.
fn decode(isa: Isa, ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        TensorType::F16 => super::math::f16_to_f32(isa, bytes, out),
        TensorType::BF16 => super::math::bf16_to_f32(isa, bytes, out),
        _ => quant::dequantize_row(ty, bytes, out),
    }
}
