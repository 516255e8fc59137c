//! Products of stored weights with f32 activations.

use super::aligned::AlignedVec;
use super::float_micro::{self, Float, LANES, Lanes, W_ROWS, X_ROWS};
use super::isa::Isa;
use super::matmul_i8::split;
use super::matrix::{Matrix, Rows};
use super::out::OutCols;
use super::prefetch::prefetch;
use crate::pool::Pool;
use ds4_gguf::{TensorType, quant};
use std::cell::RefCell;
use std::ops::Range;

/// Inputs per chunk: its weights, decoded, and a few rows of its activations stay in the L1 cache.
const CHUNK: usize = 512;
/// Activations, in numbers, that one pass over the weights works on: they stay in the L2 cache.
const PANEL: usize = 192 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        weights: AlignedVec::new(),
        panel: Panel { data: AlignedVec::new(), cols: 0 },
        sums: Vec::new(),
    });
}

/// Each thread's memory, kept so that it is allocated once.
struct Scratch {
    /// A chunk of decoded weight rows.
    weights: AlignedVec<f32>,
    /// Rearranged activations.
    panel: Panel,
    /// The accumulators of a panel's rows.
    sums: Vec<[Lanes; W_ROWS]>,
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
    // Whole groups of rows, as the inner loop takes them.
    let panel_rows = (PANEL / cols).next_multiple_of(X_ROWS);
    SCRATCH.with_borrow_mut(|Scratch { weights, panel, sums }| {
        for begin in (0..n).step_by(panel_rows) {
            let part = begin..n.min(begin + panel_rows);
            let x = match as_they_are(x, cols, rows, part.clone()) {
                Some(x) => Inputs::AsTheyAre(x),
                None => {
                    panel.fill(x, cols, rows, part.clone());
                    Inputs::Panel(panel)
                }
            };
            for first in out_rows.clone().step_by(W_ROWS) {
                let used = (out_rows.end - first).min(W_ROWS);
                sums.clear();
                sums.resize(part.len(), [[0.0; LANES]; W_ROWS]);
                for chunk in (0..cols).step_by(CHUNK) {
                    let chunk = chunk..cols.min(chunk + CHUNK);
                    let next = first + used..out_rows.end.min(first + used + W_ROWS);
                    next.for_each(|row| prefetch_elements(w, row, &chunk));
                    let (ty, weights) = as_floats(isa, w, first..first + used, &chunk, part.len(), weights);
                    for (group, sums) in sums.chunks_mut(X_ROWS).enumerate() {
                        let x = x.rows(group, &chunk);
                        float_micro::accumulate(isa, ty, &weights[..used], &x[..sums.len()], sums);
                    }
                }
                let at = first - out_rows.start;
                for (i, sums) in part.clone().zip(&*sums) {
                    let y = &mut y.row_mut(rows.get(i).1)[at..at + used];
                    let sums = float_micro::finish(isa, sums);
                    match y.first_chunk_mut() {
                        Some(y) => *y = sums,
                        None => y.copy_from_slice(&sums[..used]),
                    }
                }
            }
        }
    });
}

/// Asks for elements `chunk` of a row: they lie in memory in the order of their use, but in pieces too short for the
/// processor to notice.
fn prefetch_elements(w: &Matrix<'_>, row: usize, chunk: &Range<usize>) {
    let bytes = &w.row(row)[bytes_of(w.ty(), chunk)];
    prefetch(bytes.as_ptr(), bytes.len());
}

/// Where the elements `chunk` of a row lie.
fn bytes_of(ty: TensorType, chunk: &Range<usize>) -> Range<usize> {
    let to = |col: usize| col / ty.block_len() * ty.block_bytes();
    to(chunk.start)..to(chunk.end)
}

/// Activation rows that lie in the order of their use already: side by side, a chunk each, so that a copy would be the same.
fn as_they_are<'a>(x: &'a [f32], cols: usize, rows: Rows<'_>, part: Range<usize>) -> Option<&'a [[f32; CHUNK]]> {
    let first = match rows {
        Rows::All => 0,
        Rows::Range { first, .. } => first,
        Rows::Map { .. } => return None,
    };
    (cols == CHUNK).then(|| &x.as_chunks().0[first + part.start..][..part.len()])
}

/// Where the inner loop finds activation rows.
enum Inputs<'a> {
    AsTheyAre(&'a [[f32; CHUNK]]),
    Panel(&'a Panel),
}

impl Inputs<'_> {
    /// The elements `chunk` of the rows of a group; in places beyond the last row something as long.
    fn rows(&self, group: usize, chunk: &Range<usize>) -> [&[f32]; X_ROWS] {
        match self {
            Inputs::AsTheyAre(x) => std::array::from_fn(|r| &x[(group * X_ROWS + r).min(x.len() - 1)][chunk.clone()]),
            Inputs::Panel(panel) => panel.rows(group, chunk),
        }
    }
}

/// Activation rows in the order of their use: groups of rows, chunk by chunk, the rows of a chunk one after the other. Where they
/// come from, rows begin at any address, and often a multiple of 4096 bytes apart, so that they would compete for the
/// same few lines of the L1 cache.
struct Panel {
    data: AlignedVec<f32>,
    cols: usize,
}

impl Panel {
    /// Replaces the contents by results `part` of `rows`. `x`: `[n, cols]`.
    fn fill(&mut self, x: &[f32], cols: usize, rows: Rows<'_>, part: Range<usize>) {
        self.cols = cols;
        self.data.resize(part.len().next_multiple_of(X_ROWS) * Self::stride(cols));
        for i in 0..part.len() {
            let row = &x[rows.get(part.start + i).0 * cols..][..cols];
            for (c, piece) in row.chunks(CHUNK).enumerate() {
                let at = self.start(i / X_ROWS, c * CHUNK) + i % X_ROWS * Self::width(cols, c * CHUNK);
                self.data.as_mut_slice()[at..][..piece.len()].copy_from_slice(piece);
            }
        }
    }

    /// The elements `chunk` of the rows of a group.
    fn rows(&self, group: usize, chunk: &Range<usize>) -> [&[f32]; X_ROWS] {
        let (start, width) = (self.start(group, chunk.start), Self::width(self.cols, chunk.start));
        std::array::from_fn(|r| &self.data.as_slice()[start + r * width..][..chunk.len()])
    }

    /// Room for a row.
    fn stride(cols: usize) -> usize {
        cols.next_multiple_of(LANES)
    }

    /// Room for a row's chunk that begins at `col`.
    fn width(cols: usize, col: usize) -> usize {
        (Self::stride(cols) - col).min(CHUNK)
    }

    /// Where a group's chunk that begins at `col` lies.
    fn start(&self, group: usize, col: usize) -> usize {
        (group * Self::stride(self.cols) + col) * X_ROWS
    }
}

/// The elements `chunk` of the weight rows `rows` as plain floats: where they are if they are, and few or no conversions
/// are saved, else decoded to f32 into `scratch`. Rows beyond the last repeat it.
fn as_floats<'a>(
    isa: Isa,
    w: &Matrix<'a>,
    rows: Range<usize>,
    chunk: &Range<usize>,
    n: usize,
    scratch: &'a mut AlignedVec<f32>,
) -> (Float, [&'a [u8]; W_ROWS]) {
    let ty = w.ty();
    let used = rows.len();
    let bytes = bytes_of(ty, chunk);
    let stored = |i: usize| &w.row(rows.start + i.min(used - 1))[bytes.clone()];
    match ty {
        TensorType::F32 => return (Float::F32, std::array::from_fn(stored)),
        TensorType::F16 if n <= X_ROWS => return (Float::F16, std::array::from_fn(stored)),
        TensorType::BF16 if n <= X_ROWS => return (Float::BF16, std::array::from_fn(stored)),
        _ => {}
    }
    // One more line per row: rows a multiple of 4096 bytes apart would compete for the same few lines of the cache.
    let stride = CHUNK + 16;
    scratch.resize(W_ROWS * stride);
    for (i, decoded) in scratch.as_mut_slice().chunks_exact_mut(stride).take(used).enumerate() {
        decode(isa, ty, stored(i), &mut decoded[..chunk.len()]);
    }
    let scratch = &*scratch;
    let row = |i: usize| bytemuck::cast_slice(&scratch.as_slice()[i.min(used - 1) * stride..][..chunk.len()]);
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
