//! Products of stored weights with int8 activations.

use super::activation::{GROUP, QuantizedRows};
#[cfg(target_arch = "x86_64")]
use super::direct;
use super::format;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::gemv;
use super::int_micro::{Loop, Sums, TILES};
use super::isa::Isa;
use super::matrix::{Matrix, Rows};
use super::out::{OutCols, SharedOut};
use super::panel::{Panel, WORDS};
use super::prefetch::prefetch;
use super::tile::{ROWS, Tile};
use crate::pool::Pool;
use std::cell::RefCell;
use std::ops::Range;

/// Inputs per chunk: a whole number of blocks of every format. A chunk's tiles (16 KiB of codes and 2 to 6 KiB of scales) and
/// a block of activations (up to 4 KiB) stay in the L1 cache.
const CHUNK: usize = 512;
/// Bytes of activations that one pass over the weights works on: they stay in the L2 cache.
const PANEL: usize = 512 * 1024;
/// The same for processors with AMX, whose L2 caches have 2 MiB.
const LARGE_PANEL: usize = 2 * PANEL;
/// Pairs of tiles whose results are kept until they are written. Rows of results are far apart, often by a power of two, and seldom in the
/// caches: one or two lines of each at a time would take the memory several times as long as a kilobyte does.
const PAIRS: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        tiles: std::array::from_fn(|_| Tile::new()),
        panel: Panel::default(),
        sums: Vec::new(),
    });
}

/// Each thread's memory, kept so that it is allocated once.
struct Scratch {
    /// Decoded weights.
    tiles: [Tile; TILES],
    /// Rearranged activations.
    panel: Panel,
    /// The accumulators of the panel's rows, pair of tiles after pair.
    sums: Vec<Sums>,
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
    if direct::multiply(isa, w, out_rows.clone(), x, (rows, n), y) {
        return;
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if gemv::multiply(isa, w, out_rows.clone(), x, (rows, n), y) {
        return;
    }
    let inner = Loop::new(isa, w.ty(), n);
    let bytes = if inner.uses_tiles() { LARGE_PANEL } else { PANEL };
    let panel_rows = (bytes / (w.cols() / GROUP * WORDS * 4)).next_multiple_of(inner.layout().most);
    SCRATCH.with_borrow_mut(|Scratch { tiles, panel, sums }| {
        for begin in (0..n).step_by(panel_rows) {
            let part = begin..n.min(begin + panel_rows);
            panel.fill(x, rows, part.clone(), inner.layout(), w.ty());
            for kept in out_rows.clone().step_by(PAIRS * TILES * ROWS) {
                let kept = kept..out_rows.end.min(kept + PAIRS * TILES * ROWS);
                sums.clear();
                sums.resize(kept.len().div_ceil(TILES * ROWS) * part.len(), [[0.0; ROWS]; TILES]);
                for (first, sums) in kept.clone().step_by(TILES * ROWS).zip(sums.chunks_exact_mut(part.len())) {
                    let end = out_rows.end.min(first + TILES * ROWS);
                    for chunk in (0..w.cols()).step_by(CHUNK) {
                        let chunk = chunk..w.cols().min(chunk + CHUNK);
                        let mut ahead = Ahead::new(w, end..out_rows.end.min(end + TILES * ROWS), &chunk);
                        let tiles = decode((isa, &inner), w, first..end, &chunk, tiles, &mut ahead);
                        for (rows, block) in panel.blocks(chunk.start / GROUP..chunk.end / GROUP) {
                            ahead.ask();
                            inner.multiply(tiles, block, &mut sums[rows]);
                        }
                        ahead.ask_all();
                    }
                }
                let columns = kept.start - out_rows.start..kept.end - out_rows.start;
                for (r, i) in part.clone().enumerate() {
                    let y = &mut y.row_mut(rows.get(i).1)[columns.clone()];
                    let sums = sums.iter().skip(r).step_by(part.len()).flatten();
                    for (y, sums) in y.chunks_mut(ROWS).zip(sums) {
                        match y.first_chunk_mut() {
                            Some(y) => *y = *sums,
                            None => y.copy_from_slice(&sums[..y.len()]),
                        }
                    }
                }
            }
        }
    });
}

/// Weights that will be needed next, the same inputs of the next rows. They lie in memory in this order, but in pieces too short for
/// the processor to notice. They are asked for a few rows at a time: all at once would hold everything else up until the first are
/// there, and leave the memory idle later.
struct Ahead<'a> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    bytes: Range<usize>,
}

impl<'a> Ahead<'a> {
    /// Rows that one call asks for.
    const PIECE: usize = 8;

    fn new(w: &'a Matrix<'a>, rows: Range<usize>, chunk: &Range<usize>) -> Self {
        Self { w, rows, bytes: bytes_of(w, chunk) }
    }

    fn ask(&mut self) {
        for row in self.rows.by_ref().take(Self::PIECE) {
            let bytes = &self.w.row(row)[self.bytes.clone()];
            prefetch(bytes.as_ptr(), bytes.len());
        }
    }

    fn ask_all(mut self) {
        while !self.rows.is_empty() {
            self.ask();
        }
    }
}

/// Where the inputs `chunk` of a row lie.
fn bytes_of(w: &Matrix<'_>, chunk: &Range<usize>) -> Range<usize> {
    let byte = |col: usize| col / w.ty().block_len() * w.ty().block_bytes();
    byte(chunk.start)..byte(chunk.end)
}

/// Decodes the inputs `chunk` of at most 32 weight rows for a loop.
fn decode<'a>(
    (isa, inner): (Isa, &Loop),
    w: &Matrix<'_>,
    rows: Range<usize>,
    chunk: &Range<usize>,
    tiles: &'a mut [Tile; TILES],
    ahead: &mut Ahead<'_>,
) -> &'a mut [Tile] {
    let bytes = bytes_of(w, chunk);
    let tiles = &mut tiles[..rows.len().div_ceil(ROWS)];
    for (tile, first) in tiles.iter_mut().zip(rows.clone().step_by(ROWS)) {
        ahead.ask();
        tile.load(isa, w.ty(), chunk.len(), &w.sixteen_rows(first, rows.end, bytes.clone()), inner.uses_tiles());
    }
    inner.prepare(tiles);
    tiles
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
