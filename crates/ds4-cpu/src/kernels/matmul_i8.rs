//! Products of stored weights with int8 activations.

use super::activation::{GROUP, QuantizedRow, QuantizedRows};
use super::format;
#[cfg(target_arch = "x86_64")]
use super::gemv;
use super::int_micro::{self, MAX_ROWS};
use super::isa::Isa;
use super::matrix::{Matrix, Rows};
use super::out::{OutCols, SharedOut};
use super::tile::{ROWS, Tile};
use crate::pool::Pool;
use std::cell::RefCell;
use std::ops::Range;

/// Inputs per chunk: a whole number of blocks of every format. A chunk's tile (16 KiB of codes and 2 to 6 KiB of scales)
/// and eight rows of activations stay in the L1 cache, its activations of 512 rows in the L2 cache.
const CHUNK: usize = 1024;

thread_local! {
    /// Each thread's decoded tile, kept so that its memory is allocated once.
    static TILE: RefCell<Tile> = RefCell::new(Tile::new());
}

/// Output rows `out_rows` of `w` times the activation rows chosen by `rows`:
/// `y[output row][i]` = row `out_rows.start + i` of `w` times the activation row.
///
/// - `w`: `[rows, cols]` of a block format (Q8_0, Q2_K, Q4_K, IQ2_XXS, MXFP4)
/// - `x`: `[n, cols]`
/// - `y`: `out_rows.len()` columns
///
/// To divide a product among tasks, cut `out_rows` at multiples of 16 and give each task the matching
/// columns. The result does not depend on the cut.
///
/// # Panics
/// Shapes do not fit, or `w` has no integer product.
pub fn matmul_i8(
    isa: Isa,
    w: &Matrix<'_>,
    out_rows: Range<usize>,
    x: &QuantizedRows,
    rows: Rows<'_>,
    y: &mut OutCols<'_>,
) {
    assert!(format::has_integer_product(w.ty()), "{} weights have no integer product", w.ty());
    assert!(out_rows.start <= out_rows.end && out_rows.end <= w.rows(), "{out_rows:?} of {} rows", w.rows());
    assert_eq!(out_rows.len(), y.cols(), "weight rows and output columns differ in number");
    let n = rows.check(x.rows(), y.rows());
    if n == 0 {
        return;
    }
    assert_eq!(w.cols(), x.cols(), "weights and activations differ in length");
    #[cfg(target_arch = "x86_64")]
    if n == 1 {
        let (from, to) = rows.get(0);
        if gemv::multiply(isa, w, out_rows.clone(), x.row(from), y.row_mut(to)) {
            return;
        }
    }
    TILE.with_borrow_mut(|tile| {
        let product = Product { isa, w, out_rows: out_rows.clone(), x, rows, n };
        // Few rows: finish one tile after the other, so that weights stream from memory in order. Many rows:
        // finish one chunk of inputs after the other, so that its activations stay in the cache.
        let block = if n <= MAX_ROWS { ROWS } else { out_rows.len().next_multiple_of(ROWS) };
        for block_first in out_rows.clone().step_by(block) {
            let block_end = (block_first + block).min(out_rows.end);
            for chunk in (0..w.cols()).step_by(CHUNK) {
                let chunk = chunk..(chunk + CHUNK).min(w.cols());
                for first in (block_first..block_end).step_by(ROWS) {
                    product.tile(tile, first, chunk.clone(), y);
                }
            }
        }
    });
}

/// The operands of one [`matmul_i8`].
struct Product<'a> {
    isa: Isa,
    w: &'a Matrix<'a>,
    out_rows: Range<usize>,
    x: &'a QuantizedRows,
    rows: Rows<'a>,
    n: usize,
}

impl Product<'_> {
    /// Adds the inputs `chunk` of weight rows `first..first + 16` to the results; those of the first chunk begin at 0.
    fn tile(&self, tile: &mut Tile, first: usize, chunk: Range<usize>, y: &mut OutCols<'_>) {
        let used = (self.out_rows.end - first).min(ROWS);
        let at = first - self.out_rows.start;
        let ty = self.w.ty();
        let bytes_to = |col: usize| col / ty.block_len() * ty.block_bytes();
        let weights =
            self.w.sixteen_rows(first, self.out_rows.end).map(|row| &row[bytes_to(chunk.start)..bytes_to(chunk.end)]);
        tile.load(self.isa, ty, chunk.len(), &weights);
        for begin in (0..self.n).step_by(MAX_ROWS) {
            let count = (self.n - begin).min(MAX_ROWS);
            let x: [QuantizedRow<'_>; MAX_ROWS] = std::array::from_fn(|i| {
                let row = self.x.row(self.rows.get(begin + i.min(count - 1)).0);
                row.slice(chunk.start / GROUP, chunk.len() / GROUP)
            });
            let mut acc = [[0.0; ROWS]; MAX_ROWS];
            if chunk.start > 0 {
                for (i, acc) in acc[..count].iter_mut().enumerate() {
                    acc[..used].copy_from_slice(&y.row_mut(self.rows.get(begin + i).1)[at..at + used]);
                }
            }
            int_micro::multiply(self.isa, tile, &x[..count], &mut acc[..count]);
            for (i, acc) in acc[..count].iter().enumerate() {
                y.row_mut(self.rows.get(begin + i).1)[at..at + used].copy_from_slice(&acc[..used]);
            }
        }
    }
}

/// All of `w` times the chosen rows of `x`, divided among the pool's threads; `y` is `[rows, ld]` with
/// results in its first `w.rows()` columns.
///
/// # Panics
/// As [`matmul_i8`]; also from inside a pool task.
pub fn matmul_i8_in(
    pool: &Pool,
    isa: Isa,
    w: &Matrix<'_>,
    x: &QuantizedRows,
    rows: Rows<'_>,
    y: &mut [f32],
    ld: usize,
) {
    split(pool, w.rows(), y, ld, |out_rows, y| matmul_i8(isa, w, out_rows, x, rows, y));
}

/// Runs `product(rows, columns)` over pieces of `0..n_out` on the pool's threads.
pub(crate) fn split(
    pool: &Pool,
    n_out: usize,
    y: &mut [f32],
    ld: usize,
    product: impl Fn(Range<usize>, &mut OutCols<'_>) + Sync,
) {
    let threads = pool.threads();
    // Several pieces per thread let a thread that was interrupted fall behind without holding up the rest.
    let pieces = if threads == 1 { 1 } else { threads * 4 };
    let piece = n_out.div_ceil(pieces).next_multiple_of(ROWS);
    let y = SharedOut::new(y, ld);
    pool.run(n_out.div_ceil(piece.max(1)), |task| {
        let out_rows = task * piece..((task + 1) * piece).min(n_out);
        // SAFETY: tasks have different numbers, hence disjoint column ranges.
        let mut y = unsafe { y.columns(out_rows.clone()) };
        product(out_rows, &mut y);
    });
}
