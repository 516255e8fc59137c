//! Products of stored weights with f32 activations.

use super::aligned::AlignedVec;
use super::isa::{Isa, per_isa};
use super::matmul_i8::split;
use super::matrix::{Matrix, Rows};
use super::out::OutCols;
use crate::pool::Pool;
use ds4_gguf::{TensorType, quant};
use std::cell::RefCell;
use std::ops::Range;

/// Weight rows that are decoded and multiplied side by side.
const WEIGHT_ROWS: usize = 4;
/// Activation rows that are multiplied side by side.
const X_ROWS: usize = 4;
/// Accumulators of one sum.
const LANES: usize = 16;

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
    WEIGHTS.with_borrow_mut(|weights| {
        weights.resize(WEIGHT_ROWS * cols);
        for first in out_rows.clone().step_by(WEIGHT_ROWS) {
            let used = (out_rows.end - first).min(WEIGHT_ROWS);
            let at = first - out_rows.start;
            for (i, decoded) in weights.as_mut_slice().chunks_exact_mut(cols).enumerate().take(used) {
                decode(isa, w.ty(), w.row(first + i), decoded);
            }
            let weights: [&[f32]; WEIGHT_ROWS] =
                std::array::from_fn(|i| &weights.as_slice()[i.min(used - 1) * cols..][..cols]);
            for begin in (0..n).step_by(X_ROWS) {
                let count = (n - begin).min(X_ROWS);
                let x: [&[f32]; X_ROWS] =
                    std::array::from_fn(|i| &x[rows.get(begin + i.min(count - 1)).0 * cols..][..cols]);
                let mut out = [[0.0; WEIGHT_ROWS]; X_ROWS];
                if count == 1 {
                    multiply_one(isa, &weights, x[0], &mut out[0]);
                } else {
                    multiply(isa, &weights, &x, &mut out);
                }
                for (i, out) in out[..count].iter().enumerate() {
                    y.row_mut(rows.get(begin + i).1)[at..at + used].copy_from_slice(&out[..used]);
                }
            }
        }
    });
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

per_isa! {
    /// `out[r][o]` = `w[o]` times `x[r]`; all slices have one length.
    fn multiply(w: &[&[f32]; WEIGHT_ROWS], x: &[&[f32]; X_ROWS], out: &mut [[f32; WEIGHT_ROWS]; X_ROWS])
        = multiply_body::<X_ROWS>
}

#[inline(always)]
fn multiply_body<const N: usize>(w: &[&[f32]; WEIGHT_ROWS], x: &[&[f32]; N], out: &mut [[f32; WEIGHT_ROWS]; N]) {
    let cols = w[0].len();
    let mut acc = [[[0.0f32; LANES]; WEIGHT_ROWS]; N];
    let mut begin = 0;
    while begin < cols {
        let len = (cols - begin).min(LANES);
        let mut ws = [[0.0f32; LANES]; WEIGHT_ROWS];
        for (ws, w) in ws.iter_mut().zip(w) {
            load(&w[begin..begin + len], ws);
        }
        for (acc, x) in acc.iter_mut().zip(x) {
            let mut xs = [0.0f32; LANES];
            load(&x[begin..begin + len], &mut xs);
            for (acc, ws) in acc.iter_mut().zip(&ws) {
                for l in 0..LANES {
                    acc[l] = ws[l].mul_add(xs[l], acc[l]);
                }
            }
        }
        begin += LANES;
    }
    for (acc, out) in acc.iter().zip(out) {
        for (acc, out) in acc.iter().zip(out) {
            *out = super::math::add_lanes(*acc);
        }
    }
}

/// Copies up to sixteen values; the rest of `to` stays.
#[inline(always)]
fn load(from: &[f32], to: &mut [f32; LANES]) {
    if let Ok(from) = <&[f32; LANES]>::try_from(from) {
        *to = *from;
    } else {
        to[..from.len()].copy_from_slice(from);
    }
}

per_isa! {
    /// `out[o]` = `w[o]` times `x`.
    fn multiply_one(w: &[&[f32]; WEIGHT_ROWS], x: &[f32], out: &mut [f32; WEIGHT_ROWS]) = multiply_one_body
}

#[inline(always)]
fn multiply_one_body(w: &[&[f32]; WEIGHT_ROWS], x: &[f32], out: &mut [f32; WEIGHT_ROWS]) {
    multiply_body::<1>(w, &[x], std::array::from_mut(out));
}
